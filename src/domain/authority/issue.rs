//! Issuing an SVID: build by the profile, sign, lint.

use super::{SigningAuthority, TtlBounds, TtlError, leaf_profile};
use crate::domain::{
    clock::Timestamp,
    identity::SpiffeId,
    random::{RandomUnavailable, SecureRandom},
    x509::{
        Certificate, SerialNumber, VerifiedCsr,
        lint::{self, Expected, Finding},
    },
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
    authority: &SigningAuthority,
    csr: &VerifiedCsr,
    id: &SpiffeId,
    requested_ttl: i64,
    bounds: &TtlBounds,
    now: Timestamp,
    random: &dyn SecureRandom,
) -> Result<IssuedSvid, IssueError> {
    let authority_not_after = authority.certificate().not_after();
    let validity = bounds.grant(requested_ttl, now, authority_not_after)?;
    let serial = SerialNumber::random(random)?;
    let mut params = leaf_profile::leaf(id, &[], &serial, validity).ok_or_else(year_out_of_range)?;
    if csr.has_common_name() {
        leaf_profile::set_common_name(&mut params, id);
    }
    let der = authority.sign(params, csr.key())?;
    let expected = Expected { id, public_key_info: csr.public_key_info(), authority_not_after, now };
    match lint::check_svid(&der, &expected).into_iter().next() {
        Some(finding) => Err(IssueError::Lint(finding)),
        None => Ok(IssuedSvid { leaf: parse(&der)? }),
    }
}

/// Reads back what was signed.
pub(super) fn parse(der: &[u8]) -> Result<Certificate, IssueError> {
    Certificate::from_der(der).map_err(|error| IssueError::Sign(error.to_string()))
}

pub(super) fn year_out_of_range() -> IssueError {
    IssueError::Sign("the validity lies outside the years 0 to 9999".into())
}

impl IssuedSvid {
    /// The response to the caller: leaf, intermediates, and last the whole bundle, PEM.
    pub fn response_chain(&self, authority: &SigningAuthority) -> Vec<String> {
        std::iter::once(self.leaf.to_pem()).chain(authority.response_tail().iter().cloned()).collect()
    }
}
