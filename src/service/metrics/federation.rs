//! What is shown of other trust domains' bundles.

use std::time::Duration;

use prometheus_client::metrics::{counter::Counter, family::Family, gauge::Gauge};

use super::{ByLabel, ByName, FetchOutcome, Metrics, zeroed};
use crate::domain::{clock::Timestamp, identity::TrustDomain};

#[derive(Debug)]
pub(super) struct FederationMetrics {
    pub(super) fetches: Family<ByLabel<FetchOutcome>, Counter>,
    /// By trust domain: operators name them, and not many.
    pub(super) fetched: Family<ByName, Gauge>,
    pub(super) interval: Family<ByName, Gauge>,
}

impl FederationMetrics {
    pub(super) fn new() -> Self {
        Self { fetches: zeroed(FetchOutcome::ALL), fetched: Family::default(), interval: Family::default() }
    }
}

impl Metrics {
    /// Counts a fetch of another trust domain's bundle.
    pub fn bundle_fetched(&self, outcome: FetchOutcome) {
        self.federation.fetches.get_or_create(&[("outcome", outcome)]).inc();
    }

    /// Shows when the bundle of a trust domain was last known to be current, and how long after that it is asked for again.
    pub fn set_bundle_fetched(&self, trust_domain: &TrustDomain, at: Timestamp, interval: Duration) {
        let label = [("trust_domain", trust_domain.to_string())];
        self.federation.fetched.get_or_create(&label).set(at.seconds());
        let seconds = i64::try_from(interval.as_secs()).unwrap_or(i64::MAX);
        self.federation.interval.get_or_create(&label).set(seconds);
    }

    /// Shows that no more: it is another replica that fetches, or the federation has ended.
    pub fn forget_federation(&self) {
        self.federation.fetched.clear();
        self.federation.interval.clear();
    }

    /// The same for one trust domain.
    pub fn forget_federated(&self, trust_domain: &TrustDomain) {
        let label = [("trust_domain", trust_domain.to_string())];
        self.federation.fetched.remove(&label);
        self.federation.interval.remove(&label);
    }
}
