//! What a publisher counts. `runtime` registers it with the metrics.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::watch;

use crate::domain::clock::Timestamp;

/// Counters of one publisher.
#[derive(Debug, Default)]
pub struct RenewalStats {
    renewed: AtomicU64,
    failed: AtomicU64,
    rejected: AtomicU64,
    not_before: AtomicI64,
    not_after: AtomicI64,
    due: AtomicI64,
    skew: AtomicU64,
    trouble: watch::Sender<Option<Arc<str>>>,
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

    /// SVIDs that were answered and not published, because a check failed. Each is a renewal that failed as well.
    pub fn rejections(&self) -> u64 {
        self.rejected.load(Ordering::Relaxed)
    }

    /// How long it is until the SVID that was answered last is valid, in seconds rounded up; 0 unless a clock is wrong.
    pub fn skew_seconds(&self) -> u64 {
        self.skew.load(Ordering::Relaxed)
    }

    /// Why renewing doesn't succeed just now, in words; `None` while nothing is wrong.
    pub fn trouble(&self) -> watch::Receiver<Option<Arc<str>>> {
        self.trouble.subscribe()
    }

    /// NotAfter of the published SVID in seconds since the epoch; 0 while none is published.
    pub fn not_after_seconds(&self) -> i64 {
        self.not_after.load(Ordering::Relaxed)
    }

    /// NotBefore of the SVID published last in seconds since the epoch; 0 before the first.
    pub fn not_before_seconds(&self) -> i64 {
        self.not_before.load(Ordering::Relaxed)
    }

    /// When the next renewal is begun, in seconds since the epoch; 0 before the first has ended.
    pub fn due_seconds(&self) -> i64 {
        self.due.load(Ordering::Relaxed)
    }

    pub(super) fn is_due(&self, at: Timestamp) {
        self.due.store(at.seconds(), Ordering::Relaxed);
    }

    /// Whether the last one has ended without a successor.
    pub fn is_withdrawn(&self) -> bool {
        self.renewals() > 0 && self.not_after_seconds() == 0
    }

    pub(in crate::service) fn renewed(&self, not_before: Timestamp, not_after: Timestamp) {
        self.not_before.store(not_before.seconds(), Ordering::Relaxed);
        self.renewed.fetch_add(1, Ordering::Relaxed);
        self.not_after.store(not_after.seconds(), Ordering::Relaxed);
        self.skewed(Duration::ZERO);
        self.trouble.send_if_modified(|trouble| trouble.take().is_some());
    }

    pub(super) fn failed(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn rejected(&self) {
        self.rejected.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn skewed(&self, by: Duration) {
        self.skew.store(by.as_millis().div_ceil(1000).try_into().unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Says what is wrong now. Returns whether that is another thing than before.
    pub(super) fn troubled(&self, why: &str) -> bool {
        self.trouble.send_if_modified(|trouble| {
            let is_news = trouble.as_deref() != Some(why);
            if is_news {
                *trouble = Some(why.into());
            }
            is_news
        })
    }

    pub(in crate::service) fn withdrawn(&self) {
        self.not_after.store(0, Ordering::Relaxed);
    }
}
