//! An X.509-SVID with its key: what a workload presents.

use super::{Certificate, CertificateChain, PrivateKey};
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
    pub fn new(_chain: CertificateChain, _key: PrivateKey) -> Result<Self, SvidError> {
        todo!()
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
