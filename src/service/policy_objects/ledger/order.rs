//! What is done before what, and what must be.

use super::{
    Ledger,
    entry::{Entry, State},
};
use crate::{domain::policy::ObjectKind, service::policy_objects::ports::ObjectKey};

/// What is done first. What holds roots comes before policies, and both before what is removed. A Secret goes soon after its policy:
/// whoever takes over does not see that it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rank {
    /// Remove a policy that the mesh's own sidecars may follow: they do so until it is gone.
    Withdraw,
    /// Change whom a policy accepts that is there: pods with the new identity take requests as soon as they are ready.
    ApplyIdentities,
    ApplyRoots,
    ApplyPolicy,
    RemoveRoots,
    RemovePolicy,
    /// Apply a Secret that is likely to be there as it is to be. Nobody waits for it.
    Reassure,
}

impl Rank {
    /// Whether it waits its turn, where Routes lead.
    pub(super) const fn takes_turn(self) -> bool {
        matches!(self, Self::ApplyPolicy | Self::RemovePolicy)
    }
}

impl Ledger {
    /// Of what is to be done with this one and has not begun.
    pub(super) fn rank(&self, key: &ObjectKey) -> Option<Rank> {
        let entry = self.entries.get(key).filter(|entry| entry.is_waiting(key.kind))?;
        Some(match (key.kind, entry.wanted.is_some()) {
            (ObjectKind::BackendTlsPolicy, true) if entry.differs_in_identities() => Rank::ApplyIdentities,
            (ObjectKind::BackendTlsPolicy, true) => Rank::ApplyPolicy,
            (ObjectKind::BackendTlsPolicy, false) if self.must_withdraw => Rank::Withdraw,
            (ObjectKind::BackendTlsPolicy, false) => Rank::RemovePolicy,
            (ObjectKind::SdsSecret, true) if self.is_likely_to_be_right(key, entry) => Rank::Reassure,
            (ObjectKind::ConfigMap | ObjectKind::SdsSecret, true) => Rank::ApplyRoots,
            (ObjectKind::ConfigMap | ObjectKind::SdsSecret, false) => Rank::RemoveRoots,
        })
    }

    /// Of a Secret that nobody has seen here: whether its policy is in use with it. While that one is to be written, it is not.
    fn is_likely_to_be_right(&self, secret: &ObjectKey, entry: &Entry) -> bool {
        let policy = ObjectKey { kind: ObjectKind::BackendTlsPolicy, object: secret.object.clone() };
        matches!(entry.state, State::Presumed(_))
            && self.entries.get(&policy).is_some_and(|policy| policy.vouches_for(secret))
    }

    /// Whether something else must be done first; then that will attend to this one.
    pub(super) fn is_blocked(&self, key: &ObjectKey) -> bool {
        let Some(entry) = self.entries.get(key) else { return true };
        match &entry.wanted {
            Some((wanted, _)) => {
                wanted.needs().is_some_and(|needs| !self.entries.get(needs).is_some_and(|entry| entry.is_usable()))
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
