//! The renewals of own certificates, as their publishers count them: read when a page is asked for, not counted twice as they
//! happen.

use std::sync::{Arc, Mutex, PoisonError, atomic::AtomicU64};

use prometheus_client::metrics::{counter::Counter, family::Family, gauge::Gauge};

use super::{ByLabel, ExpiringCertificate, RenewalOutcome, zeroed};
use crate::{domain::clock::Timestamp, service::svid_publisher::RenewalStats};

/// The families, and whom they follow.
#[derive(Debug)]
pub(super) struct RenewalMetrics {
    pub(super) renewals: Family<ByLabel<RenewalOutcome>, Counter>,
    pub(super) rejections: Counter,
    pub(super) skew: Gauge<u64, AtomicU64>,
    pub(super) not_before: Family<ByLabel<ExpiringCertificate>, Gauge>,
    pub(super) due: Family<ByLabel<ExpiringCertificate>, Gauge>,
    followed: Mutex<Vec<(ExpiringCertificate, Arc<RenewalStats>)>>,
}

impl RenewalMetrics {
    pub(super) fn new() -> Self {
        let (rejections, skew, not_before, due, followed) = Default::default();
        Self { renewals: zeroed(RenewalOutcome::ALL), rejections, skew, not_before, due, followed }
    }

    pub(super) fn follow(&self, certificate: ExpiringCertificate, stats: Arc<RenewalStats>) {
        self.followed.lock().unwrap_or_else(PoisonError::into_inner).push((certificate, stats));
    }

    /// Takes over what the publishers have counted, and shows when each certificate ends.
    pub(super) fn read(&self, show_expiry: impl Fn(ExpiringCertificate, Timestamp)) {
        let followed = self.followed.lock().unwrap_or_else(PoisonError::into_inner);
        for (certificate, _) in followed.iter() {
            let all = || followed.iter().filter(|(other, _)| other == certificate).map(|(_, stats)| stats);
            // of several the one that ends first is shown, and goes on being shown when it has ended
            let end = all().map(|stats| stats.not_after_seconds()).filter(|end| *end > 0).min();
            if let Some(end) = end.filter(|_| !all().any(|stats| stats.is_withdrawn())) {
                show_expiry(*certificate, Timestamp::from_seconds(end));
            }
            let dates = [
                (&self.not_before, all().map(|stats| stats.not_before_seconds()).filter(|at| *at > 0).min()),
                (&self.due, all().map(|stats| stats.due_seconds()).filter(|at| *at > 0).min()),
            ];
            for (family, at) in dates.into_iter().filter_map(|(family, at)| Some((family, at?))) {
                family.get_or_create(&[("certificate", *certificate)]).set(at);
            }
        }
        let svids = || followed.iter().filter(|(certificate, _)| *certificate == ExpiringCertificate::Svid);
        let total = |count: fn(&RenewalStats) -> u64| svids().map(|(_, stats)| count(stats)).sum::<u64>();
        self.raise(RenewalOutcome::Renewed, total(RenewalStats::renewals));
        self.raise(RenewalOutcome::Failed, total(RenewalStats::failures));
        self.rejections.inc_by(total(RenewalStats::rejections).saturating_sub(self.rejections.get()));
        if let Some(skew) = svids().map(|(_, stats)| stats.skew_seconds()).max() {
            self.skew.set(skew);
        }
    }

    fn raise(&self, outcome: RenewalOutcome, total: u64) {
        let counter = self.renewals.get_or_create(&[("outcome", outcome)]);
        counter.inc_by(total.saturating_sub(counter.get()));
    }
}
