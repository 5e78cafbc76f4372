//! The embedded token issuer: its own key and `iss`, only for running without Kubernetes.

use std::time::Duration;

use zeroize::Zeroizing;

use super::{JwkError, KeySet};
use crate::domain::{clock::Timestamp, identity::ServiceAccount};

/// An ES256 key that signs service account tokens.
#[derive(Debug)]
pub struct TokenIssuerKey {}

/// Why no token was made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MintError {
    /// Not a P-256 key in PKCS#8 PEM.
    #[error("not a token issuer's key: {0}")]
    Key(String),
    /// No randomness.
    #[error("the token could not be signed")]
    Sign,
}

impl TokenIssuerKey {
    /// A new key.
    ///
    /// # Errors
    ///
    /// When there is no randomness.
    pub fn generate() -> Result<Self, MintError> {
        todo!()
    }

    /// From its PEM file.
    ///
    /// # Errors
    ///
    /// When the file holds no such key.
    pub fn from_pem(_pem: &[u8]) -> Result<Self, MintError> {
        todo!()
    }

    /// For its file.
    pub fn to_pem(&self) -> Zeroizing<String> {
        todo!()
    }

    /// The public half.
    ///
    /// # Errors
    ///
    /// Never for a key that was made or read here; the parser is asked all the same.
    pub fn key_set(&self) -> Result<KeySet, JwkError> {
        todo!()
    }

    /// A token for `account`: `iss`, `sub` of four parts, `aud`, `iat`, `exp`; header `alg` ES256 and `kid`.
    ///
    /// # Errors
    ///
    /// When there is no randomness.
    pub fn mint(
        &self,
        _issuer: &str,
        _account: &ServiceAccount,
        _audience: &str,
        _now: Timestamp,
        _lifetime: Duration,
    ) -> Result<Zeroizing<String>, MintError> {
        todo!()
    }
}
