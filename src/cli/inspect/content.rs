//! What bytes hold: certificates, a token or a bundle document.

use serde_json::Value;

use super::error::SourceError;
use crate::domain::{
    bundle::SpiffeBundle,
    identity::{TrustDomain, TrustDomainError},
    jwt::CompactJws,
    x509::{Certificate, pem},
};

/// The first byte of every DER certificate, and the digit 0 in a text.
const DER_SEQUENCE: u8 = 0x30;
/// What a document is read as that names none: it is shown nowhere.
const UNNAMED: &str = "unnamed";

pub(super) enum Content {
    /// Of PEM or DER; never empty.
    Certificates(Vec<Certificate>),
    /// In compact form.
    Token(CompactJws),
    /// A JWK Set.
    Bundle(BundleContent),
}

pub(super) struct BundleContent {
    /// As its CAs say. A document has no other word on whose it is.
    pub(super) trust_domain: Option<TrustDomain>,
    pub(super) content: SpiffeBundle,
}

impl Content {
    /// With what was skipped in it, and why.
    pub(super) fn read(place: &str, bytes: &[u8]) -> Result<(Self, Vec<String>), SourceError> {
        let text = std::str::from_utf8(bytes).unwrap_or_default().trim();
        if is_token(text) {
            let token =
                CompactJws::read(text).map_err(|error| SourceError::new(place, format!("no token: {error}")))?;
            return Ok((Self::Token(token), Vec::new()));
        }
        if text.starts_with('{') {
            let (bundle, notes) = read_bundle(place, text).map_err(|problem| SourceError::new(place, problem))?;
            return Ok((Self::Bundle(bundle), notes));
        }
        let (certificates, notes) = certificates_in(place, bytes)?;
        Ok((Self::Certificates(certificates), notes))
    }
}

/// Whether this is meant for a token in compact form, be it damaged: the base64 of `{"` and a point.
pub(super) fn is_token(text: &str) -> bool {
    let in_tokens = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '=');
    text.starts_with("ey") && text.contains('.') && text.chars().all(in_tokens)
}

fn read_bundle(place: &str, text: &str) -> Result<(BundleContent, Vec<String>), String> {
    let trust_domain = SpiffeBundle::trust_domain_named_in(text.as_bytes());
    let read_as = trust_domain.clone().map_or_else(|| UNNAMED.parse(), Ok);
    let read_as = read_as.map_err(|error: TrustDomainError| error.to_string())?;
    let content = SpiffeBundle::from_json(read_as, text.as_bytes()).map_err(|error| error.to_string())?;
    let keys = serde_json::from_str::<Value>(text).map_err(|error| error.to_string())?;
    let keys = keys.get("keys").and_then(Value::as_array).map_or(0, Vec::len);
    let notes = match keys.saturating_sub(content.x509_authorities.len() + content.jwt_authorities.len()) {
        0 => Vec::new(),
        skipped => vec![format!(
            "{place}: skipped {skipped} of {keys} keys: of a use or kind that is not known, without a certificate, or there twice"
        )],
    };
    Ok((BundleContent { trust_domain, content }, notes))
}

fn certificates_in(place: &str, bytes: &[u8]) -> Result<(Vec<Certificate>, Vec<String>), SourceError> {
    let is_pem = !matches!(pem::first_block(bytes), Err(pem::PemError::NoBlock));
    if !is_pem && bytes.first() == Some(&DER_SEQUENCE) {
        let certificate = Certificate::from_der(bytes).map_err(|error| SourceError::new(place, error))?;
        return Ok((vec![certificate], Vec::new()));
    }
    let (mut certificates, mut notes, mut rest) = (Vec::new(), Vec::new(), bytes);
    loop {
        let block = match pem::first_block(rest) {
            Ok(block) => block,
            Err(pem::PemError::NoBlock) => break,
            Err(error) => return Err(SourceError::new(place, error)),
        };
        if block.label == "CERTIFICATE" {
            let certificate = Certificate::from_der(&block.content).map_err(|error| SourceError::new(place, error))?;
            certificates.push(certificate);
        } else if block.label.ends_with("PRIVATE KEY") {
            notes.push(format!("{place}: a private key was skipped; keys are never shown"));
        } else {
            notes.push(format!("{place}: a block {:?} was skipped", block.label));
        }
        rest = block.rest;
    }
    match (certificates.is_empty(), notes.first()) {
        (false, _) => Ok((certificates, notes)),
        (true, Some(note)) => Err(SourceError::new(place, format!("no certificate ({note})"))),
        (true, None) => Err(SourceError::new(
            place,
            "no certificate: give one in PEM or DER, a token in compact form, or a SPIFFE bundle as JSON",
        )),
    }
}
