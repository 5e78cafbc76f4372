//! How it stands with the objects, for whoever tells of it.

use super::{Ledger, Trouble};
use crate::{
    domain::policy::ObjectKind,
    service::policy_objects::ports::{ObjectKey, Print},
};

/// How it stands with objects of a kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::service::policy_objects) struct Counts {
    pub(in crate::service::policy_objects) wanted: usize,
    pub(in crate::service::policy_objects) right: usize,
    /// To be written or removed.
    pub(in crate::service::policy_objects) pending: usize,
}

impl Ledger {
    /// Another one whenever anything has changed.
    pub(in crate::service::policy_objects) const fn revision(&self) -> u64 {
        self.revision
    }

    /// What is not right and will not be by itself, or not at once.
    pub(in crate::service::policy_objects) fn troubles(&self) -> impl Iterator<Item = (&ObjectKey, Trouble<'_>)> {
        self.entries.iter().filter_map(|(key, entry)| Some((key, entry.trouble()?)))
    }

    /// Kinds of which nothing is taken now, and why.
    pub(in crate::service::policy_objects) fn closed(&self) -> impl Iterator<Item = (ObjectKind, &str)> {
        self.flows.iter().filter_map(|(kind, flow)| Some((*kind, flow.closed()?)))
    }

    /// Namespaces in which a ConfigMap of ours is another one than that; `None` while nothing was seen of them.
    pub(in crate::service::policy_objects) fn config_maps_other_than(&self, print: &Print) -> Option<Vec<String>> {
        let kind = ObjectKind::ConfigMap;
        self.listed.contains_key(&kind).then(|| {
            let other =
                self.keys_of(kind).filter(|key| self.entries.get(*key).is_some_and(|entry| entry.is_other_than(print)));
            other.map(|key| key.object.namespace.to_string()).collect()
        })
    }

    pub(in crate::service::policy_objects) fn counts(&self, kind: ObjectKind) -> Counts {
        let mut counts = Counts::default();
        for key in self.keys_of(kind) {
            let Some(entry) = self.entries.get(key) else { continue };
            counts.wanted += usize::from(entry.wanted.is_some());
            counts.right += usize::from(entry.is_right());
            counts.pending += usize::from(self.is_planned && entry.is_pending(kind));
        }
        counts
    }
}
