//! What the active writes by, while it is active.

use std::sync::Arc;

use crate::{
    domain::clock::{BootInstant, Clock},
    service::{
        bundle_distribution::{Trust, Trusted},
        lease_term::HeldTerm,
        signing_session::SigningSession,
    },
};

/// A term that ends.
pub(super) trait Term: Send + Sync + 'static {
    /// Whether `now` lies inside it.
    fn covers(&self, now: BootInstant) -> bool;
}

impl Term for HeldTerm {
    fn covers(&self, now: BootInstant) -> bool {
        self.covers(now)
    }
}

impl Term for SigningSession {
    fn covers(&self, now: BootInstant) -> bool {
        self.covers(now)
    }
}

/// Roots that are trusted while the term lasts: a replica that was stopped and goes on has nothing signed or written in a term
/// that is over.
pub(super) struct WhileHeld<T, R> {
    term: Arc<T>,
    clock: Arc<dyn Clock>,
    roots: R,
}

impl<T, R: Clone> Clone for WhileHeld<T, R> {
    fn clone(&self) -> Self {
        Self::new(&self.term, &self.clock, &self.roots)
    }
}

impl<T, R: Clone> WhileHeld<T, R> {
    /// Those of `roots`, in `term`.
    pub(super) fn new(term: &Arc<T>, clock: &Arc<dyn Clock>, roots: &R) -> Self {
        Self { term: Arc::clone(term), clock: Arc::clone(clock), roots: roots.clone() }
    }
}

impl<T: Term, R: Trusted> Trusted for WhileHeld<T, R> {
    fn now(&self) -> Option<Trust> {
        if self.term.covers(self.clock.boot()) { self.roots.now() } else { None }
    }

    async fn changed(&mut self) {
        self.roots.changed().await;
    }
}
