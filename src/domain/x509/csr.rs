//! A certificate signing request whose proof of possession holds.

use super::KeyAlgorithm;

/// A PKCS#10 request that parsed, whose key is of an accepted kind, and whose signature that key made. Subject, names and
/// extensions that it asks for are not kept: what a certificate says is decided by the caller's identity alone. One
/// exception, as in istiod: whether it had a common name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedCsr {
    public_key_info: Vec<u8>,
    key_algorithm: KeyAlgorithm,
    has_common_name: bool,
}

/// Why a request is refused. The first two texts are istiod's; the others stand inside its parentheses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CsrError {
    /// No PEM block.
    #[error("certificate signing request is not properly encoded")]
    Pem,
    /// The block is not PKCS#10.
    #[error("failed to parse X.509 certificate signing request")]
    Der,
    /// The key is of a kind or size that is not accepted.
    #[error("unsupported public key {found}: use RSA 2048 to 8192, ECDSA P-256 or P-384, or Ed25519")]
    Key {
        /// What the request holds.
        found: String,
    },
    /// The signature algorithm is not accepted, or does not fit the key.
    #[error(
        "unsupported signature algorithm {found}: use SHA-256, SHA-384 or SHA-512 with RSA (PKCS#1 v1.5 or PSS), ECDSA with SHA-256 or SHA-384, or Ed25519"
    )]
    SignatureAlgorithm {
        /// What the request names.
        found: String,
    },
    /// The signature is not by the request's own key.
    #[error("x509: {algorithm} verification failure")]
    Signature {
        /// RSA, ECDSA or Ed25519.
        algorithm: &'static str,
    },
}

impl VerifiedCsr {
    /// Parses the first PEM block, whatever its label (as istiod does), and checks the proof of possession. What stands
    /// behind that block is ignored. pilot-agent's `O=""` and ztunnel's empty subject are accepted.
    ///
    /// # Errors
    ///
    /// When the text is not such a request, or the key or signature is not acceptable.
    pub fn from_pem(_pem: &[u8]) -> Result<Self, CsrError> {
        todo!()
    }

    /// SubjectPublicKeyInfo, DER.
    pub fn public_key_info(&self) -> &[u8] {
        &self.public_key_info
    }

    /// The kind of the request's key.
    pub const fn key_algorithm(&self) -> KeyAlgorithm {
        self.key_algorithm
    }

    /// Whether the subject held a common name.
    pub const fn has_common_name(&self) -> bool {
        self.has_common_name
    }
}
