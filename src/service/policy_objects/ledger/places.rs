//! How much is written at once, and of how much in one namespace.
//!
//! Any write may hang until its time is over, as all of a namespace do with a webhook that takes connections and says nothing. Before
//! that is known, a namespace has a place of its own, which no other takes, and of those that all share as many at most as it leaves
//! free: 8, then 4, 2, 1 and 1.

use std::{collections::BTreeMap, sync::Arc};

/// Namespaces that have a place of their own at once.
const OWN: usize = 32;
/// That all of them share.
const SHARED: usize = 16;

/// Those that are taken.
#[derive(Debug, Default)]
pub(super) struct Places {
    /// By namespace; the first is its own.
    taken: BTreeMap<Arc<str>, usize>,
    shared: usize,
}

impl Places {
    /// Whether there is none for anybody.
    pub(super) fn is_full(&self) -> bool {
        self.taken.len() >= OWN && self.shared >= SHARED
    }

    /// Whether there is one for this namespace.
    pub(super) fn has_one_for(&self, namespace: &str) -> bool {
        match self.taken.get(namespace) {
            None => self.taken.len() < OWN,
            Some(taken) => taken.saturating_sub(1) < SHARED.saturating_sub(self.shared),
        }
    }

    pub(super) fn take(&mut self, namespace: &Arc<str>) {
        let taken = self.taken.entry(Arc::clone(namespace)).or_default();
        self.shared += usize::from(*taken > 0);
        *taken += 1;
    }

    pub(super) fn leave(&mut self, namespace: &str) {
        match self.taken.get_mut(namespace) {
            None => {}
            Some(1) => drop(self.taken.remove(namespace)),
            Some(taken) => {
                *taken -= 1;
                self.shared -= 1;
            }
        }
    }
}
