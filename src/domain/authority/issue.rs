//! Issuing an SVID: build by the profile, sign, lint.

use super::{SigningAuthority, TtlBounds, TtlError};
use crate::domain::{
    clock::Timestamp,
    identity::SpiffeId,
    random::{RandomUnavailable, SecureRandom},
    x509::{Certificate, VerifiedCsr, lint::Finding},
};

/// A certificate that passed the lint.
#[derive(Clone, Debug)]
pub struct IssuedSvid {
    /// The leaf.
    pub leaf: Certificate,
}

/// Why nothing was issued.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IssueError {
    /// No such validity can be granted.
    #[error(transparent)]
    Ttl(#[from] TtlError),
    /// No serial number.
    #[error(transparent)]
    Random(#[from] RandomUnavailable),
    /// The builder or the signer failed.
    #[error("the certificate could not be signed: {0}")]
    Sign(String),
    /// The lint refused what was built.
    #[error("the certificate was withheld by the lint: {0}")]
    Lint(Finding),
}

/// Issues an SVID for `id` by istiod's profile: empty subject (or the ID as common name, when the request had one and the ID
/// fits 64 bytes), the ID as the only name in a critical SAN, digitalSignature and keyEncipherment, server and client
/// authentication, not a CA, authority key identifier, serial of 128 bits. Subject and extensions of the request are
/// ignored.
///
/// # Errors
///
/// When no validity can be granted, signing fails, or the lint finds a broken rule; nothing leaves then.
pub fn issue(
    _authority: &SigningAuthority,
    _csr: &VerifiedCsr,
    _id: &SpiffeId,
    _requested_ttl: i64,
    _bounds: &TtlBounds,
    _now: Timestamp,
    _random: &dyn SecureRandom,
) -> Result<IssuedSvid, IssueError> {
    todo!()
}

impl IssuedSvid {
    /// The response to the caller: leaf, intermediates, and last the whole bundle, PEM.
    pub fn response_chain(&self, _authority: &SigningAuthority) -> Vec<String> {
        todo!()
    }
}
