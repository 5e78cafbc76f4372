//! What the pair publishes for others to verify by, as one value that is replaced as a whole. Where it comes from and how it
//! reaches anybody is not decided here.

use std::sync::Arc;

use tokio::sync::watch;

use crate::domain::{bundle::SpiffeBundle, x509::TrustBundle};

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
}
