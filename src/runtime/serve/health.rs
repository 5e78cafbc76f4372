//! What `/readyz`, gRPC health and the role metrics say: whether this replica can answer or forward, and if not, why.

use std::{sync::Arc, time::Duration};

use rustls::ServerConfig;
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};
use tonic_health::{ServingStatus, server::HealthReporter};
use tracing::{info, warn};

use crate::{
    domain::leadership::{Role, Term},
    grpc::pair_client::PairClient,
    service::{
        leadership::Standing,
        metrics::{ExpiringCertificate, Metrics},
        ports::Pair,
        readiness::{Latch, Readiness},
        signing_session::SigningSession,
    },
};

/// However little happens, why nobody is active is said anew.
const LOOK_EVERY: Duration = Duration::from_secs(1);

const NO_CERTIFICATE: &str = "none is signed yet: TLS connections to the signing API wait";

/// What health is made of.
pub(super) struct Health {
    pub(super) readiness: Readiness,
    pub(super) standing: watch::Receiver<Standing>,
    pub(super) sessions: watch::Receiver<Option<Arc<SigningSession>>>,
    pub(super) announced: watch::Receiver<Option<Term>>,
    pub(super) log_writable: watch::Receiver<bool>,
    /// Under what the signing API is served, as soon as there is a certificate.
    pub(super) serving: watch::Receiver<Option<Arc<ServerConfig>>>,
    pub(super) pair: Arc<PairClient>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) reporter: HealthReporter,
}

impl Health {
    /// Looks at every change. Never returns.
    pub(super) async fn run(mut self) {
        let signing = self.readiness.latch("signing", "the election has not begun");
        let log = self.readiness.latch("issuance log", "it is not open yet");
        let serving = self.readiness.latch("serving certificate", NO_CERTIFICATE);
        let mut look = interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut active = self.pair.active();
        let mut was_ready = None;
        loop {
            self.look_at_log(&log);
            self.look_at_signing(&signing);
            if self.serving.borrow().is_some() {
                serving.ready("held");
            }
            let ready = self.readiness.report().is_ready();
            if was_ready.replace(ready) != Some(ready) {
                self.say(ready).await;
            }
            tokio::select! {
                _ = look.tick() => {}
                Ok(()) = self.standing.changed() => {}
                Ok(()) = active.changed() => {}
                Ok(()) = self.announced.changed() => {}
                Ok(()) = self.log_writable.changed() => {}
                Ok(()) = self.serving.changed() => {}
            }
        }
    }

    async fn say(&self, ready: bool) {
        let status = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
        self.reporter.set_service_status("", status).await;
        self.reporter.set_service_status("istio.v1.auth.IstioCertificateService", status).await;
        let detail = self.readiness.report().to_string();
        if ready {
            info!(event = "ready", detail);
        } else {
            warn!(event = "not_ready", detail);
        }
    }

    fn look_at_log(&self, latch: &Latch) {
        if *self.log_writable.borrow() {
            latch.ready("written");
        } else {
            latch.not_ready("it can't be written: nothing is issued here");
        }
    }

    fn look_at_signing(&self, latch: &Latch) {
        let Standing { role, term, trouble } = self.standing.borrow().clone();
        let own = trouble.map_or_else(String::new, |trouble| format!("; here: {trouble}"));
        match (role, term) {
            (Role::Active, Some(term)) => {
                self.metrics.set_role(true, term);
                self.show_expiry();
                if *self.announced.borrow() == Some(term) {
                    latch.ready(format!("active in term {term}{own}"));
                } else {
                    latch.not_ready(format!("active in term {term}; its trust bundle is not written yet"));
                }
            }
            _ => {
                forget_expiry(&self.metrics);
                match self.pair.active_or_why_not() {
                    Ok(active) => {
                        self.metrics.set_role(false, active.term);
                        latch.ready(format!("standby; {} is active in term {}{own}", active.replica, active.term));
                    }
                    Err(reason) => {
                        self.metrics.set_inactive();
                        latch.not_ready(format!("standby, and no replica is active: {reason}{own}"));
                    }
                }
            }
        }
    }

    fn show_expiry(&self) {
        if let Some(session) = self.sessions.borrow().as_deref() {
            show_expiry(session, &self.metrics);
        }
    }
}

/// Of what signs in `session`.
pub(super) fn show_expiry(session: &SigningSession, metrics: &Metrics) {
    let (authority, jwt_signer) = (session.authority(), session.jwt_signer());
    metrics
        .show_certificate(ExpiringCertificate::Authority, authority.as_ref().map(|authority| authority.certificate()));
    let chain = authority.as_ref().map(|authority| authority.chain()).unwrap_or_default();
    let first_to_end = chain.iter().skip(1).min_by_key(|certificate| certificate.not_after());
    metrics.show_certificate(ExpiringCertificate::Intermediate, first_to_end);
    metrics.show_expiry(ExpiringCertificate::JwtKey, jwt_signer.map(|signer| signer.not_after()));
}

/// Of a replica that is not active nothing signs.
pub(super) fn forget_expiry(metrics: &Metrics) {
    let of_active = [ExpiringCertificate::Authority, ExpiringCertificate::Intermediate, ExpiringCertificate::JwtKey];
    of_active.into_iter().for_each(|certificate| metrics.forget_expiry(certificate));
}

#[cfg(test)]
mod tests {
    use rustls::server::ResolvesServerCertUsingSni;
    use tokio::{task::yield_now, time::timeout};

    use super::*;
    use crate::domain::clock::Timestamp;
    use crate::storage::{data_dir::DataDir, pair_directory::PairDirectory};

    async fn wait_for(what: &str, holds: impl Fn() -> bool) {
        let wait = async {
            while !holds() {
                yield_now().await;
            }
        };
        timeout(Duration::from_secs(5), wait).await.expect(what);
    }

    fn some_config() -> Arc<ServerConfig> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let versions = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        Arc::new(versions.with_no_client_auth().with_cert_resolver(Arc::new(ResolvesServerCertUsingSni::new())))
    }

    #[tokio::test]
    async fn ready_only_with_a_serving_certificate_and_active_no_longer_than_the_term() {
        let base = tempfile::tempdir().unwrap();
        let directory = PairDirectory::new(DataDir::open(&base.path().join("data")).unwrap());
        let (readiness, metrics, term) = (Readiness::default(), Arc::new(Metrics::new()), Term::new(1));
        let active = Standing { role: Role::Active, term: Some(term), trouble: None };
        let (stand, standing) = watch::channel(active);
        let (_sessions, sessions) = watch::channel(None);
        let (_announced, announced) = watch::channel(Some(term));
        let (_writable, log_writable) = watch::channel(true);
        let (serve, serving) = watch::channel(None);
        let health = Health {
            readiness: readiness.clone(),
            standing,
            sessions,
            announced,
            log_writable,
            serving,
            pair: Arc::new(PairClient::new(Arc::new(directory), "replica-0".into())),
            metrics: Arc::clone(&metrics),
            reporter: tonic_health::server::health_reporter().0,
        };
        let running = tokio::spawn(health.run());
        let says = |line: &str| readiness.report().to_string().contains(line);
        wait_for("signing", || says("signing: ready (active in term 1)")).await;
        assert!(says("serving certificate: not ready") && !readiness.report().is_ready());
        serve.send_replace(Some(some_config()));
        wait_for("ready", || readiness.report().is_ready()).await;
        assert!(metrics.encode().contains("countersign_active 1"));
        metrics.show_expiry(ExpiringCertificate::Authority, Some(Timestamp::from_seconds(9)));

        stand.send_replace(Standing { role: Role::Standby, term: None, trouble: None });
        wait_for("not ready", || says("signing: not ready (standby, and no replica is active")).await;
        assert!(metrics.encode().contains("countersign_active 0"));
        assert!(!metrics.encode().contains("certificate=\"authority\""), "{}", metrics.encode());
        running.abort();
    }
}
