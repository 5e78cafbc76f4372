//! What a replica before istiod counts.

use prometheus_client::metrics::{counter::Counter, family::Family, gauge::Gauge};

use super::{ByLabel, IstiodOutcome, Metrics, zeroed};

#[derive(Debug)]
pub(super) struct IstiodMetrics {
    pub(super) requests: Family<ByLabel<IstiodOutcome>, Counter>,
    pub(super) reachable: Gauge,
}

impl IstiodMetrics {
    pub(super) fn new() -> Self {
        Self { requests: zeroed(IstiodOutcome::ALL), reachable: Gauge::default() }
    }
}

impl Metrics {
    /// Counts what came of asking istiod, or of not asking it.
    pub fn istiod_asked(&self, outcome: IstiodOutcome) {
        self.istiod.requests.get_or_create(&[("outcome", outcome)]).inc();
    }

    /// Shows whether istiod can be reached.
    pub fn set_istiod_reachable(&self, reachable: bool) {
        self.istiod.reachable.set(i64::from(reachable));
    }
}
