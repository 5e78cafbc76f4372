//! Health of a replica that passes requests on: it is well when istiod can be reached and there is a certificate to serve with.

use std::{sync::Arc, time::Duration};

use rustls::ServerConfig;
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};
use tonic_health::{ServingStatus, server::HealthReporter};
use tracing::{info, warn};

use crate::service::readiness::Readiness;

const LOOK_EVERY: Duration = Duration::from_millis(500);

pub(super) struct Health {
    pub(super) readiness: Readiness,
    /// Under what the signing API is served, as soon as there is a certificate.
    pub(super) serving: watch::Receiver<Option<Arc<ServerConfig>>>,
    pub(super) reporter: HealthReporter,
}

impl Health {
    /// Says what changes. Never returns.
    pub(super) async fn run(mut self) {
        let serving = self.readiness.latch("serving certificate", "istiod has signed none yet: TLS connections wait");
        let mut look = interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut was_ready = None;
        loop {
            if self.serving.borrow_and_update().is_some() {
                serving.ready("held");
            }
            let report = self.readiness.report();
            if was_ready.replace(report.is_ready()) != Some(report.is_ready()) {
                self.say(report.is_ready(), &report.to_string()).await;
            }
            tokio::select! {
                _ = look.tick() => {}
                Ok(()) = self.serving.changed() => {}
            }
        }
    }

    async fn say(&self, ready: bool, detail: &str) {
        let status = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
        for service in ["", "istio.v1.auth.IstioCertificateService"] {
            self.reporter.set_service_status(service, status).await;
        }
        if ready {
            info!(event = "ready", detail);
        } else {
            warn!(event = "not_ready", detail);
        }
    }
}
