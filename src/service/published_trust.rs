//! What the pair publishes for others to verify by, as one value that is replaced as a whole. Where it comes from and how it
//! reaches anybody is not decided here.

use std::sync::Arc;

use tokio::sync::watch;

use crate::domain::{
    bundle::SpiffeBundle,
    identity::TrustDomain,
    jwt::{JwtAuthorities, JwtAuthority},
    x509::{BundleError, Certificate, TrustBundle},
};

/// The own trust domain's bundle and those of the others that it federates with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishedTrust {
    /// The own one, with a sequence.
    pub own: SpiffeBundle,
    /// Authorities of it whose SVIDs are to be renewed at once: subject key identifiers in hex, and key identifiers.
    pub tainted: Vec<String>,
    /// One for each other trust domain, in the order of their names.
    pub federated: Vec<SpiffeBundle>,
}

/// The latest; `None` until there is a first one.
pub type TrustReceiver = watch::Receiver<Option<Arc<PublishedTrust>>>;

impl PublishedTrust {
    /// Of a trust domain that has had no other roots, and signs no JWT-SVIDs.
    pub fn first(bundle: &TrustBundle) -> Self {
        let own = SpiffeBundle {
            trust_domain: bundle.trust_domain().clone(),
            x509_authorities: bundle.roots().to_vec(),
            jwt_authorities: Vec::new(),
            sequence: Some(1),
            refresh_hint: None,
        };
        Self { own, tainted: Vec::new(), federated: Vec::new() }
    }

    /// Of the own bundle; 0 if its maker does not count.
    pub fn sequence(&self) -> u64 {
        self.own.sequence.unwrap_or_default()
    }

    /// The roots of X.509-SVIDs of the own trust domain.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub fn own_roots(&self) -> Result<TrustBundle, BundleError> {
        TrustBundle::new(self.own.trust_domain.clone(), self.own.x509_authorities.clone())
    }

    /// Whether these are its roots of the own trust domain, in whatever order.
    pub fn has_roots(&self, roots: &TrustBundle) -> bool {
        let (own, others) = (&self.own.x509_authorities, roots.roots());
        own.len() == others.len() && own.iter().all(|root| others.contains(root))
    }

    /// The bundles of trust domains other than `own`.
    pub fn others<'a>(&'a self, own: &'a TrustDomain) -> impl Iterator<Item = &'a SpiffeBundle> {
        self.federated.iter().filter(move |bundle| bundle.trust_domain != *own)
    }

    /// Whether a certificate is to be renewed because of who has signed it.
    pub fn is_tainted(&self, leaf: &Certificate) -> bool {
        let Some(signer) = leaf.authority_key_id() else { return false };
        let signer: String = signer.iter().map(|byte| format!("{byte:02x}")).collect();
        self.tainted.iter().any(|tainted| tainted.eq_ignore_ascii_case(&signer))
    }
}

impl JwtAuthorities for PublishedTrust {
    fn of(&self, trust_domain: &TrustDomain) -> Option<&[JwtAuthority]> {
        let mut bundles = std::iter::once(&self.own).chain(&self.federated);
        bundles.find(|bundle| bundle.trust_domain == *trust_domain).map(|bundle| bundle.jwt_authorities.as_slice())
    }
}
