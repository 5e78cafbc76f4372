//! The state of a pair, in the memory of the test. All replicas of a test share one.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard},
};

use countersign::{
    domain::leadership::Term,
    service::ports::{StateError, StateObject, StateStore, Versioned},
};

#[derive(Default)]
pub(super) struct SharedState(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    claimed: Term,
    claims: Vec<Term>,
    objects: HashMap<StateObject, (u64, Term, Vec<u8>)>,
}

impl SharedState {
    /// The terms that were claimed, in order.
    pub(super) fn claims(&self) -> Vec<Term> {
        self.inner().claims.clone()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap()
    }
}

impl StateStore for SharedState {
    fn claim(&self, term: Term) -> Result<(), StateError> {
        let mut inner = self.inner();
        if inner.claimed >= term {
            return Err(StateError::Fenced { own: term, found: inner.claimed });
        }
        inner.claimed = term;
        inner.claims.push(term);
        Ok(())
    }

    fn close(&self) {}

    fn load(&self, object: StateObject) -> Result<Option<Versioned>, StateError> {
        let found = self.inner().objects.get(&object).cloned();
        Ok(found.map(|(version, term, content)| Versioned { version, term, content: content.into() }))
    }

    fn compare_and_swap(
        &self,
        object: StateObject,
        expected: u64,
        term: Term,
        content: &[u8],
    ) -> Result<u64, StateError> {
        let mut inner = self.inner();
        if inner.claimed > term {
            return Err(StateError::Fenced { own: term, found: inner.claimed });
        }
        let found = inner.objects.get(&object).map_or(0, |(version, ..)| *version);
        if found != expected {
            return Err(StateError::Conflict { object, expected, found });
        }
        inner.objects.insert(object, (expected + 1, term, content.to_vec()));
        Ok(expected + 1)
    }
}
