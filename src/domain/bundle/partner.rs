//! What is kept of a trust domain with which this one is federated, and what of a configuration is taken into that.

use super::{BundleEndpoint, SpiffeBundle};
use crate::domain::clock::Timestamp;

/// What is kept of another trust domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partner {
    /// As it was given by command; `None` if it stands in the configuration.
    pub commanded: Option<Commanded>,
    /// The last good one; the one that was handed over at first until one was fetched.
    pub bundle: Option<SpiffeBundle>,
    /// When that was fetched; `None` if it was handed over.
    pub fetched_at: Option<Timestamp>,
    /// Digest of the configured bundle that the kept one goes back to, in hex.
    pub bootstrap: Option<String>,
    /// Of those before it, oldest first, at most [`Self::EARLIER_BOOTSTRAPS`].
    pub earlier_bootstraps: Vec<String>,
    /// Digest of the bundle of which that of a file has taken the place, in hex.
    pub replaced: Option<String>,
}

impl Partner {
    /// How many are remembered of the bundles that configurations have handed over.
    pub const EARLIER_BOOTSTRAPS: usize = 3;

    /// Nothing is known of it, and no operator has made the relationship.
    pub const NOTHING: Self = Self {
        commanded: None,
        bundle: None,
        fetched_at: None,
        bootstrap: None,
        earlier_bootstraps: Vec::new(),
        replaced: None,
    };

    /// Takes up the bundle that a configuration hands over, unless it was taken before: not again as long as it is the last one, and
    /// not in place of one that was fetched since, or two replicas of which one has an older configuration would undo at each change
    /// of the active what was fetched.
    pub fn hand_over(&mut self, bundle: SpiffeBundle, digest: String) {
        let was_taken = self.fetched_at.is_some() && self.earlier_bootstraps.contains(&digest);
        if was_taken || self.bootstrap.as_ref() == Some(&digest) {
            return;
        }
        self.earlier_bootstraps.retain(|earlier| *earlier != digest);
        self.earlier_bootstraps.extend(self.bootstrap.replace(digest));
        if self.earlier_bootstraps.len() > Self::EARLIER_BOOTSTRAPS {
            self.earlier_bootstraps.remove(0);
        }
        (self.bundle, self.fetched_at) = (Some(bundle), None);
    }
}

/// A relationship that an operator made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commanded {
    /// Where the bundle is.
    pub endpoint: BundleEndpoint,
    /// Since when, in whole seconds.
    pub since: Timestamp,
    /// The operator's UID.
    pub by: u32,
}
