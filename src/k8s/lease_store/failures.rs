//! Why a request for the Lease was not answered, said once for as long as it lasts.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tracing::{info, warn};

use crate::service::causes::and_causes;

/// Why nobody knows what came of a request.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The limit passed.
    #[error("the API server did not answer within {0:?}")]
    NoAnswer(Duration),
    /// It answered with an error, or could not be asked.
    #[error("{}", told(.0))]
    Refused(#[from] kube::Error),
    /// The object in the answer has no version.
    #[error("the API server's answer bears no resourceVersion")]
    NoVersion,
    /// The object to be written is not the one that was read last.
    #[error("the Lease is not known as it was read")]
    NotAsRead,
    /// Writes are conflicts again and again, though nobody has changed the object.
    #[error("the API server answers 409 Conflict to each write, though the Lease is as it was read")]
    Senseless,
    /// The answer bears the version that was there before.
    #[error("the write changed nothing in the Lease")]
    NothingChanged,
}

fn told(error: &kube::Error) -> String {
    if let kube::Error::Api(status) = error {
        return format!("the API server answers {} {}: {}", status.code, status.reason, status.message);
    }
    and_causes(format!("the API server could not be asked: {error}"), error)
}

/// The reasons since the last answer.
#[derive(Debug, Default)]
pub(super) struct Failures(Mutex<Reasons>);

#[derive(Debug, Default)]
struct Reasons {
    said: BTreeSet<Arc<str>>,
    current: Option<Arc<str>>,
}

/// More reasons than these in one outage are not said.
const SAID: usize = 8;

impl Failures {
    /// Takes note of a request's outcome.
    pub(super) fn note(&self, lease: &str, failure: Option<&Failure>) {
        let mut reasons = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(failure) = failure else {
            if reasons.current.take().is_some() {
                info!(event = "lease_reachable", lease);
            }
            reasons.said.clear();
            return;
        };
        let reason: Arc<str> = failure.to_string().into();
        if reasons.said.len() < SAID && reasons.said.insert(Arc::clone(&reason)) {
            warn!(event = "lease_request_failed", lease, reason = &*reason);
        }
        reasons.current = Some(reason);
    }

    /// Why the last request failed, if it did.
    pub(super) fn current(&self) -> Option<Arc<str>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).current.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_current_reason_is_the_last_one_until_there_is_an_answer() {
        let failures = Failures::default();
        assert_eq!(failures.current(), None);
        for (failure, reason) in [
            (Failure::NoAnswer(Duration::from_secs(1)), "the API server did not answer within 1s"),
            (Failure::NotAsRead, "the Lease is not known as it was read"),
        ] {
            failures.note("countersign", Some(&failure));
            assert_eq!(failures.current().as_deref(), Some(reason));
        }
        failures.note("countersign", None);
        assert_eq!(failures.current(), None);
    }

    #[test]
    fn reasons_are_kept_within_a_bound() {
        let failures = Failures::default();
        for millis in 0..100 {
            failures.note("countersign", Some(&Failure::NoAnswer(Duration::from_millis(millis))));
        }
        assert_eq!(failures.0.lock().unwrap().said.len(), SAID);
    }
}
