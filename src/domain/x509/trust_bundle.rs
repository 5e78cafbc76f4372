//! The roots of one trust domain.

use rustls_pki_types::{CertificateDer, TrustAnchor};

use super::{Certificate, CertificateError};
use crate::domain::{clock::Timestamp, identity::TrustDomain};

/// What a trust domain's SVIDs are verified against: at least one CA certificate, each once, in the order given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustBundle {
    trust_domain: TrustDomain,
    roots: Vec<Certificate>,
    anchors: Vec<TrustAnchor<'static>>,
}

/// Why certificates are not a trust bundle.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    /// No certificate.
    #[error("a trust bundle holds at least one CA certificate")]
    Empty,
    /// One that is no CA.
    #[error("a trust bundle holds only CA certificates; the one with serial {0} is none")]
    NotCa(String),
    /// One that doesn't parse.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
}

impl TrustBundle {
    /// From certificates; a repeated one counts once.
    ///
    /// # Errors
    ///
    /// When there is none, or one is not a CA's.
    pub fn new(trust_domain: TrustDomain, roots: Vec<Certificate>) -> Result<Self, BundleError> {
        let mut bundle = Self { trust_domain, roots: Vec::with_capacity(roots.len()), anchors: Vec::new() };
        for root in roots {
            if !root.is_ca() {
                return Err(BundleError::NotCa(root.serial().to_string()));
            }
            if !bundle.roots.contains(&root) {
                bundle.anchors.push(anchor(&root)?);
                bundle.roots.push(root);
            }
        }
        if bundle.roots.is_empty() { Err(BundleError::Empty) } else { Ok(bundle) }
    }

    /// From PEM certificates.
    ///
    /// # Errors
    ///
    /// As [`TrustBundle::new`], and when the text is not PEM certificates.
    pub fn from_pem(trust_domain: TrustDomain, pem: &[u8]) -> Result<Self, BundleError> {
        Self::new(trust_domain, Certificate::all_from_pem(pem)?)
    }

    /// These, and then those of `other` that are not among them.
    #[must_use]
    pub fn and(mut self, other: &Self) -> Self {
        for (root, anchor) in other.roots.iter().zip(&other.anchors) {
            if !self.roots.contains(root) {
                self.roots.push(root.clone());
                self.anchors.push(anchor.clone());
            }
        }
        self
    }

    /// Those that have not ended; `None` if all have.
    pub fn unended(&self, now: Timestamp) -> Option<Self> {
        let (roots, anchors): (Vec<_>, Vec<_>) = self
            .roots
            .iter()
            .cloned()
            .zip(self.anchors.iter().cloned())
            .filter(|(root, _)| root.not_after() > now)
            .unzip();
        (!roots.is_empty()).then(|| Self { trust_domain: self.trust_domain.clone(), roots, anchors })
    }

    /// Whose roots these are.
    pub const fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The roots.
    pub fn roots(&self) -> &[Certificate] {
        &self.roots
    }

    /// The roots as the path validator wants them.
    pub(super) fn anchors(&self) -> &[TrustAnchor<'static>] {
        &self.anchors
    }

    /// PEM, one block after the other.
    pub fn to_pem(&self) -> String {
        self.roots.iter().map(Certificate::to_pem).collect()
    }

    /// DER back to back.
    pub fn to_der(&self) -> Vec<u8> {
        self.roots.iter().flat_map(|root| root.der().iter().copied()).collect()
    }
}

fn anchor(root: &Certificate) -> Result<TrustAnchor<'static>, CertificateError> {
    let der = CertificateDer::from(root.der());
    match webpki::anchor_from_trusted_cert(&der) {
        Ok(anchor) => Ok(anchor.to_owned()),
        Err(error) => Err(CertificateError::Der(error.to_string())),
    }
}
