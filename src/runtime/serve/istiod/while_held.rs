//! What the active writes by, while it is active.

use std::sync::Arc;

use crate::{
    domain::clock::Clock,
    service::{
        bundle_distribution::{Trust, Trusted},
        lease_term::HeldTerm,
    },
};

/// Roots that are trusted while the term lasts: a replica that was stopped and goes on has nothing signed or written in a term
/// that is over.
#[derive(Clone)]
pub(super) struct WhileHeld<R> {
    term: Arc<HeldTerm>,
    clock: Arc<dyn Clock>,
    roots: R,
}

impl<R: Clone> WhileHeld<R> {
    /// Those of `roots`, in `term`.
    pub(super) fn new(term: &Arc<HeldTerm>, clock: &Arc<dyn Clock>, roots: &R) -> Self {
        Self { term: Arc::clone(term), clock: Arc::clone(clock), roots: roots.clone() }
    }
}

impl<R: Trusted> Trusted for WhileHeld<R> {
    fn now(&self) -> Option<Trust> {
        if self.term.covers(self.clock.boot()) { self.roots.now() } else { None }
    }

    async fn changed(&mut self) {
        self.roots.changed().await;
    }
}
