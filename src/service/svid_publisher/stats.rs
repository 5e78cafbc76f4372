//! What a publisher counts. `runtime` registers it with the metrics.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use crate::domain::clock::Timestamp;

/// Counters of one publisher.
#[derive(Debug, Default)]
pub struct RenewalStats {
    renewed: AtomicU64,
    failed: AtomicU64,
    not_after: AtomicI64,
}

impl RenewalStats {
    /// SVIDs published.
    pub fn renewals(&self) -> u64 {
        self.renewed.load(Ordering::Relaxed)
    }

    /// Renewals that failed.
    pub fn failures(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    /// NotAfter of the published SVID in seconds since the epoch; 0 while none is published.
    pub fn not_after_seconds(&self) -> i64 {
        self.not_after.load(Ordering::Relaxed)
    }

    pub(super) fn renewed(&self, not_after: Timestamp) {
        self.renewed.fetch_add(1, Ordering::Relaxed);
        self.not_after.store(not_after.seconds(), Ordering::Relaxed);
    }

    pub(super) fn failed(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn withdrawn(&self) {
        self.not_after.store(0, Ordering::Relaxed);
    }
}
