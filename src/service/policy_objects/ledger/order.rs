//! What must be done before what.

use super::{Ledger, entry::Entry};
use crate::{domain::policy::ObjectKind, service::policy_objects::ports::ObjectKey};

impl Ledger {
    /// Whether something else must be done first; then that will attend to this one.
    pub(super) fn is_blocked(&self, key: &ObjectKey) -> bool {
        let Some(entry) = self.entries.get(key) else { return true };
        match &entry.wanted {
            Some((wanted, _)) => {
                wanted.needs().is_some_and(|needs| !self.entries.get(needs).is_some_and(Entry::is_usable))
            }
            None => self.is_named(key),
        }
    }

    /// Whether a policy that is there names this one.
    pub(super) fn is_named(&self, key: &ObjectKey) -> bool {
        let names = |policy: &ObjectKey| self.entries.get(policy).is_some_and(|entry| entry.names(key));
        match key.kind {
            ObjectKind::BackendTlsPolicy => false,
            ObjectKind::SdsSecret => {
                names(&ObjectKey { kind: ObjectKind::BackendTlsPolicy, object: key.object.clone() })
            }
            ObjectKind::ConfigMap => self.keys_in(ObjectKind::BackendTlsPolicy, &key.object.namespace).any(names),
        }
    }
}
