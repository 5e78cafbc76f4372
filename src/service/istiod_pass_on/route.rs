//! Which of istiod's addresses can be asked.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use crate::domain::{clock::BootInstant, upstream::CircuitBreaker};

/// How long after a call without an answer a connection alone says nothing.
const CALLS_AGAIN: Duration = Duration::from_secs(10);

/// So old is the last answer or connection when it is looked again whether somebody is there.
const QUIET_AFTER: Duration = Duration::from_secs(5);

/// The addresses and what is known of them.
pub(super) struct Route {
    names: Vec<String>,
    places: Mutex<Vec<Place>>,
}

#[derive(Default)]
struct Place {
    breaker: CircuitBreaker,
    has_answered: bool,
    /// When it was last known to be there.
    heard_at: Option<BootInstant>,
    /// When a call was last left without an answer.
    call_failed: Option<BootInstant>,
    /// Why it was not reached last.
    trouble: String,
}

impl Route {
    pub(super) fn new(addresses: &[String]) -> Self {
        Self {
            names: addresses.to_vec(),
            places: Mutex::new(addresses.iter().map(|_address| Place::default()).collect()),
        }
    }

    /// How many there are.
    pub(super) const fn len(&self) -> usize {
        self.names.len()
    }

    pub(super) fn name(&self, index: usize) -> &str {
        self.names.get(index).map_or("", String::as_str)
    }

    /// Whether this one may be asked now.
    pub(super) fn admit(&self, index: usize, now: BootInstant) -> bool {
        self.with(index, |place| place.breaker.admit(now)).unwrap_or(false)
    }

    /// There was an answer, whatever it said.
    pub(super) fn answered(&self, index: usize, now: BootInstant) {
        self.with(index, |place| {
            place.breaker.answered();
            (place.has_answered, place.heard_at, place.call_failed) = (true, Some(now), None);
        });
    }

    /// Somebody is there, who may still not answer calls: for that it is good only some time after one failed.
    pub(super) fn connected(&self, index: usize, now: BootInstant) {
        self.with(index, |place| {
            if place.call_failed.is_none_or(|at| now.since(at) >= CALLS_AGAIN) {
                place.breaker.answered();
                (place.has_answered, place.heard_at) = (true, Some(now));
            }
        });
    }

    /// A call had none.
    pub(super) fn call_failed(&self, index: usize, now: BootInstant, reason: String) {
        self.failed(index, now, reason);
        self.with(index, |place| place.call_failed = Some(now));
    }

    /// Nobody was there.
    pub(super) fn failed(&self, index: usize, now: BootInstant, reason: String) {
        self.with(index, |place| {
            place.breaker.failed(now);
            (place.trouble, place.call_failed) = (reason, None);
        });
    }

    /// The first one that has answered and is not left alone.
    pub(super) fn reachable(&self) -> Option<&str> {
        let places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let found = places.iter().position(|place| place.has_answered && !place.breaker.is_open());
        found.map(|index| self.name(index))
    }

    /// Whether none is known to be there, by an answer or a connection that is not old.
    pub(super) fn is_quiet(&self, now: BootInstant) -> bool {
        let places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let is_heard = |place: &Place| place.heard_at.is_some_and(|at| now.since(at) < QUIET_AFTER);
        !places.iter().any(|place| place.has_answered && !place.breaker.is_open() && is_heard(place))
    }

    /// What is wrong with this one.
    pub(super) fn trouble(&self, index: usize) -> String {
        let trouble = self.with(index, |place| place.trouble.clone()).unwrap_or_default();
        format!("{}: {trouble}", self.name(index))
    }

    fn with<R>(&self, index: usize, change: impl FnOnce(&mut Place) -> R) -> Option<R> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner).get_mut(index).map(change)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(seconds: u64) -> BootInstant {
        BootInstant::from_nanos(seconds * 1_000_000_000)
    }

    #[test]
    fn a_connection_heals_what_connections_broke_at_once_and_what_calls_broke_after_a_while() {
        let route = Route::new(&["istiod:15012".to_owned()]);
        (0..5).for_each(|_| route.failed(0, at(0), "connection refused".into()));
        assert!(route.reachable().is_none());
        route.connected(0, at(1));
        assert!(route.reachable().is_some());

        (0..5).for_each(|_| route.call_failed(0, at(2), "no answer".into()));
        (3..12).for_each(|second| route.connected(0, at(second)));
        assert!(route.reachable().is_none(), "it greets, and answers nothing");
        route.connected(0, at(12));
        assert!(route.reachable().is_some(), "somebody has to find out");
        (0..5).for_each(|_| route.call_failed(0, at(13), "no answer".into()));
        route.answered(0, at(14));
        (0..5).for_each(|_| route.failed(0, at(14), "connection refused".into()));
        route.connected(0, at(15));
        assert!(route.reachable().is_some(), "an answered call is as good as none that failed");
    }
}
