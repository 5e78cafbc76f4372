//! The handle through which every certificate is signed. A key in memory today; a remote signer fits the same place.

use std::{fmt, sync::Arc};

use rcgen::{PublicKeyData, SigningKey};

use crate::domain::x509::{KeyPair, PrivateKey};

/// Signs with one authority's key: ECDSA with the hash of its curve's size, RSA by PKCS#1 v1.5 with SHA-256, or Ed25519.
pub struct Signer(Arc<KeyPair>);

impl Signer {
    /// Over a key in memory.
    pub fn new(key: &PrivateKey) -> Self {
        Self(key.key_pair())
    }
}

impl PublicKeyData for Signer {
    fn der_bytes(&self) -> &[u8] {
        self.0.der_bytes()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        PublicKeyData::algorithm(self.0.as_ref())
    }
}

impl SigningKey for Signer {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.0.sign(message)
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Signer")
    }
}
