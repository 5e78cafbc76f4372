//! A private key of ours. It is zeroized when dropped and never shows itself in debug output.

use std::fmt;

use zeroize::Zeroizing;

use crate::domain::identity::SpiffeId;

/// An unencrypted private key, PKCS#8 DER.
#[derive(Clone)]
pub struct PrivateKey {
    pkcs8: Zeroizing<Vec<u8>>,
    algorithm: KeyAlgorithm,
}

/// The kinds of key that certificates and signing authorities may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyAlgorithm {
    /// ECDSA on P-256.
    EcdsaP256,
    /// ECDSA on P-384.
    EcdsaP384,
    /// Ed25519.
    Ed25519,
    /// RSA with this many bits, 2048 to 8192.
    Rsa(u16),
}

/// Why bytes are not a private key that can be used. Never holds the bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PrivateKeyError {
    /// No PEM block of a private key.
    #[error("not a PEM private key: {0}")]
    Pem(String),
    /// Encoded in a way, or of a kind, that is not supported.
    #[error("unsupported private key: use PKCS#8 with RSA 2048 to 8192, ECDSA P-256 or P-384, or Ed25519")]
    Unsupported,
    /// Key generation failed for want of randomness.
    #[error("no private key could be generated")]
    Generate,
}

impl PrivateKey {
    /// A new ECDSA key on P-256.
    ///
    /// # Errors
    ///
    /// When the system has no randomness to give.
    pub fn generate_p256() -> Result<Self, PrivateKeyError> {
        todo!()
    }

    /// From PKCS#8 DER.
    ///
    /// # Errors
    ///
    /// When it is not a key of an accepted kind.
    pub fn from_pkcs8(_der: Zeroizing<Vec<u8>>) -> Result<Self, PrivateKeyError> {
        todo!()
    }

    /// From the first PEM block, which must be `PRIVATE KEY` (PKCS#8), `EC PRIVATE KEY` (SEC1) or `RSA PRIVATE KEY`.
    ///
    /// # Errors
    ///
    /// When there is no such block, or the key is not of an accepted kind.
    pub fn from_pem(_pem: &[u8]) -> Result<Self, PrivateKeyError> {
        todo!()
    }

    /// PKCS#8 DER.
    pub fn pkcs8(&self) -> &[u8] {
        &self.pkcs8
    }

    /// One `PRIVATE KEY` block.
    pub fn to_pem(&self) -> Zeroizing<String> {
        todo!()
    }

    /// The kind of key.
    pub const fn algorithm(&self) -> KeyAlgorithm {
        self.algorithm
    }

    /// The public half, SubjectPublicKeyInfo DER.
    pub fn public_key_info(&self) -> &[u8] {
        todo!()
    }

    /// A PEM request signed by this key, asking for `id` in a critical URI name, with an empty subject.
    ///
    /// # Errors
    ///
    /// When signing fails for want of randomness.
    pub fn certificate_request(&self, _id: &SpiffeId) -> Result<String, PrivateKeyError> {
        todo!()
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey({:?})", self.algorithm)
    }
}
