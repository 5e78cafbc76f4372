//! Which of istiod's addresses can be asked.

use std::sync::{Mutex, PoisonError};

use crate::domain::{clock::BootInstant, upstream::CircuitBreaker};

/// The addresses and what is known of them.
pub(super) struct Route {
    names: Vec<String>,
    places: Mutex<Vec<Place>>,
}

#[derive(Default)]
struct Place {
    breaker: CircuitBreaker,
    has_answered: bool,
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
    pub(super) fn answered(&self, index: usize) {
        self.with(index, |place| {
            place.breaker.answered();
            place.has_answered = true;
        });
    }

    /// There was none.
    pub(super) fn failed(&self, index: usize, now: BootInstant, reason: String) {
        self.with(index, |place| {
            place.breaker.failed(now);
            place.trouble = reason;
        });
    }

    /// The first one that has answered and is not left alone.
    pub(super) fn reachable(&self) -> Option<&str> {
        let places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let found = places.iter().position(|place| place.has_answered && !place.breaker.is_open());
        found.map(|index| self.name(index))
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
