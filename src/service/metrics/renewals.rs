//! The renewals of own certificates, as their publishers count them: read when a page is asked for, not counted twice as they
//! happen.

use std::{
    fmt,
    fmt::Write,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicU64},
};

use prometheus_client::{
    encoding::{EncodeLabelValue, LabelValueEncoder},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use super::ExpiringCertificate;
use crate::{domain::clock::Timestamp, service::svid_publisher::RenewalStats};

/// How the renewal of the own SVID ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RenewalOutcome {
    /// A new SVID is published.
    Renewed,
    /// The last one stays.
    Failed,
}

/// The families, and whom they follow.
#[derive(Debug, Default)]
pub(super) struct RenewalMetrics {
    renewals: Family<[(&'static str, RenewalOutcome); 1], Counter>,
    rejections: Counter,
    skew: Gauge<u64, AtomicU64>,
    followed: Mutex<Vec<(ExpiringCertificate, Arc<RenewalStats>)>>,
}

impl EncodeLabelValue for RenewalOutcome {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        encoder.write_str(match self {
            Self::Renewed => "renewed",
            Self::Failed => "failed",
        })
    }
}

impl RenewalMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        for outcome in [RenewalOutcome::Renewed, RenewalOutcome::Failed] {
            self.raise(outcome, 0);
        }
        registry.register("svid_renewals", "Renewals of the own SVID by outcome", self.renewals.clone());
        registry.register(
            "svid_rejections",
            "SVIDs that an authority gave and that were not published, because a check failed",
            self.rejections.clone(),
        );
        registry.register(
            "clock_skew_seconds",
            "How long it is until the newest SVID is valid by the clock of this host; 0 if it is",
            self.skew.clone(),
        );
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
