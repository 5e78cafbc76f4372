//! A trust domain's bundle as a document that others read: a JWK Set (SPIFFE Trust Domain and Bundle 4).

use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::domain::{
    identity::TrustDomain,
    jwt::{JwtAuthority, JwtAuthorityError},
    x509::{Certificate, CertificateError},
};

/// What a trust domain's SVIDs are verified by. Either kind of authority may be lacking: then there are no such SVIDs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpiffeBundle {
    /// Whose it is. It stands in no document: who asks for one knows whose it must be.
    pub trust_domain: TrustDomain,
    /// CA certificates, each once.
    pub x509_authorities: Vec<Certificate>,
    /// Keys of JWT-SVIDs, each with an identifier of its own.
    pub jwt_authorities: Vec<JwtAuthority>,
    /// Grows with each change; `None` if its maker does not count.
    pub sequence: Option<u64>,
    /// How often its maker wants it to be read; `None` if it does not say.
    pub refresh_hint: Option<Duration>,
}

/// Why a document is not a bundle. Positions count from 0.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpiffeBundleError {
    /// Over 1 MiB.
    #[error("the bundle has over 1 MiB")]
    TooLarge,
    /// Not JSON, or a member is not of its kind.
    #[error("not a SPIFFE bundle: {0}")]
    Json(String),
    /// A certificate that can't be read. The rest is not taken either: what is gone from a bundle is not trusted any more.
    #[error("keys[{position}]: {error}")]
    Certificate {
        /// In `keys`.
        position: usize,
        /// What is wrong with it.
        error: CertificateError,
    },
    /// A certificate that may not sign others.
    #[error("keys[{0}]: the certificate is no CA's")]
    NotCa(usize),
    /// A CA of another trust domain (X509-SVID 4.1).
    #[error("keys[{position}]: the CA is of trust domain {found:?}, and this is to be the bundle of {expected:?}")]
    OtherTrustDomain {
        /// In `keys`.
        position: usize,
        /// By its name.
        found: String,
        /// Whose bundle was asked for.
        expected: String,
    },
    /// A key of JWT-SVIDs without an identifier.
    #[error("keys[{0}]: a key of JWT-SVIDs has a key identifier (kid)")]
    NoKeyId(usize),
    /// Two keys of JWT-SVIDs by one name.
    #[error("keys[{0}]: its key identifier (kid) is another key's already")]
    KeyIdTwice(usize),
}

/// Of a document: far more than roots of a rotation take.
const MAX_BYTES: usize = 1 << 20;

impl SpiffeBundle {
    /// Reads the bundle of `trust_domain`. Keys of a `use` or kind that is not known here are passed over, as are entries of
    /// X.509 authorities without a certificate; of several certificates in one entry the first counts (4.2.2).
    ///
    /// # Errors
    ///
    /// When it is no bundle, or one of the authorities in it can't be right.
    pub fn from_json(trust_domain: TrustDomain, json: &[u8]) -> Result<Self, SpiffeBundleError> {
        if json.len() > MAX_BYTES {
            return Err(SpiffeBundleError::TooLarge);
        }
        let document: Document =
            serde_json::from_slice(json).map_err(|error| SpiffeBundleError::Json(error.to_string()))?;
        let mut bundle = Self {
            trust_domain,
            x509_authorities: Vec::new(),
            jwt_authorities: Vec::new(),
            sequence: document.spiffe_sequence,
            refresh_hint: document.spiffe_refresh_hint.map(Duration::from_secs),
        };
        for (position, key) in document.keys.iter().enumerate() {
            match key.get("use").and_then(Value::as_str) {
                Some(X509) => bundle.add_certificate(position, key)?,
                Some(JWT) => bundle.add_key(position, key)?,
                _ => {}
            }
        }
        Ok(bundle)
    }

    /// Whether the same are believed after both, whatever these say of themselves.
    pub fn believes_the_same(&self, other: &Self) -> bool {
        fn same<T: PartialEq>(these: &[T], those: &[T]) -> bool {
            these.len() == those.len() && these.iter().all(|one| those.contains(one))
        }
        self.trust_domain == other.trust_domain
            && same(&self.x509_authorities, &other.x509_authorities)
            && same(&self.jwt_authorities, &other.jwt_authorities)
    }

    /// The trust domain that the CAs of a document say they are of, for who has the document alone. It need not be a bundle.
    pub fn trust_domain_named_in(json: &[u8]) -> Option<TrustDomain> {
        let document: Document = serde_json::from_slice(json).ok()?;
        let certificates = document.keys.iter().filter_map(certificate_of).filter_map(Result::ok);
        let mut named = certificates.filter_map(|certificate| {
            let id = certificate.uri_names().iter().find_map(|name| name.strip_prefix("spiffe://"))?;
            id.split('/').next()?.parse().ok()
        });
        named.next()
    }

    /// The document: as SPIRE, go-spiffe and istiod read it. X.509 authorities whose kind of key no JWK can tell are left out;
    /// there are none among those that this program makes or accepts for signing.
    pub fn to_json(&self) -> String {
        let x509 = self.x509_authorities.iter().filter_map(|authority| {
            let mut jwk = authority.public_jwk()?;
            jwk.insert("use".into(), X509.into());
            jwk.insert("x5c".into(), json!([STANDARD.encode(authority.der())]));
            Some(jwk)
        });
        let jwt = self.jwt_authorities.iter().map(|authority| {
            let mut jwk = authority.jwk().clone();
            jwk.insert("use".into(), JWT.into());
            jwk
        });
        let mut document = Map::new();
        document.insert("keys".into(), json!(x509.chain(jwt).collect::<Vec<_>>()));
        if let Some(sequence) = self.sequence {
            document.insert("spiffe_sequence".into(), sequence.into());
        }
        if let Some(hint) = self.refresh_hint {
            document.insert("spiffe_refresh_hint".into(), hint.as_secs().into());
        }
        format!("{:#}\n", Value::Object(document))
    }

    fn add_certificate(&mut self, position: usize, key: &Map<String, Value>) -> Result<(), SpiffeBundleError> {
        let Some(certificate) = certificate_of(key) else { return Ok(()) };
        let certificate = certificate.map_err(|error| SpiffeBundleError::Certificate { position, error })?;
        if !certificate.is_ca() {
            return Err(SpiffeBundleError::NotCa(position));
        }
        if let Some(found) = foreign_domain(&certificate, &self.trust_domain) {
            let expected = self.trust_domain.to_string();
            return Err(SpiffeBundleError::OtherTrustDomain { position, found, expected });
        }
        if !self.x509_authorities.contains(&certificate) {
            self.x509_authorities.push(certificate);
        }
        Ok(())
    }

    fn add_key(&mut self, position: usize, key: &Map<String, Value>) -> Result<(), SpiffeBundleError> {
        match JwtAuthority::from_jwk(key) {
            Ok(authority) if self.jwt_authorities.iter().any(|known| known.key_id() == authority.key_id()) => {
                Err(SpiffeBundleError::KeyIdTwice(position))
            }
            Ok(authority) => {
                self.jwt_authorities.push(authority);
                Ok(())
            }
            Err(JwtAuthorityError::NoKeyId) => Err(SpiffeBundleError::NoKeyId(position)),
            Err(JwtAuthorityError::Unusable) => Ok(()),
        }
    }
}

const X509: &str = "x509-svid";
const JWT: &str = JwtAuthority::USE;

fn certificate_of(key: &Map<String, Value>) -> Option<Result<Certificate, CertificateError>> {
    let first = key.get("x5c").and_then(Value::as_array).and_then(|chain| chain.first())?;
    let der = first.as_str().and_then(|text| STANDARD.decode(text).ok());
    let der = der.ok_or_else(|| CertificateError::Der("x5c is not base64".into()));
    Some(der.and_then(|der| Certificate::from_der(&der)))
}

/// The trust domain that a CA says it is of, if that is another one.
fn foreign_domain(certificate: &Certificate, expected: &TrustDomain) -> Option<String> {
    let domains = certificate.uri_names().iter().filter_map(|name| name.strip_prefix("spiffe://"));
    let mut domains = domains.map(|rest| rest.split('/').next().unwrap_or_default().to_owned());
    domains.find(|domain| !domain.eq_ignore_ascii_case(expected.as_str()))
}

#[derive(Deserialize)]
struct Document {
    keys: Vec<Map<String, Value>>,
    #[serde(default)]
    spiffe_sequence: Option<u64>,
    #[serde(default)]
    spiffe_refresh_hint: Option<u64>,
}

#[cfg(test)]
mod tests;
