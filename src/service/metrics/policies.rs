//! What is shown of policies: by an agent of those that it follows, by a replica of how many are in force. Nothing before they
//! are known.

use prometheus_client::metrics::{counter::Counter, family::Family, gauge::Gauge};

use super::{Metrics, Unlabelled};
use crate::domain::{clock::Timestamp, policy::ProbeFinding};

#[derive(Debug)]
pub(super) struct PolicyMetrics {
    pub(super) confirmed: Family<Unlabelled, Gauge>,
    /// Without a label on an agent, by whether they are in force on a replica.
    pub(super) services: Family<Vec<(&'static str, &'static str)>, Gauge>,
    pub(super) probes: Family<[(&'static str, &'static str); 1], Counter>,
}

impl PolicyMetrics {
    pub(super) fn new() -> Self {
        let (confirmed, services, probes) = (Family::default(), Family::default(), Family::<_, Counter>::default());
        PROBE_OUTCOMES.iter().for_each(|outcome| drop(probes.get_or_create(&[("outcome", *outcome)])));
        Self { confirmed, services, probes }
    }
}

/// Of a probe's outcomes.
pub(super) const PROBE_OUTCOMES: &[&str] = &[
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
