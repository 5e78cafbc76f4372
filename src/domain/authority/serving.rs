//! The CA's own serving certificate, signed by the authority that it serves.

use std::time::Duration;

use super::{
    IssueError, SigningAuthority, Validity,
    issue::{parse, year_out_of_range},
    leaf_profile,
};
use crate::domain::{
    clock::Timestamp,
    identity::SpiffeId,
    random::SecureRandom,
    x509::{CertificateChain, PrivateKey, SerialNumber, lint},
};

/// Signs a certificate for the DNS names (and `id` as URI name) with a new P-256 key; valid two minutes before `now` until
/// `lifetime` after it, never past the authority. Names that are IP addresses are written as such. Server and client authentication. The chain holds the intermediates.
///
/// # Errors
///
/// When signing fails or the authority has expired.
pub fn issue_serving_certificate(
    authority: &SigningAuthority,
    dns_names: &[String],
    id: &SpiffeId,
    lifetime: Duration,
    now: Timestamp,
    random: &dyn SecureRandom,
) -> Result<(CertificateChain, PrivateKey), IssueError> {
    if let Some(name) = dns_names.iter().find(|name| name.is_empty() || !name.is_ascii()) {
        return Err(IssueError::Sign(format!("{name:?} is not a DNS name: write it in ASCII, IDNA encoded")));
    }
    let key = PrivateKey::generate_p256().map_err(|error| IssueError::Sign(error.to_string()))?;
    let validity = Validity::until(now.plus(lifetime), now, authority.certificate().not_after())?;
    let serial = SerialNumber::random(random)?;
    let params = leaf_profile::leaf(id, dns_names, &serial, validity).ok_or_else(year_out_of_range)?;
    let der = authority.sign(params, key.key_pair().as_ref())?;
    if let Some(finding) = lint::check_leaf(&der).into_iter().next() {
        return Err(IssueError::Lint(finding));
    }
    let chain = std::iter::once(parse(&der)?).chain(authority.intermediates().iter().cloned()).collect();
    let chain = CertificateChain::new(chain).map_err(|error| IssueError::Sign(error.to_string()))?;
    Ok((chain, key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::authority::testing::{NOW, TestRandom, authority};

    #[test]
    fn serves_its_names_and_verifies() {
        let authority = authority();
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let id = "spiffe://cluster.local/ns/istio-system/sa/countersign".parse().unwrap();
        let lifetime = Duration::from_secs(3600);
        let (chain, key) = issue_serving_certificate(&authority, &names, &id, lifetime, NOW, &TestRandom).unwrap();
        assert_eq!(chain.leaf().dns_names(), ["localhost"]);
        assert_eq!(chain.leaf().spiffe_id(), Some(id.clone()));
        assert_eq!(chain.leaf().public_key_info(), key.public_key_info());
        chain.verify(authority.bundle(), NOW).unwrap();
        let der = rustls_pki_types::CertificateDer::from(chain.leaf().der());
        let leaf = webpki::EndEntityCert::try_from(&der).unwrap();
        for name in ["localhost", "127.0.0.1"] {
            leaf.verify_is_valid_for_subject_name(&name.try_into().unwrap()).unwrap();
        }

        let forever = Duration::from_secs(u64::MAX);
        let (chain, _) = issue_serving_certificate(&authority, &names, &id, forever, NOW, &TestRandom).unwrap();
        assert_eq!(chain.leaf().not_after(), authority.certificate().not_after());
    }

    #[test]
    fn refuses_names_that_no_certificate_can_hold() {
        let id = "spiffe://cluster.local/ca".parse().unwrap();
        for name in ["", "bücher.example"] {
            let names = [name.to_owned()];
            let refused =
                issue_serving_certificate(&authority(), &names, &id, Duration::from_secs(1), NOW, &TestRandom);
            assert!(matches!(refused, Err(IssueError::Sign(text)) if text.contains("not a DNS name")));
        }
    }
}
