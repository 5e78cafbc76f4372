//! A watch of the Lease: who holds it, and hints, so that a release and a renewal are seen at once and not at the next look.

use std::{pin::pin, sync::Arc, sync::PoisonError, time::Duration};

use futures_util::TryStreamExt as _;
use k8s_openapi::api::coordination::v1::Lease;
use kube::{
    Error,
    api::{WatchEvent, WatchParams},
};
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use super::{LeaseStore, failures::Failure, record};
use crate::{domain::object_version::is_older, service::leadership::Hints};

/// The API server ends a watch after this.
const WATCH_SECONDS: u32 = 290;
/// Between two watches; doubles while none can be had.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

impl LeaseStore {
    /// Publishes who holds it, and hints, whenever the object becomes another one than was last read or written here. Without a watch
    /// everything works, only later. Never returns.
    pub async fn watch(self: Arc<Self>, hints: Hints) {
        let (mut pause, mut failed) = (FIRST_PAUSE, false);
        loop {
            match self.watch_once(&hints).await {
                Ok(()) => {
                    if std::mem::take(&mut failed) {
                        info!(event = "lease_watched", lease = self.name);
                    }
                    pause = FIRST_PAUSE;
                }
                Err(failure) => {
                    if !std::mem::replace(&mut failed, true) {
                        warn!(event = "lease_watch_failed", lease = self.name, reason = %failure);
                    }
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
            sleep(pause).await;
        }
    }

    async fn watch_once(&self, hints: &Hints) -> Result<(), Failure> {
        let named = WatchParams::default().fields(&format!("metadata.name={}", self.name)).timeout(WATCH_SECONDS);
        let limit = self.timing.renew();
        let events =
            timeout(limit, self.api.watch(&named, "0")).await.map_err(|_elapsed| Failure::NoAnswer(limit))??;
        let mut events = pin!(events);
        while let Some(event) = events.try_next().await? {
            let seen = match event {
                WatchEvent::Added(lease) | WatchEvent::Modified(lease) => Some(lease),
                WatchEvent::Deleted(_) => None,
                WatchEvent::Bookmark(_) => continue,
                WatchEvent::Error(status) => return Err(Error::Api(status).into()),
            };
            if self.is_news(seen.as_ref()) {
                // a replica that leaves drives no election any more, and passes on to who is active by then
                self.publish(seen.as_ref().and_then(record::holder));
                hints.lease_changed();
            }
        }
        Ok(())
    }

    /// Each renewal is news too: the wait for a lease that is renewed no more begins at its last renewal then, and not at a
    /// look that came later. What is older than that is none.
    fn is_news(&self, seen: Option<&Lease>) -> bool {
        let version = |lease: &Lease| lease.metadata.resource_version.clone();
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match (last.as_ref().and_then(version), seen.and_then(version)) {
            (Some(last), Some(seen)) => last != seen && !is_older(&seen, &last),
            (last, seen) => last != seen,
        }
    }
}
