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
