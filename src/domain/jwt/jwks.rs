//! JWK Sets (RFC 7517), the public half only.

/// The verification keys of one issuer: EC P-256 and P-384, RSA of at least 2048 bits, Ed25519. Keys for other uses or of
/// other kinds are skipped, as the standard asks.
#[derive(Clone, Debug, Default)]
pub struct KeySet {}

/// Why a document is not a usable JWK Set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JwkError {
    /// Not JSON, or not of that shape.
    #[error("not a JWK Set: {0}")]
    Json(String),
    /// No key in it can verify a token.
    #[error("the JWK Set holds no usable key: use EC P-256 or P-384, RSA of at least 2048 bits, or Ed25519")]
    NoKey,
}

impl KeySet {
    /// Parses a JWK Set.
    ///
    /// # Errors
    ///
    /// When the document is not one, or none of its keys can be used.
    pub fn from_json(_json: &[u8]) -> Result<Self, JwkError> {
        todo!()
    }
}
