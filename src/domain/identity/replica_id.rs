//! How the replicas of a pair are named to each other.

use super::{SpiffeId, TrustDomain};

/// The ID of a replica, `spiffe://TRUST-DOMAIN/countersign/replica/UID`. It stands in certificates of the pair authority alone:
/// it has not the form of a service account's, so no proof of a caller leads to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaId(SpiffeId);

/// Why a text does not name a replica.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a replica is named by one path segment of letters, digits, '.', '-' and '_', as a pod's UID is, not by {0:?}")]
pub struct ReplicaIdError(String);

const PATH: &str = "/countersign/replica/";

impl ReplicaId {
    /// Of the replica that runs as `uid`: the UID of its pod.
    ///
    /// # Errors
    ///
    /// When `uid` is not a single segment of a path.
    pub fn new(trust_domain: &TrustDomain, uid: &str) -> Result<Self, ReplicaIdError> {
        let refused = || ReplicaIdError(uid.to_owned());
        let id: SpiffeId = format!("spiffe://{trust_domain}{PATH}{uid}").parse().map_err(|_refused| refused())?;
        Self::of(&id).ok_or_else(refused)
    }

    /// The same ID, if it is a replica's.
    pub fn of(id: &SpiffeId) -> Option<Self> {
        let uid = id.path().strip_prefix(PATH)?;
        (!uid.contains('/')).then(|| Self(id.clone()))
    }

    /// The UID.
    pub fn uid(&self) -> &str {
        self.0.path().strip_prefix(PATH).unwrap_or_default()
    }

    /// The whole ID.
    pub const fn spiffe_id(&self) -> &SpiffeId {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::identity::ServiceAccount;

    #[test]
    fn is_made_of_a_uid_and_read_back() {
        let uid = "0d9b1c1e-6f0f-4a55-9a3e-0c7c1f7f2c11";
        let id = ReplicaId::new(&"cluster.local".parse().unwrap(), uid).unwrap();
        assert_eq!(id.spiffe_id().as_str(), format!("spiffe://cluster.local/countersign/replica/{uid}"));
        assert_eq!((ReplicaId::of(id.spiffe_id()).as_ref(), id.uid()), (Some(&id), uid));
        assert_eq!(ServiceAccount::of(id.spiffe_id()), None);
    }

    #[test]
    fn nothing_else_is_one() {
        let trust_domain = "td".parse().unwrap();
        for uid in ["", "a/b", "..", "a b", "/"] {
            assert_eq!(ReplicaId::new(&trust_domain, uid), Err(ReplicaIdError(uid.to_owned())));
        }
        for id in ["spiffe://td/ns/a/sa/b", "spiffe://td/countersign/serving", "spiffe://td/countersign/replica/a/b"] {
            assert_eq!(ReplicaId::of(&id.parse().unwrap()), None, "{id}");
        }
    }
}
