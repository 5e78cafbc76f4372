//! What an agent shows of the policies that it follows. Nothing before it knows them.

use prometheus_client::{
    metrics::{family::Family, gauge::Gauge},
    registry::Registry,
};

use super::Metrics;
use crate::domain::clock::Timestamp;

type NoLabels = [(&'static str, &'static str); 0];

/// Each has no label and at most one series.
#[derive(Debug, Default)]
pub(super) struct PolicyMetrics {
    confirmed: Family<NoLabels, Gauge>,
    services: Family<NoLabels, Gauge>,
}

impl PolicyMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "policy_confirmed_timestamp_seconds",
            "When the policies that the socket serves were last known to be current, as Unix time",
            self.confirmed.clone(),
        );
        registry.register("policy_services", "Services that require mutual TLS", self.services.clone());
    }
}

impl Metrics {
    /// Shows that what is known of policies was current at this time.
    pub fn policy_confirmed(&self, at: Timestamp) {
        self.policies.confirmed.get_or_create(&[]).set(at.seconds());
    }

    /// Shows for how many Services there is a policy.
    pub fn set_policy_services(&self, count: usize) {
        self.policies.services.get_or_create(&[]).set(i64::try_from(count).unwrap_or(i64::MAX));
    }
}
