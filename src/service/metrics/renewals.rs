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
        for (certificate, stats) in self.followed.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            if stats.not_after_seconds() > 0 {
                show_expiry(*certificate, Timestamp::from_seconds(stats.not_after_seconds()));
            }
            for (family, seconds) in [(&self.not_before, stats.not_before_seconds()), (&self.due, stats.due_seconds())]
            {
                if seconds > 0 {
                    family.get_or_create(&[("certificate", *certificate)]).set(seconds);
                }
            }
            if *certificate == ExpiringCertificate::Svid {
                self.raise(RenewalOutcome::Renewed, stats.renewals());
                self.raise(RenewalOutcome::Failed, stats.failures());
                self.rejections.inc_by(stats.rejections().saturating_sub(self.rejections.get()));
                self.skew.set(stats.skew_seconds());
            }
        }
    }

    fn raise(&self, outcome: RenewalOutcome, total: u64) {
        let counter = self.renewals.get_or_create(&[("outcome", outcome)]);
        counter.inc_by(total.saturating_sub(counter.get()));
    }
}
