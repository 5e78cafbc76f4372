//! The trust in the stored state, read without a term.

use std::{sync::Arc, time::Duration};

use super::{KeptTrust, TermTrust};
use crate::{
    domain::identity::TrustDomain,
    service::{ports::StateStore, signing_state::stored_trust},
};

/// Of a store that every replica can read.
pub struct StoredTrust {
    store: Arc<dyn StateStore>,
    trust_domain: TrustDomain,
    refresh_hint: Duration,
}

impl StoredTrust {
    /// Of this trust domain, in `store`, with the refresh hint that this replica would publish it with itself.
    pub const fn new(store: Arc<dyn StateStore>, trust_domain: TrustDomain, refresh_hint: Duration) -> Self {
        Self { store, trust_domain, refresh_hint }
    }
}

impl KeptTrust for StoredTrust {
    fn load(&self) -> Result<Option<TermTrust>, String> {
        let stored = stored_trust(self.store.as_ref(), &self.trust_domain, self.refresh_hint);
        let stored = stored.map_err(|error| error.to_string())?;
        Ok(stored.map(|(term, trust)| TermTrust { term, trust: Arc::new(trust) }))
    }

    /// The active writes the state before it publishes what is in it.
    fn keep(&self, _trust: &TermTrust) -> Result<(), String> {
        Ok(())
    }
}
