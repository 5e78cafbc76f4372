//! The independent check of every certificate before it leaves: X509-SVID and RFC 5280 rules, read from the bytes again.
//! It shares no code with the builder, so that one mistake can't hide in both.

use crate::domain::{clock::Timestamp, identity::SpiffeId};

/// A broken rule: a stable name and what was seen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{rule}: {detail}")]
pub struct Finding {
    /// Stable, such as `svid-one-uri-name`.
    pub rule: &'static str,
    /// What was seen, in words.
    pub detail: String,
}

/// What the certificate was meant to say.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a> {
    /// The identity.
    pub id: &'a SpiffeId,
    /// SubjectPublicKeyInfo of the request, DER.
    pub public_key_info: &'a [u8],
    /// The signing certificate's NotAfter, which the leaf's may not pass.
    pub authority_not_after: Timestamp,
    /// The instant of signing.
    pub now: Timestamp,
}

/// Checks a leaf of a workload, DER. Empty means that nothing was found.
pub fn check_svid(_der: &[u8], _expected: &Expected<'_>) -> Vec<Finding> {
    todo!()
}

/// Checks any SPIFFE leaf by the rules that need no expectation; `inspect` and `X509Svid` use it.
pub fn check_leaf(_der: &[u8]) -> Vec<Finding> {
    todo!()
}

/// Checks a signing certificate by the rules for those.
pub fn check_authority(_der: &[u8]) -> Vec<Finding> {
    todo!()
}
