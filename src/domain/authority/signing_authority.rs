//! A signing authority: CA certificate, key, what stands above it, and the bundle it is published under.

use std::time::Duration;

use crate::domain::{
    clock::Timestamp,
    identity::TrustDomain,
    random::SecureRandom,
    x509::{Certificate, PrivateKey, TrustBundle},
};

/// Everything that signing needs, worked out once: nothing of this is parsed or encoded per request.
#[derive(Debug)]
pub struct SigningAuthority {
    certificate: Certificate,
    bundle: TrustBundle,
}

/// Why material is not a signing authority.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthorityError {
    /// The certificate may not sign certificates.
    #[error("certificate is not authorized to sign other certificates: {0}")]
    NotAuthority(String),
    /// The key is not the certificate's.
    #[error("the private key does not belong to the signing certificate")]
    Key,
    /// The key can't sign certificates here.
    #[error("unsupported signing key: use RSA 2048 to 8192, ECDSA P-256 or P-384, or Ed25519")]
    UnsupportedKey,
    /// The chain does not lead to the bundle.
    #[error("the signing certificate does not verify to the trust bundle: {0}")]
    Chain(String),
    /// Building the root failed.
    #[error("the root certificate could not be made: {0}")]
    Build(String),
}

impl SigningAuthority {
    /// A new self-signed root with an ECDSA P-256 key: subject `O=<trust domain>`, keyCertSign and cRLSign, CA without path
    /// length, a subject key identifier, `spiffe://TD` as URI name (X509-SVID 4.1), valid from `now` minus two minutes for
    /// `lifetime`. Returns the key beside it, for the store.
    ///
    /// # Errors
    ///
    /// When randomness or signing fails.
    pub fn self_signed(
        _trust_domain: &TrustDomain,
        _lifetime: Duration,
        _now: Timestamp,
        _random: &dyn SecureRandom,
    ) -> Result<(Self, PrivateKey), AuthorityError> {
        todo!()
    }

    /// From stored or plugged-in material: signing certificate, its key, the certificates to send above a leaf (which must
    /// begin with the signing certificate unless that is itself a root of `bundle`), and the bundle. Everything is checked:
    /// key against certificate, CA flags, the path to the bundle at `now`.
    ///
    /// # Errors
    ///
    /// When something doesn't fit.
    pub fn from_parts(
        _certificate: Certificate,
        _key: &PrivateKey,
        _chain: Vec<Certificate>,
        _bundle: TrustBundle,
        _now: Timestamp,
    ) -> Result<Self, AuthorityError> {
        todo!()
    }

    /// The signing certificate.
    pub const fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// What its SVIDs are verified against.
    pub const fn bundle(&self) -> &TrustBundle {
        &self.bundle
    }

    /// Hex of the signing certificate's subject key identifier (or of its key's SHA-256, if it has none): how operators
    /// name this authority.
    pub fn id(&self) -> &str {
        todo!()
    }

    /// The PEM elements that follow a leaf in a response: each intermediate as one element, and last the whole bundle
    /// (spec: chain layout that pilot-agent and ztunnel read). Encoded once.
    pub fn response_tail(&self) -> &[String] {
        todo!()
    }
}
