//! Whether there is an istiod, for readiness. Callers find out by themselves; this looks when they have found none, and when
//! nobody has asked for a while, so that a replica which nobody is sent to knows it too.

use std::{convert::Infallible, time::Duration};

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
        let mut roots = self.roots.clone();
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
            }
        }
    }

    /// Tries all addresses.
    async fn look(&self) {
        let Ok(roots) = self.known_roots() else { return };
        for index in 0..self.route.len() {
            let found = timeout(LOOK_LIMIT, self.istiod.reach(index, &roots)).await;
            match found.unwrap_or_else(|_elapsed| Err(format!("no connection within {LOOK_LIMIT:?}"))) {
                Ok(()) => self.route.connected(index, self.clock.boot()),
                Err(reason) => self.route.failed(index, self.clock.boot(), reason),
            }
        }
    }

    fn condition(&self) -> Result<&str, String> {
        if let Err(error) = self.known_roots() {
            return Err(error.to_string().trim_start_matches("IstioNotDetected: ").to_owned());
        }
        self.route.reachable().ok_or_else(|| self.troubles())
    }

    /// What is wrong with all of them.
    pub(super) fn troubles(&self) -> String {
        (0..self.route.len()).map(|index| self.route.trouble(index)).collect::<Vec<_>>().join("; ")
    }
}
