//! The authority that the replicas of a pair know each other by. It has a key of its own and stands in no trust bundle: what
//! it signs is worth something between replicas only, and what any other authority signs is worth nothing there.

use std::time::Duration;

use rcgen::DnType;

use super::{AuthorityError, IssueError, SigningAuthority, TtlBounds, issue};
use crate::domain::{
    clock::Timestamp,
    identity::{ReplicaId, TrustDomain},
    random::SecureRandom,
    x509::{Certificate, CertificateChain, PrivateKey, TrustBundle, VerifiedCsr, X509Svid},
};

/// Signs the certificates of replicas.
#[derive(Debug)]
pub struct PairAuthority(SigningAuthority);

/// As the mesh's own root.
const LIFETIME: Duration = Duration::from_secs(3650 * 24 * 3600);
/// Of a replica's certificate. It is made by the replica itself, so short costs nothing.
const REPLICA_LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// Certificates are valid this much earlier: the clocks of two machines may differ by as much.
const CLOCKS_APART: Duration = Duration::from_secs(3600);

impl PairAuthority {
    /// A new one with an ECDSA P-256 key, which is returned beside it, for the store.
    ///
    /// # Errors
    ///
    /// When randomness or signing fails.
    pub fn self_signed(
        trust_domain: &TrustDomain,
        now: Timestamp,
        random: &dyn SecureRandom,
    ) -> Result<(Self, PrivateKey), AuthorityError> {
        let (authority, key) =
            SigningAuthority::self_signed_with(trust_domain, LIFETIME, now.minus(CLOCKS_APART), random, |params| {
                params.distinguished_name.push(DnType::CommonName, "Countersign pair authority");
            })?;
        Ok((Self(authority), key))
    }

    /// From the store.
    ///
    /// # Errors
    ///
    /// When key and certificate don't fit each other, or the certificate can't sign at `now`.
    pub fn from_parts(
        trust_domain: &TrustDomain,
        certificate: Certificate,
        key: &PrivateKey,
        now: Timestamp,
    ) -> Result<Self, AuthorityError> {
        let bundle = TrustBundle::new(trust_domain.clone(), vec![certificate.clone()])
            .map_err(|error| AuthorityError::NotAuthority(error.to_string()))?;
        SigningAuthority::from_parts(certificate, key, Vec::new(), bundle, now).map(Self)
    }

    /// Its certificate.
    pub const fn certificate(&self) -> &Certificate {
        self.0.certificate()
    }

    /// What replicas verify each other against.
    pub const fn bundle(&self) -> &TrustBundle {
        self.0.bundle()
    }

    /// A new key, and a certificate of 24 hours for it that says that its holder is `id`, good for both sides of TLS.
    ///
    /// # Errors
    ///
    /// When randomness or signing fails.
    pub fn replica_svid(
        &self,
        id: &ReplicaId,
        now: Timestamp,
        random: &dyn SecureRandom,
    ) -> Result<X509Svid, IssueError> {
        let failed = |error: &dyn ToString| IssueError::Sign(error.to_string());
        let key = PrivateKey::generate_p256().map_err(|error| failed(&error))?;
        let request = key.certificate_request(id.spiffe_id()).map_err(|error| failed(&error))?;
        let request = VerifiedCsr::from_pem(request.as_bytes()).map_err(|error| failed(&error))?;
        let ttl = CLOCKS_APART + REPLICA_LIFETIME;
        let bounds = TtlBounds::new(ttl, ttl).map_err(|error| failed(&error))?;
        let issued = issue(&self.0, &request, id.spiffe_id(), 0, &bounds, now.minus(CLOCKS_APART), random)?;
        let chain = CertificateChain::new(vec![issued.leaf]).map_err(|error| failed(&error))?;
        X509Svid::new(chain, key).map_err(|error| failed(&error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::authority::testing::{NOW, TestRandom, authority};

    fn trust_domain() -> TrustDomain {
        "cluster.local".parse().unwrap()
    }

    #[test]
    fn a_replicas_certificate_is_good_for_a_day_between_replicas_and_nowhere_else() {
        let (pair, key) = PairAuthority::self_signed(&trust_domain(), NOW, &TestRandom).unwrap();
        let again = PairAuthority::from_parts(&trust_domain(), pair.certificate().clone(), &key, NOW).unwrap();
        let id = ReplicaId::new(&trust_domain(), "uid-1").unwrap();
        let svid = again.replica_svid(&id, NOW, &TestRandom).unwrap();
        assert_eq!(svid.id(), id.spiffe_id());
        assert_eq!(svid.leaf().not_after().seconds(), NOW.seconds() + 24 * 3600);
        svid.chain().verify(pair.bundle(), NOW).unwrap();
        svid.chain().verify(authority().bundle(), NOW).unwrap_err();
        let (stranger, _) = PairAuthority::self_signed(&trust_domain(), NOW, &TestRandom).unwrap();
        svid.chain().verify(stranger.bundle(), NOW).unwrap_err();
        svid.chain().verify(pair.bundle(), NOW.plus(REPLICA_LIFETIME).plus(Duration::from_secs(1))).unwrap_err();
        // by a clock that is behind
        let behind = NOW.minus(CLOCKS_APART);
        svid.chain().verify(pair.bundle(), behind).unwrap();
        PairAuthority::from_parts(&trust_domain(), pair.certificate().clone(), &key, behind).unwrap();
    }

    #[test]
    fn its_name_is_not_that_of_a_root() {
        let (pair, _) = PairAuthority::self_signed(&trust_domain(), NOW, &TestRandom).unwrap();
        assert_eq!(pair.certificate().subject(), "O=cluster.local, CN=Countersign pair authority");
        assert_ne!(pair.certificate().subject(), authority().certificate().subject());
    }

    #[test]
    fn a_key_of_another_is_refused() {
        let (pair, _) = PairAuthority::self_signed(&trust_domain(), NOW, &TestRandom).unwrap();
        let other = PrivateKey::generate_p256().unwrap();
        let refused = PairAuthority::from_parts(&trust_domain(), pair.certificate().clone(), &other, NOW);
        assert_eq!(refused.err(), Some(AuthorityError::Key));
    }
}
