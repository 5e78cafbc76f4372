//! An X.509-SVID with its key: what a workload presents.

use super::{Certificate, CertificateChain, PrivateKey, lint};
use crate::domain::identity::SpiffeId;

/// A chain whose leaf is an X.509-SVID, and the key that the leaf is for. Made only by [`X509Svid::new`], so whoever holds
/// one need not check again.
#[derive(Clone, Debug)]
pub struct X509Svid {
    id: SpiffeId,
    chain: CertificateChain,
    key: PrivateKey,
}

/// Why chain and key are not an X.509-SVID.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SvidError {
    /// The leaf breaks a rule of X509-SVID.
    #[error("the leaf is not an X.509-SVID: {0}")]
    Leaf(String),
    /// The key is not the leaf's.
    #[error("the private key does not belong to the certificate")]
    Key,
}

impl X509Svid {
    /// Checks the leaf by the rules of X509-SVID and that `key` is the leaf's.
    ///
    /// # Errors
    ///
    /// When either is not so.
    pub fn new(chain: CertificateChain, key: PrivateKey) -> Result<Self, SvidError> {
        if let Some(finding) = lint::check_leaf(chain.leaf().der()).first() {
            return Err(SvidError::Leaf(finding.to_string()));
        }
        let id = chain.leaf().spiffe_id().ok_or_else(|| SvidError::Leaf("it names no SPIFFE ID".into()))?;
        if key.public_key_info() != chain.leaf().public_key_info() {
            return Err(SvidError::Key);
        }
        Ok(Self { id, chain, key })
    }

    /// The workload's ID.
    pub const fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// The leaf.
    pub const fn leaf(&self) -> &Certificate {
        self.chain.leaf()
    }

    /// Leaf and intermediates.
    pub const fn chain(&self) -> &CertificateChain {
        &self.chain
    }

    /// The private key.
    pub const fn key(&self) -> &PrivateKey {
        &self.key
    }
}
