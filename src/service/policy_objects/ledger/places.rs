//! How much is written at once, and of how much in one namespace.
//!
//! Any write may hang until its time is over, as all of a namespace do with a webhook that takes connections and says nothing. Before
//! that is known, a namespace has as many places at most as it leaves free, so that others find one: 8, then 4, 2, 1 and 1.

use super::{Flow, Ledger};
use crate::{domain::clock::BootInstant, service::policy_objects::ports::ObjectKey};

/// In all.
const PLACES: usize = 16;

impl Ledger {
    /// From when on this one may be written, of so many that wait; `None`: not before the API server has answered about others.
    pub(super) fn opens_at(&self, key: &ObjectKey, waiting: usize, now: BootInstant) -> Option<BootInstant> {
        let namespace = &key.object.namespace;
        let of_it: usize = self.flows.values().map(|flow| flow.under_way_in(namespace)).sum();
        if of_it >= self.places_free() {
            return None;
        }
        let flow = self.flows.get(&key.kind);
        let open = flow.map_or(Some(now), |flow| flow.opens_at(namespace, now))?;
        let is_routed = self.entries.get(key).is_some_and(|entry| entry.routed().is_some());
        Some(if is_routed { open.max(self.turns.next(waiting, now)) } else { open })
    }

    pub(super) fn places_free(&self) -> usize {
        PLACES.saturating_sub(self.flows.values().map(Flow::under_way).sum())
    }
}
