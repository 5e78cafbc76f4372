//! The renewals of own certificates, as their publishers count them: read when a page is asked for, not counted twice as they
//! happen.

use std::sync::{Arc, Mutex, PoisonError, atomic::AtomicU64};

use prometheus_client::metrics::{counter::Counter, family::Family, gauge::Gauge};

use super::{ByLabel, ExpiringCertificate, RenewalOutcome};
use crate::{domain::clock::Timestamp, service::svid_publisher::RenewalStats};

/// The families, and whom they follow.
#[derive(Debug)]
pub(super) struct RenewalMetrics {
    pub(super) renewals: Family<(ByLabel<RenewalOutcome>, OfIdentity), Counter>,
    pub(super) rejections: Counter,
    pub(super) skew: Gauge<u64, AtomicU64>,
    pub(super) not_before: Family<OfCertificate, Gauge>,
    pub(super) due: Family<OfCertificate, Gauge>,
    followed: Mutex<Vec<(OfCertificate, Arc<RenewalStats>)>>,
}

/// Which certificate, and of which identity.
pub(super) type OfCertificate = (ByLabel<ExpiringCertificate>, OfIdentity);
/// The hint of an identity beside an agent's first one, which has no such label.
pub(super) type OfIdentity = Vec<(&'static str, String)>;

impl RenewalMetrics {
    pub(super) fn new() -> Self {
        let (renewals, rejections, skew, not_before, due, followed) = Default::default();
        let metrics = Self { renewals, rejections, skew, not_before, due, followed };
        metrics.begin(&Vec::new());
        metrics
    }

    pub(super) fn follow(&self, certificate: ExpiringCertificate, identity: OfIdentity, stats: Arc<RenewalStats>) {
        self.begin(&identity);
        let of = ([("certificate", certificate)], identity);
        self.followed.lock().unwrap_or_else(PoisonError::into_inner).push((of, stats));
    }

    /// Takes over what the publishers have counted, and shows when each certificate ends.
    pub(super) fn read(&self, show_expiry: impl Fn(&OfCertificate, Timestamp)) {
        let followed = self.followed.lock().unwrap_or_else(PoisonError::into_inner);
        for (of, stats) in followed.iter() {
            // one that has ended without a successor goes on being shown
            if stats.not_after_seconds() > 0 {
                show_expiry(of, Timestamp::from_seconds(stats.not_after_seconds()));
            }
            for (family, at) in [(&self.not_before, stats.not_before_seconds()), (&self.due, stats.due_seconds())] {
                if at > 0 {
                    family.get_or_create(of).set(at);
                }
            }
        }
        let svids = || followed.iter().filter(|(([(_, certificate)], _), _)| *certificate == ExpiringCertificate::Svid);
        for ((_, identity), stats) in svids() {
            self.raise(RenewalOutcome::Renewed, identity, stats.renewals());
            self.raise(RenewalOutcome::Failed, identity, stats.failures());
        }
        let rejected: u64 = svids().map(|(_, stats)| stats.rejections()).sum();
        self.rejections.inc_by(rejected.saturating_sub(self.rejections.get()));
        if let Some(skew) = svids().map(|(_, stats)| stats.skew_seconds()).max() {
            self.skew.set(skew);
        }
    }

    fn begin(&self, identity: &OfIdentity) {
        RenewalOutcome::ALL.iter().for_each(|outcome| self.raise(*outcome, identity, 0));
    }

    fn raise(&self, outcome: RenewalOutcome, identity: &OfIdentity, total: u64) {
        let counter = self.renewals.get_or_create_owned(&([("outcome", outcome)], identity.clone()));
        counter.inc_by(total.saturating_sub(counter.get()));
    }
}
