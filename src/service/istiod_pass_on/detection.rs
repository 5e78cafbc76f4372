//! Whether there is an istiod, for readiness. Callers find out by themselves; this looks when they have found none, and when
//! nobody has asked for a while, so that a replica which nobody is sent to knows it too.

use std::{convert::Infallible, time::Duration};

use futures_util::future::join_all;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use super::PassOn;
use crate::service::readiness::Latch;

/// A connection costs little, and gateways wait for this.
const LOOK_EVERY: Duration = Duration::from_secs(1);
const LOOK_LIMIT: Duration = Duration::from_secs(3);

impl PassOn {
    /// Keeps `latch` at what is known. What changes is logged, once.
    pub async fn detect(&self, latch: Latch) -> Infallible {
        let (mut said, mut was_there) = (None, false);
        let (mut roots, mut addresses) = (self.roots.clone(), self.route.changes());
        loop {
            if self.route.is_quiet(self.clock.boot()) {
                self.look().await;
            }
            match self.condition() {
                Ok(address) => {
                    latch.ready(format!("it answers at {address}"));
                    self.metrics.set_istiod_reachable(true);
                    if said.take().is_some() || !was_there {
                        info!(event = "istio_detected", address);
                    }
                    was_there = true;
                }
                Err(reason) => {
                    let reason = if was_there { reason } else { format!("IstioNotDetected: {reason}") };
                    latch.not_ready(reason.as_str());
                    self.metrics.set_istiod_reachable(false);
                    if said.as_ref() != Some(&reason) {
                        warn!(event = "istiod_unreachable", reason);
                    }
                    said = Some(reason);
                }
            }
            tokio::select! {
                () = sleep(LOOK_EVERY) => {}
                Ok(()) = roots.changed() => {}
                Ok(()) = addresses.changed() => {}
            }
        }
    }

    /// Tries all addresses.
    async fn look(&self) {
        let Ok(roots) = self.known_roots() else { return };
        join_all(self.route.istiods().iter().map(async |istiod| {
            let found = timeout(LOOK_LIMIT, istiod.way().reach(&roots)).await;
            match found.unwrap_or_else(|_elapsed| Err(format!("no connection within {LOOK_LIMIT:?}"))) {
                Ok(()) => istiod.connected(self.clock.boot()),
                Err(reason) => istiod.failed(self.clock.boot(), reason),
            }
        }))
        .await;
    }

    fn condition(&self) -> Result<String, String> {
        if let Err(error) = self.known_roots() {
            return Err(error.to_string().trim_start_matches("IstioNotDetected: ").to_owned());
        }
        self.route.reachable().ok_or_else(|| self.route.troubles())
    }
}
