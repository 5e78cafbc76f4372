//! Keeps the gateway's identity current and publishes it to every subscriber.

use std::sync::Arc;

use crate::domain::x509::{TrustBundle, X509Svid};

/// What the socket serves: replaced as a whole, never changed in place. `None` in the channel until there is a first one.
#[derive(Debug)]
pub struct WorkloadIdentity {
    /// The SVID with its key; `None` after it expired without a successor.
    pub svid: Option<Arc<X509Svid>>,
    /// The own trust domain's bundle.
    pub bundle: Arc<TrustBundle>,
    /// Grows with each publication.
    pub revision: u64,
}

/// Follows what is published.
pub type IdentityReceiver = tokio::sync::watch::Receiver<Option<Arc<WorkloadIdentity>>>;
