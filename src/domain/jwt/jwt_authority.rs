//! A key that a trust domain's JWT-SVIDs are verified by.

use serde_json::{Map, Value};

use super::jwks::{VerificationKey, is_p521};

/// A JWK with a key identifier, as it stands in a bundle (JWT-SVID 5, SPIFFE Trust Domain and Bundle 4.2).
#[derive(Clone, Debug)]
pub struct JwtAuthority {
    key_id: String,
    /// The members that a reader needs, and no other: `use` is of the place that the key stands in.
    jwk: Map<String, Value>,
    /// `None` of P-521: nothing is verified by it here, and whoever is given it may (ES512, JWT-SVID 2.1).
    key: Option<VerificationKey>,
}

/// Why a JWK is no such key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JwtAuthorityError {
    /// `kid` is missing, empty or no text.
    #[error("it has no key identifier (kid)")]
    NoKeyId,
    /// Of a kind or form that signs no JWT-SVIDs.
    #[error("it is no key that can be used: EC P-256, P-384 or P-521, or RSA of at least 2048 bits")]
    Unusable,
}

const MEMBERS: [&str; 8] = ["kty", "kid", "alg", "crv", "x", "y", "n", "e"];

impl JwtAuthority {
    /// `use` of such a key in a bundle.
    pub const USE: &str = "jwt-svid";

    /// From a JWK whose `use` is [`Self::USE`] or not there.
    ///
    /// # Errors
    ///
    /// When it has no key identifier, or is no key that can be used.
    pub fn from_jwk(jwk: &Map<String, Value>) -> Result<Self, JwtAuthorityError> {
        let key_id = jwk.get("kid").and_then(Value::as_str).filter(|id| !id.is_empty());
        let key_id = key_id.ok_or(JwtAuthorityError::NoKeyId)?.to_owned();
        let json = || Value::Object(jwk.clone());
        let key = VerificationKey::from_json(json(), Self::USE).filter(VerificationKey::may_sign_svids);
        if key.is_none() && !is_p521(json(), Self::USE) {
            return Err(JwtAuthorityError::Unusable);
        }
        let jwk = jwk.iter().filter(|(name, _)| MEMBERS.contains(&name.as_str()));
        Ok(Self { key_id, jwk: jwk.map(|(name, value)| (name.clone(), value.clone())).collect(), key })
    }

    /// `kid`.
    pub fn key_id(&self) -> &str {
        &self.key_id
    }

    /// The public JWK without `use`.
    pub const fn jwk(&self) -> &Map<String, Value> {
        &self.jwk
    }

    /// The kind of key, as in `ECDSA P-256` or `RSA 2048`.
    pub fn key_algorithm(&self) -> String {
        self.key.as_ref().map_or_else(|| "ECDSA P-521".into(), |key| key.kind().to_string())
    }

    /// What it verifies with, if that is possible here.
    pub(super) const fn key(&self) -> Option<&VerificationKey> {
        self.key.as_ref()
    }
}

impl PartialEq for JwtAuthority {
    fn eq(&self, other: &Self) -> bool {
        self.jwk == other.jwk
    }
}

impl Eq for JwtAuthority {}
