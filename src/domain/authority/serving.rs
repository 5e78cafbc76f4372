//! The CA's own serving certificate, signed by the authority that it serves.

use std::time::Duration;

use super::{IssueError, SigningAuthority};
use crate::domain::{
    clock::Timestamp,
    identity::SpiffeId,
    random::SecureRandom,
    x509::{CertificateChain, PrivateKey},
};

/// Signs a certificate for the DNS names (and `id` as URI name) with a new P-256 key; valid two minutes before `now` until
/// `lifetime` after it, never past the authority. Server and client authentication. The chain holds the intermediates.
///
/// # Errors
///
/// When signing fails or the authority has expired.
pub fn issue_serving_certificate(
    _authority: &SigningAuthority,
    _dns_names: &[String],
    _id: &SpiffeId,
    _lifetime: Duration,
    _now: Timestamp,
    _random: &dyn SecureRandom,
) -> Result<(CertificateChain, PrivateKey), IssueError> {
    todo!()
}
