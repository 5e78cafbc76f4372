//! What is shown of other trust domains' bundles.

use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use super::{FetchOutcome, Label, Metrics, zeroed};
use crate::domain::{clock::Timestamp, identity::TrustDomain};

#[derive(Debug)]
pub(super) struct FederationMetrics {
    fetches: Family<Label<FetchOutcome>, Counter>,
    /// By trust domain: operators name them, and not many.
    fetched: Family<[(&'static str, String); 1], Gauge>,
}

impl FederationMetrics {
    pub(super) fn new() -> Self {
        Self { fetches: zeroed(FetchOutcome::ALL), fetched: Family::default() }
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "federated_bundle_fetches",
            "Fetches of other trust domains' bundles by outcome",
            self.fetches.clone(),
        );
        registry.register(
            "federated_bundle_fetched_timestamp_seconds",
            "When another trust domain's endpoint last answered a good bundle, as Unix time; on the active replica",
            self.fetched.clone(),
        );
    }
}

impl Metrics {
    /// Counts a fetch of another trust domain's bundle.
    pub fn bundle_fetched(&self, outcome: FetchOutcome) {
        self.federation.fetches.get_or_create(&[("outcome", outcome)]).inc();
    }

    /// Shows when the bundle of a trust domain was last known to be current.
    pub fn set_bundle_fetched(&self, trust_domain: &TrustDomain, at: Timestamp) {
        let label = [("trust_domain", trust_domain.to_string())];
        self.federation.fetched.get_or_create(&label).set(at.seconds());
    }

    /// Shows that no more: it is another replica that fetches, or the federation has ended.
    pub fn forget_federation(&self) {
        self.federation.fetched.clear();
    }

    /// The same for one trust domain.
    pub fn forget_federated(&self, trust_domain: &TrustDomain) {
        self.federation.fetched.remove(&[("trust_domain", trust_domain.to_string())]);
    }
}
