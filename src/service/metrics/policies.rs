//! What is shown of policies: by an agent of those that it follows, by a replica of how many are in force. Nothing before they
//! are known.

use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use super::Metrics;
use crate::domain::{clock::Timestamp, policy::ProbeFinding};

type NoLabels = [(&'static str, &'static str); 0];

#[derive(Debug, Default)]
pub(super) struct PolicyMetrics {
    confirmed: Family<NoLabels, Gauge>,
    /// Without a label on an agent, by whether they are in force on a replica.
    services: Family<Vec<(&'static str, &'static str)>, Gauge>,
    probes: Family<[(&'static str, &'static str); 1], Counter>,
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

    /// What a replica alone counts.
    pub(super) fn register_probes(&self, registry: &mut Registry) {
        OUTCOMES.iter().for_each(|outcome| drop(self.probes.get_or_create(&[("outcome", *outcome)])));
        registry.register("policy_probes", "Connections to pods by what they showed", self.probes.clone());
    }
}

/// Of a probe's outcomes.
const OUTCOMES: [&str; 9] = [
    "mutual",
    "unreachable",
    "silent",
    "closed",
    "no_tls",
    "no_client_certificate",
    "refused",
    "untrusted",
    "stranger",
];

const fn outcome(finding: &ProbeFinding) -> &'static str {
    match finding {
        ProbeFinding::Mutual => "mutual",
        ProbeFinding::Unreachable(_) => "unreachable",
        ProbeFinding::Silent => "silent",
        ProbeFinding::Closed(_) => "closed",
        ProbeFinding::NoTls => "no_tls",
        ProbeFinding::NoClientCertificate => "no_client_certificate",
        ProbeFinding::Refused(_) => "refused",
        ProbeFinding::Untrusted(_) => "untrusted",
        ProbeFinding::Stranger(_) => "stranger",
    }
}

impl Metrics {
    /// Counts a probe of a pod.
    pub fn policy_probed(&self, finding: &ProbeFinding) {
        self.policies.probes.get_or_create(&[("outcome", outcome(finding))]).inc();
    }

    /// Shows how many Services' policies are in force, and how many are not, as far as is known.
    pub fn set_enforced_services(&self, enforced: usize, others: usize) {
        for (value, count) in [("true", enforced), ("false", others)] {
            let gauge = self.policies.services.get_or_create_owned(&vec![("enforced", value)]);
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    /// Shows that what is known of policies was current at this time.
    pub fn policy_confirmed(&self, at: Timestamp) {
        self.policies.confirmed.get_or_create(&[]).set(at.seconds());
    }

    /// Shows for how many Services there is a policy.
    pub fn set_policy_services(&self, count: usize) {
        self.policies.services.get_or_create(&Vec::new()).set(i64::try_from(count).unwrap_or(i64::MAX));
    }
}
