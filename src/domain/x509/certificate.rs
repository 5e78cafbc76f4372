//! One certificate: its bytes, and the facts of it that decisions are made on.

use std::sync::Arc;

use x509_parser::{
    certificate::X509Certificate,
    extensions::{GeneralName, ParsedExtension},
    oid_registry::{OID_X509_EXT_AUTHORITY_KEY_IDENTIFIER, OID_X509_EXT_SUBJECT_KEY_IDENTIFIER, Oid},
    prelude::{FromDer, X509Error},
};

use super::{
    SerialNumber,
    pem::{self, PemError},
    public_jwk, public_key,
};
use crate::domain::{clock::Timestamp, identity::SpiffeId};

/// A parsed X.509 certificate. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Certificate(Arc<Facts>);

#[derive(Debug)]
struct Facts {
    der: Vec<u8>,
    not_before: Timestamp,
    not_after: Timestamp,
    serial: SerialNumber,
    uri_names: Vec<String>,
    dns_names: Vec<String>,
    spiffe_id: Option<SpiffeId>,
    is_ca: bool,
    subject: String,
    issuer: String,
    is_self_issued: bool,
    subject_key_id: Option<Vec<u8>>,
    authority_key_id: Option<Vec<u8>>,
    public_key_info: Vec<u8>,
    key_algorithm: String,
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
    pub fn from_der(der: &[u8]) -> Result<Self, CertificateError> {
        let (rest, parsed) =
            X509Certificate::from_der(der).map_err(|error| CertificateError::Der(error.to_string()))?;
        if !rest.is_empty() {
            return Err(CertificateError::Der(format!("{} bytes stand behind it", rest.len())));
        }
        Ok(Self(Arc::new(Facts::of(&parsed)?)))
    }

    /// Every `CERTIFICATE` block of a PEM text, in order; text between the blocks is skipped.
    ///
    /// # Errors
    ///
    /// When a block is of another kind or does not parse.
    pub fn all_from_pem(pem: &[u8]) -> Result<Vec<Self>, CertificateError> {
        let mut certificates = Vec::new();
        let mut text = pem;
        loop {
            let block = match pem::first_block(text) {
                Ok(block) => block,
                Err(PemError::NoBlock) if !certificates.is_empty() => return Ok(certificates),
                Err(error) => return Err(CertificateError::Pem(error.to_string())),
            };
            if block.label != LABEL {
                return Err(CertificateError::Pem(format!("a block is {:?}, not {LABEL:?}", block.label)));
            }
            certificates.push(Self::from_der(&block.content)?);
            text = block.rest;
        }
    }

    /// The DER bytes.
    pub fn der(&self) -> &[u8] {
        &self.0.der
    }

    /// One PEM block with a newline at its end.
    pub fn to_pem(&self) -> String {
        std::mem::take(&mut *pem::encode(LABEL, &self.0.der))
    }

    /// NotBefore.
    pub fn not_before(&self) -> Timestamp {
        self.0.not_before
    }

    /// NotAfter: the last second of validity.
    pub fn not_after(&self) -> Timestamp {
        self.0.not_after
    }

    /// The serial number.
    pub fn serial(&self) -> &SerialNumber {
        &self.0.serial
    }

    /// The URI names, in order.
    pub fn uri_names(&self) -> &[String] {
        &self.0.uri_names
    }

    /// The DNS names, in order.
    pub fn dns_names(&self) -> &[String] {
        &self.0.dns_names
    }

    /// The ID of a leaf: its only URI name, if it has exactly one and that is a workload's SPIFFE ID (X509-SVID 5.2).
    pub fn spiffe_id(&self) -> Option<SpiffeId> {
        self.0.spiffe_id.clone()
    }

    /// Whether BasicConstraints says CA.
    pub fn is_ca(&self) -> bool {
        self.0.is_ca
    }

    /// Subject as one line, empty if it has none.
    pub fn subject(&self) -> &str {
        &self.0.subject
    }

    /// Issuer as one line.
    pub fn issuer(&self) -> &str {
        &self.0.issuer
    }

    /// Whether subject and issuer are the same name.
    pub fn is_self_issued(&self) -> bool {
        self.0.is_self_issued
    }

    /// The subject key identifier.
    pub fn subject_key_id(&self) -> Option<&[u8]> {
        self.0.subject_key_id.as_deref()
    }

    /// The authority key identifier's key part.
    pub fn authority_key_id(&self) -> Option<&[u8]> {
        self.0.authority_key_id.as_deref()
    }

    /// SubjectPublicKeyInfo, DER.
    pub fn public_key_info(&self) -> &[u8] {
        &self.0.public_key_info
    }

    /// The public key as a JWK without a `use`; `None` for a kind of key that no JWK can tell.
    pub fn public_jwk(&self) -> Option<serde_json::Map<String, serde_json::Value>> {
        public_jwk::members(&self.0.public_key_info)
    }

    /// Key algorithm in words, such as `ECDSA P-256` or `RSA 2048`.
    pub fn key_algorithm(&self) -> &str {
        &self.0.key_algorithm
    }

    /// SHA-256 over the DER bytes.
    pub fn fingerprint(&self) -> [u8; 32] {
        let digest = ring::digest::digest(&ring::digest::SHA256, &self.0.der);
        let mut fingerprint = [0; 32];
        fingerprint.iter_mut().zip(digest.as_ref()).for_each(|(to, from)| *to = *from);
        fingerprint
    }
}

const LABEL: &str = "CERTIFICATE";

impl Facts {
    fn of(parsed: &X509Certificate<'_>) -> Result<Self, CertificateError> {
        let damaged = |error: X509Error| CertificateError::Der(error.to_string());
        let mut uri_names = Vec::new();
        let mut dns_names = Vec::new();
        if let Some(names) = parsed.subject_alternative_name().map_err(damaged)? {
            for name in &names.value.general_names {
                if let GeneralName::URI(uri) = name {
                    uri_names.push((*uri).to_owned());
                } else if let GeneralName::DNSName(dns) = name {
                    dns_names.push((*dns).to_owned());
                }
            }
        }
        let is_ca = parsed.basic_constraints().map_err(damaged)?.is_some_and(|constraints| constraints.value.ca);
        let spiffe_id = match uri_names.as_slice() {
            [only] if !is_ca => only.parse().ok(),
            _ => None,
        };
        let key_id = |oid| key_identifier(parsed, oid).map_err(damaged);
        Ok(Self {
            der: parsed.as_raw().to_vec(),
            not_before: Timestamp::from_seconds(parsed.validity().not_before.timestamp()),
            not_after: Timestamp::from_seconds(parsed.validity().not_after.timestamp()),
            serial: SerialNumber::from_bytes(parsed.raw_serial()),
            uri_names,
            dns_names,
            spiffe_id,
            is_ca,
            subject: parsed.subject().to_string(),
            issuer: parsed.issuer().to_string(),
            is_self_issued: parsed.subject().as_raw() == parsed.issuer().as_raw(),
            subject_key_id: key_id(&OID_X509_EXT_SUBJECT_KEY_IDENTIFIER)?,
            authority_key_id: key_id(&OID_X509_EXT_AUTHORITY_KEY_IDENTIFIER)?,
            public_key_info: parsed.public_key().raw.to_vec(),
            key_algorithm: public_key::in_words(parsed.public_key()),
        })
    }
}

fn key_identifier(parsed: &X509Certificate<'_>, oid: &Oid<'_>) -> Result<Option<Vec<u8>>, X509Error> {
    let extension = parsed.get_extension_unique(oid)?.map(|extension| extension.parsed_extension());
    Ok(if let Some(ParsedExtension::SubjectKeyIdentifier(id)) = extension {
        Some(id.0.to_vec())
    } else if let Some(ParsedExtension::AuthorityKeyIdentifier(id)) = extension {
        id.key_identifier.as_ref().map(|id| id.0.to_vec())
    } else {
        None
    })
}

impl PartialEq for Certificate {
    fn eq(&self, other: &Self) -> bool {
        self.der() == other.der()
    }
}

impl Eq for Certificate {}
