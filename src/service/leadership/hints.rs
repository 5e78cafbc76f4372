//! What other parts of the process tell the election.

use std::sync::Arc;

use tokio::sync::{Notify, watch};

use crate::domain::leadership::Term;

/// The way to the election for whoever finds something that it should know. Cheap to clone; telling never blocks, and what is
/// told again and again is heard once.
#[derive(Clone, Debug)]
pub struct Hints {
    highest: watch::Sender<Term>,
    changed: Arc<Notify>,
}

impl Hints {
    /// Nothing was told yet.
    pub fn new() -> Self {
        Self { highest: watch::Sender::new(Term::NONE), changed: Arc::default() }
    }

    /// A state object bears this term. An active of a lower one steps down.
    pub fn higher_term(&self, seen: Term) {
        self.highest.send_if_modified(|highest| {
            let higher = seen > *highest;
            *highest = seen.max(*highest);
            higher
        });
    }

    /// The lease may have changed: it is worth a look.
    pub fn lease_changed(&self) {
        self.changed.notify_one();
    }

    /// The highest term told; what was told before is a change too.
    pub(super) fn highest(&self) -> watch::Receiver<Term> {
        let mut highest = self.highest.subscribe();
        if *highest.borrow() > Term::NONE {
            highest.mark_changed();
        }
        highest
    }

    pub(in crate::service) async fn lease_has_changed(&self) {
        self.changed.notified().await;
    }
}

impl Default for Hints {
    fn default() -> Self {
        Self::new()
    }
}
