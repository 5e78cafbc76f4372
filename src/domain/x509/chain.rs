//! A certificate chain and the path from it to a trust bundle.

use super::{Certificate, CertificateError, TrustBundle};
use crate::domain::clock::Timestamp;

/// Leaf first, then its intermediates; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateChain {
    leaf: Certificate,
    intermediates: Vec<Certificate>,
}

/// Why a chain can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// No certificate at all.
    #[error("the chain holds no certificate")]
    Empty,
    /// A certificate of it does not parse.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// RFC 5280 path validation failed; the text is the validator's.
    #[error("the chain does not verify to the trust bundle: {0}")]
    Path(String),
    /// NotBefore lies in the future.
    #[error("the certificate is valid only from {0}")]
    NotYetValid(Timestamp),
    /// NotAfter has passed.
    #[error("the certificate expired at {0}")]
    Expired(Timestamp),
}

impl CertificateChain {
    /// From certificates, leaf first.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub fn new(_certificates: Vec<Certificate>) -> Result<Self, ChainError> {
        todo!()
    }

    /// From DER certificates, leaf first.
    ///
    /// # Errors
    ///
    /// When there is none, or one does not parse.
    pub fn from_ders<D: AsRef<[u8]>>(_ders: &[D]) -> Result<Self, ChainError> {
        todo!()
    }

    /// The leaf.
    pub const fn leaf(&self) -> &Certificate {
        &self.leaf
    }

    /// What stands between leaf and root.
    pub fn intermediates(&self) -> &[Certificate] {
        &self.intermediates
    }

    /// All, leaf first.
    pub fn iter(&self) -> impl Iterator<Item = &Certificate> {
        std::iter::once(&self.leaf).chain(&self.intermediates)
    }

    /// PEM, leaf first.
    pub fn to_pem(&self) -> String {
        self.iter().map(Certificate::to_pem).collect()
    }

    /// DER back to back, leaf first (the Workload API's encoding).
    pub fn to_der(&self) -> Vec<u8> {
        self.iter().flat_map(|certificate| certificate.der().iter().copied()).collect()
    }

    /// RFC 5280 path validation to a root of `bundle` at `now`, for TLS client and server authentication both.
    ///
    /// # Errors
    ///
    /// When no path verifies. Times are looked at first, so that an expired leaf is reported as that.
    pub fn verify(&self, _bundle: &TrustBundle, _now: Timestamp) -> Result<(), ChainError> {
        todo!()
    }
}
