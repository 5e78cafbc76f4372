//! What is known of the istiod at one address.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use crate::{
    domain::{clock::BootInstant, upstream::CircuitBreaker},
    service::ports::{Istiod, IstiodAddress},
};

/// How long after a call without an answer a connection alone says nothing.
const CALLS_AGAIN: Duration = Duration::from_secs(10);

/// So old is the last answer or connection when it is looked again whether somebody is there.
const QUIET_AFTER: Duration = Duration::from_secs(5);

/// An address, and who is there.
pub(in crate::service::istiod_pass_on) struct KnownIstiod {
    address: IstiodAddress,
    way: Arc<dyn Istiod>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    breaker: CircuitBreaker,
    has_answered: bool,
    /// When it was last known to be there.
    heard_at: Option<BootInstant>,
    /// When a call was last left without an answer.
    call_failed: Option<BootInstant>,
    /// Why it was not reached last.
    trouble: String,
}

impl KnownIstiod {
    pub(super) fn new(address: IstiodAddress, way: Arc<dyn Istiod>) -> Self {
        Self { address, way, state: Mutex::default() }
    }

    /// As messages name it.
    pub(in crate::service::istiod_pass_on) fn name(&self) -> &str {
        &self.address.name
    }

    pub(in crate::service::istiod_pass_on) fn way(&self) -> &dyn Istiod {
        &*self.way
    }

    pub(super) fn is_at(&self, address: &IstiodAddress) -> bool {
        self.address == *address
    }

    /// Whether it could be asked now.
    pub(super) fn would_admit(&self, now: BootInstant) -> bool {
        self.with(|state| state.breaker.would_admit(now))
    }

    /// Whether it may be asked now, which it then is.
    pub(super) fn admit(&self, now: BootInstant) -> bool {
        self.with(|state| state.breaker.admit(now))
    }

    /// There was an answer, whatever it said.
    pub(in crate::service::istiod_pass_on) fn answered(&self, now: BootInstant) {
        self.with(|state| {
            state.breaker.answered();
            (state.has_answered, state.heard_at, state.call_failed) = (true, Some(now), None);
        });
    }

    /// Somebody is there, who may still not answer calls: for that it is good only some time after one failed.
    pub(in crate::service::istiod_pass_on) fn connected(&self, now: BootInstant) {
        self.with(|state| {
            if state.call_failed.is_none_or(|at| now.since(at) >= CALLS_AGAIN) {
                state.breaker.answered();
                (state.has_answered, state.heard_at) = (true, Some(now));
            }
        });
    }

    /// A call had none.
    pub(in crate::service::istiod_pass_on) fn call_failed(&self, now: BootInstant, reason: String) {
        self.failed(now, reason);
        self.with(|state| state.call_failed = Some(now));
    }

    /// Nobody was there.
    pub(in crate::service::istiod_pass_on) fn failed(&self, now: BootInstant, reason: String) {
        self.with(|state| {
            state.breaker.failed(now);
            (state.trouble, state.call_failed) = (reason, None);
        });
    }

    /// Whether it has answered and is not left alone.
    pub(super) fn is_well(&self) -> bool {
        self.with(|state| state.has_answered && !state.breaker.is_open())
    }

    /// Whether it is also known by something that is not old.
    pub(super) fn is_heard(&self, now: BootInstant) -> bool {
        self.is_well() && self.with(|state| state.heard_at.is_some_and(|at| now.since(at) < QUIET_AFTER))
    }

    /// What is wrong with it.
    pub(super) fn trouble(&self) -> String {
        self.with(|state| format!("{}: {}", self.name(), state.trouble))
    }

    fn with<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        domain::x509::TrustBundle,
        service::ports::{AskError, BoxFuture, PassedRequest},
    };

    struct Nobody;

    impl Istiod for Nobody {
        fn ask<'a>(
            &'a self,
            _roots: &'a TrustBundle,
            _request: &'a PassedRequest,
        ) -> BoxFuture<'a, Result<Vec<String>, AskError>> {
            Box::pin(async { Err(AskError::Unreachable("nobody".into())) })
        }

        fn reach<'a>(&'a self, _roots: &'a TrustBundle) -> BoxFuture<'a, Result<(), String>> {
            Box::pin(async { Err("nobody".into()) })
        }
    }

    const fn at(seconds: u64) -> BootInstant {
        BootInstant::from_nanos(seconds * 1_000_000_000)
    }

    #[test]
    fn a_connection_heals_what_connections_broke_at_once_and_what_calls_broke_after_a_while() {
        let text = "istiod:15012".to_owned();
        let address = IstiodAddress { name: text.clone(), address: text.clone(), server_name: text };
        let istiod = KnownIstiod::new(address, Arc::new(Nobody));
        (0..5).for_each(|_| istiod.failed(at(0), "connection refused".into()));
        assert!(!istiod.is_well());
        istiod.connected(at(1));
        assert!(istiod.is_well());

        (0..5).for_each(|_| istiod.call_failed(at(2), "no answer".into()));
        (3..12).for_each(|second| istiod.connected(at(second)));
        assert!(!istiod.is_well(), "it greets, and answers nothing");
        istiod.connected(at(12));
        assert!(istiod.is_well(), "somebody has to find out");
        (0..5).for_each(|_| istiod.call_failed(at(13), "no answer".into()));
        istiod.answered(at(14));
        (0..5).for_each(|_| istiod.failed(at(14), "connection refused".into()));
        istiod.connected(at(15));
        assert!(istiod.is_well(), "an answered call is as good as none that failed");
    }
}
