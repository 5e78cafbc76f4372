//! The roots of one trust domain.

use super::{Certificate, CertificateError};
use crate::domain::identity::TrustDomain;

/// What a trust domain's SVIDs are verified against: at least one CA certificate, each once, in the order given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustBundle {
    trust_domain: TrustDomain,
    roots: Vec<Certificate>,
}

/// Why certificates are not a trust bundle.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    /// No certificate.
    #[error("a trust bundle holds at least one CA certificate")]
    Empty,
    /// One that is no CA.
    #[error("a trust bundle holds only CA certificates; the one with serial {0} is none")]
    NotCa(String),
    /// One that doesn't parse.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
}

impl TrustBundle {
    /// From certificates; a repeated one counts once.
    ///
    /// # Errors
    ///
    /// When there is none, or one is not a CA's.
    pub fn new(_trust_domain: TrustDomain, _roots: Vec<Certificate>) -> Result<Self, BundleError> {
        todo!()
    }

    /// From PEM certificates.
    ///
    /// # Errors
    ///
    /// As [`TrustBundle::new`], and when the text is not PEM certificates.
    pub fn from_pem(_trust_domain: TrustDomain, _pem: &[u8]) -> Result<Self, BundleError> {
        todo!()
    }

    /// Whose roots these are.
    pub const fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The roots.
    pub fn roots(&self) -> &[Certificate] {
        &self.roots
    }

    /// PEM, one block after the other.
    pub fn to_pem(&self) -> String {
        self.roots.iter().map(Certificate::to_pem).collect()
    }

    /// DER back to back.
    pub fn to_der(&self) -> Vec<u8> {
        self.roots.iter().flat_map(|root| root.der().iter().copied()).collect()
    }
}
