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
    pub(super) due: Family<OfCertificate, Gauge>,
    followed: Mutex<Vec<(OfCertificate, Arc<RenewalStats>)>>,
}

/// Which certificate, and of which identity.
pub(super) type OfCertificate = (ByLabel<ExpiringCertificate>, OfIdentity);
/// The hint of an identity beside an agent's first one, which has no such label.
pub(super) type OfIdentity = Vec<(&'static str, String)>;

impl RenewalMetrics {
    pub(super) fn new() -> Self {
        let (renewals, rejections, skew, due, followed) = Default::default();
        let metrics = Self { renewals, rejections, skew, due, followed };
        metrics.begin(&Vec::new());
        metrics
    }

    pub(super) fn follow(&self, certificate: ExpiringCertificate, identity: OfIdentity, stats: Arc<RenewalStats>) {
        self.begin(&identity);
        let of = ([("certificate", certificate)], identity);
        self.followed.lock().unwrap_or_else(PoisonError::into_inner).push((of, stats));
    }

    /// Takes over what the publishers have counted, and shows from when until when each certificate is valid.
    pub(super) fn read(&self, show: impl Fn(&OfCertificate, Timestamp, Timestamp)) {
        let followed = self.followed.lock().unwrap_or_else(PoisonError::into_inner);
        for (of, stats) in followed.iter() {
            // one that has ended without a successor goes on being shown
            if stats.not_after_seconds() > 0 {
                let [not_before, not_after] = [stats.not_before_seconds(), stats.not_after_seconds()];
                show(of, Timestamp::from_seconds(not_before), Timestamp::from_seconds(not_after));
            }
            if stats.due_seconds() > 0 {
                self.due.get_or_create(of).set(stats.due_seconds());
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
