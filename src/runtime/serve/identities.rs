//! What a replica keeps for itself: its serving certificate, and the identity that its own workload socket serves.

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use rustls::ServerConfig;
use tokio::{sync::watch, task::spawn_blocking, time::sleep};
use tracing::{info, warn};

use super::{Seams, absolute, listeners::private, signing::Signing};
use crate::{
    domain::{
        attestation::OwnIdentity,
        authority::TtlBounds,
        clock::Clock,
        identity::{ServiceAccount, TrustDomain},
        random::SecureRandom,
        x509::X509Svid,
    },
    grpc::{
        self_handshake::SelfHandshake,
        server_tls::server_config,
        unix_listener::{BindError, WorkloadListener, wait_until_free},
        workload_jwt::ServedJwt,
        workload_server::{self, ServedTrust},
    },
    runtime::{config::ServeConfig, shutdown::Shutdown},
    service::{
        ca_roots::FollowedRoots,
        create_certificate::CreateCertificate,
        metrics::Metrics,
        mint_jwt_svid::{MintJwtSvid, OwnMinter},
        own_identity::OwnAuthority,
        published_trust::TrustReceiver,
        svid_publisher::{Expectation, IdentityReceiver, SvidPublisher},
    },
    storage::{pair_directory::PairDirectory, slot::Slot},
};

/// A TTL of seconds is for watching rotation; the serving certificate must outlast a change of the active all the same.
const SERVING_TTL_AT_LEAST: Duration = Duration::from_secs(60);

/// How often a socket that can't be bound is tried again.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Makes the publishers of a replica.
pub(super) struct OwnIdentities {
    pub(super) create: Arc<CreateCertificate>,
    pub(super) mint: Arc<MintJwtSvid>,
    pub(super) trust_domain: TrustDomain,
    pub(super) ttl: TtlBounds,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) random: Arc<dyn SecureRandom>,
    pub(super) metrics: Arc<Metrics>,
}

impl OwnIdentities {
    /// Of the replica that `signing` is of.
    pub(super) fn new(signing: &Signing, config: &ServeConfig, seams: Seams) -> Self {
        let Seams { clock, random, metrics, .. } = seams;
        Self {
            create: Arc::clone(&signing.create),
            mint: Arc::new(MintJwtSvid::new(Arc::clone(&signing.create), config.jwt_svid_ttl)),
            trust_domain: config.trust_domain.clone(),
            ttl: config.ttl,
            clock,
            random,
            metrics,
        }
    }

    /// Keeps the serving certificate.
    pub(super) fn serving(&self) -> (SvidPublisher, IdentityReceiver) {
        let ttl = self.ttl.default_ttl().max(SERVING_TTL_AT_LEAST).min(self.ttl.max_ttl());
        self.publisher(OwnIdentity::Serving, i64::try_from(ttl.as_secs()).unwrap_or(0))
    }

    /// Keeps the SVID of the own socket's workload, and publishes `roots` with it.
    pub(super) fn workload(&self, account: ServiceAccount, roots: FollowedRoots) -> (SvidPublisher, IdentityReceiver) {
        let (publisher, identity) = self.publisher(OwnIdentity::Workload(account), 0);
        (publisher.with_bundle_of(roots), identity)
    }

    /// The JWT-SVIDs of that workload.
    pub(super) fn jwt_of(&self, account: ServiceAccount, trust: TrustReceiver) -> ServedJwt {
        let minter = OwnMinter::new(Arc::clone(&self.mint), OwnIdentity::Workload(account));
        ServedJwt::by([Arc::new(minter) as _], &self.trust_domain, trust, Arc::clone(&self.clock))
    }

    fn publisher(&self, own: OwnIdentity, ttl_seconds: i64) -> (SvidPublisher, IdentityReceiver) {
        let (publisher, identity) = SvidPublisher::new(
            Arc::new(OwnAuthority::new(Arc::clone(&self.create), own)),
            Expectation::AnyIn(self.trust_domain.clone()),
            ttl_seconds,
            Arc::clone(&self.clock),
            Arc::clone(&self.random),
        );
        (publisher.checked_by(Arc::new(SelfHandshake::new(Arc::clone(&self.clock)))), identity)
    }
}

/// Makes a TLS configuration of a certificate.
pub(super) type MakeTls = fn(&X509Svid, &Arc<dyn Clock>) -> Result<Arc<ServerConfig>, rustls::Error>;

/// That of the signing API.
pub(super) fn signing_tls(svid: &X509Svid, clock: &Arc<dyn Clock>) -> Result<Arc<ServerConfig>, rustls::Error> {
    info!(event = "serving_certificate", serial = %svid.leaf().serial(), expires = %svid.leaf().not_after());
    server_config(svid, clock)
}

/// Turns each serving certificate into a TLS configuration, by `make`, for the connections that come after it.
pub(super) async fn configure_tls(
    mut serving: IdentityReceiver,
    tls: watch::Sender<Option<Arc<ServerConfig>>>,
    clock: Arc<dyn Clock>,
    make: MakeTls,
) {
    loop {
        let svid = serving.borrow_and_update().as_ref().and_then(|identity| identity.svid.clone());
        if let Some(svid) = svid {
            match make(&svid, &clock) {
                Ok(config) => drop(tls.send_replace(Some(config))),
                Err(error) => warn!(event = "serving_certificate_unusable", %error),
            }
        }
        if serving.changed().await.is_err() {
            // the publisher has ended, and says so itself; what was configured last stays
            std::future::pending::<()>().await;
        }
    }
}

/// Where the own workload socket is to be.
pub(super) struct WorkloadSocket {
    pub(super) path: PathBuf,
    /// Where the other replicas of the data directory say which path they have. One that several have is shared: whoever got
    /// it serves it, and the others take over when it falls free.
    pub(super) pair: Option<(PairDirectory, Slot)>,
}

impl WorkloadSocket {
    /// Binds the socket at once, if that is possible. It hands out a private key, so it is for this user alone; whom an
    /// agent's socket is for is the operator's to say.
    pub(super) async fn bind(&self) -> Result<Option<WorkloadListener>, BindError> {
        match WorkloadListener::bind(&self.path, private()).await {
            Ok(listener) => Ok(Some(listener)),
            Err(BindError::InUse(_)) if self.is_shared().await => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn is_shared(&self) -> bool {
        let Some((pair, own)) = self.pair.clone() else { return false };
        let path = absolute(&self.path);
        let others = spawn_blocking(move || pair.living_others(own)).await.map_err(io::Error::other).flatten();
        others.unwrap_or_default().announced.iter().any(|other| other.workload_socket.as_ref() == Some(&path))
    }

    /// Serves `identity`, and what goes with it, on the socket, from when it can be had, until `shutdown`.
    pub(super) async fn serve(
        self,
        bound: Option<WorkloadListener>,
        identity: IdentityReceiver,
        (trust, jwt): (ServedTrust, ServedJwt),
        metrics: Arc<Metrics>,
        shutdown: Shutdown,
    ) -> Result<(), workload_server::ServeError> {
        let listener = match bound {
            Some(listener) => listener,
            None => tokio::select! {
                () = shutdown.requested() => return Ok(()),
                listener = self.take_over() => listener,
            },
        };
        let asked = async move { shutdown.requested().await };
        workload_server::serve(listener, identity, Some(trust), None, jwt, metrics, asked).await
    }

    /// Binds the socket when it falls free. What is in the way is said once, not at each attempt.
    async fn take_over(&self) -> WorkloadListener {
        let mut said = String::new();
        loop {
            match self.bind_when_free().await {
                Ok(Some(listener)) => return listener,
                // another replica was faster
                Ok(None) => {}
                Err(error) => {
                    let text = error.to_string();
                    if text != said {
                        warn!(event = "workload_socket_failed", error = text);
                        said = text;
                    }
                    sleep(RETRY_INTERVAL).await;
                }
            }
        }
    }

    async fn bind_when_free(&self) -> Result<Option<WorkloadListener>, BindError> {
        wait_until_free(&self.path).await?;
        self.bind().await
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::net::UnixListener, sync::Mutex};

    use tokio::time::timeout;

    use super::*;

    /// Log lines.
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Log {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(line)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_in_the_way_of_the_socket_is_said_once_and_the_socket_is_bound_when_it_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let socket = WorkloadSocket { path: folder.path().join("workload.sock"), pair: None };
        let log = Log::default();
        let lines = log.clone();
        let subscriber = tracing_subscriber::fmt().with_writer(move || lines.clone()).finish();
        let _guard = tracing::subscriber::set_default(subscriber);
        fs::create_dir(&socket.path).unwrap();
        timeout(RETRY_INTERVAL * 10, socket.take_over()).await.expect_err("a folder is in the way");
        let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.matches("workload_socket_failed").count(), 1, "{text}");
        assert!(text.contains("is not a socket"), "{text}");

        fs::remove_dir(&socket.path).unwrap();
        drop(UnixListener::bind(&socket.path).unwrap());
        timeout(RETRY_INTERVAL * 10, socket.take_over()).await.expect("a dead socket is not in the way");
    }
}
