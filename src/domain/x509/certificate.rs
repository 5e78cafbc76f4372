//! One certificate: its bytes, and the facts of it that decisions are made on.

use std::sync::Arc;

use super::SerialNumber;
use crate::domain::{clock::Timestamp, identity::SpiffeId};

/// A parsed X.509 certificate. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Certificate(Arc<Facts>);

#[derive(Debug)]
struct Facts {
    der: Vec<u8>,
}

/// Why bytes are not a certificate that can be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// Not X.509.
    #[error("not a DER certificate: {0}")]
    Der(String),
    /// No PEM block, or one of another kind.
    #[error("not a PEM certificate: {0}")]
    Pem(String),
}

impl Certificate {
    /// Parses one DER certificate and nothing behind it.
    ///
    /// # Errors
    ///
    /// When the bytes are not exactly one certificate.
    pub fn from_der(_der: &[u8]) -> Result<Self, CertificateError> {
        todo!()
    }

    /// Every `CERTIFICATE` block of a PEM text, in order; text between the blocks is skipped.
    ///
    /// # Errors
    ///
    /// When a block is of another kind or does not parse.
    pub fn all_from_pem(_pem: &[u8]) -> Result<Vec<Self>, CertificateError> {
        todo!()
    }

    /// The DER bytes.
    pub fn der(&self) -> &[u8] {
        &self.0.der
    }

    /// One PEM block with a newline at its end.
    pub fn to_pem(&self) -> String {
        todo!()
    }

    /// NotBefore.
    pub fn not_before(&self) -> Timestamp {
        todo!()
    }

    /// NotAfter: the last second of validity.
    pub fn not_after(&self) -> Timestamp {
        todo!()
    }

    /// The serial number.
    pub fn serial(&self) -> &SerialNumber {
        todo!()
    }

    /// The URI names, in order.
    pub fn uri_names(&self) -> &[String] {
        todo!()
    }

    /// The DNS names, in order.
    pub fn dns_names(&self) -> &[String] {
        todo!()
    }

    /// The ID of a leaf: its only URI name, if it has exactly one and that is a workload's SPIFFE ID (X509-SVID 5.2).
    pub fn spiffe_id(&self) -> Option<SpiffeId> {
        todo!()
    }

    /// Whether BasicConstraints says CA.
    pub fn is_ca(&self) -> bool {
        todo!()
    }

    /// Subject as one line, empty if it has none.
    pub fn subject(&self) -> &str {
        todo!()
    }

    /// Issuer as one line.
    pub fn issuer(&self) -> &str {
        todo!()
    }

    /// Whether subject and issuer are the same name.
    pub fn is_self_issued(&self) -> bool {
        todo!()
    }

    /// The subject key identifier.
    pub fn subject_key_id(&self) -> Option<&[u8]> {
        todo!()
    }

    /// The authority key identifier's key part.
    pub fn authority_key_id(&self) -> Option<&[u8]> {
        todo!()
    }

    /// SubjectPublicKeyInfo, DER.
    pub fn public_key_info(&self) -> &[u8] {
        todo!()
    }

    /// Key algorithm in words, such as `ECDSA P-256` or `RSA 2048`.
    pub fn key_algorithm(&self) -> &str {
        todo!()
    }

    /// SHA-256 over the DER bytes.
    pub fn fingerprint(&self) -> [u8; 32] {
        todo!()
    }
}

impl PartialEq for Certificate {
    fn eq(&self, other: &Self) -> bool {
        self.der() == other.der()
    }
}

impl Eq for Certificate {}
