//! A clock, a certificate authority and a socket for these tests.

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use countersign::{
    domain::{
        authority::{SigningAuthority, TtlBounds, issue},
        clock::{BootInstant, Clock, Timestamp},
        identity::SpiffeId,
        random::{RandomUnavailable, SecureRandom},
        x509::{CertificateChain, PrivateKey, VerifiedCsr},
    },
    grpc::{
        self_handshake::SelfHandshake,
        unix_listener::{SocketAccess, WorkloadListener},
        workload_jwt::ServedJwt,
        workload_server::{self, ServeError, ServedPolicies, ServedTrust},
    },
    service::{
        metrics::Metrics,
        ports::{BoxFuture, CertificateAuthority, SignError, SignedChain},
        svid_publisher::{Expectation, IdentityReceiver, RenewalStats, SvidPublisher, WorkloadIdentity},
    },
};
use ring::digest::{SHA256, digest};
use tempfile::TempDir;
use tokio::{
    sync::{Notify, oneshot, watch},
    task::JoinHandle,
    time::{Instant, timeout},
};
use tonic::transport::{Channel, Endpoint};

/// How long a test waits for what must come.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

pub(crate) const ID: &str = "spiffe://cluster.local/ns/default/sa/gateway";
pub(crate) const TRUST_DOMAIN: &str = "cluster.local";

pub(crate) fn id() -> SpiffeId {
    ID.parse().unwrap()
}

/// A wall clock that starts at the real time, because clients refuse what has expired, and then goes with tokio's, so that
/// it can be paused.
pub(crate) struct TestClock {
    start: Timestamp,
    started: Instant,
}

impl TestClock {
    #[expect(clippy::disallowed_methods, reason = "stands in for runtime's clock")]
    pub(crate) fn new() -> Arc<Self> {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        Arc::new(Self { start: Timestamp::from_micros(0).plus(since_epoch), started: Instant::now() })
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        self.start.plus(self.started.elapsed())
    }

    fn boot(&self) -> BootInstant {
        BootInstant::from_nanos(0).plus(self.started.elapsed())
    }
}

/// Never the same twice.
#[derive(Default)]
pub(crate) struct TestRandom(AtomicU64);

impl SecureRandom for TestRandom {
    fn fill(&self, bytes: &mut [u8]) -> Result<(), RandomUnavailable> {
        for chunk in bytes.chunks_mut(32) {
            let block = digest(&SHA256, &self.0.fetch_add(1, Ordering::Relaxed).to_be_bytes());
            chunk.copy_from_slice(&block.as_ref()[..chunk.len()]);
        }
        Ok(())
    }
}

/// What the authority does with the next requests.
#[derive(Clone)]
pub(crate) enum Behaviour {
    /// Signs for this ID.
    SignFor(SpiffeId),
    /// Signs by a clock that is ahead by this much.
    Ahead(Duration),
    /// Signs by a clock that is behind by this much.
    Behind(Duration),
    /// Signs for a key of its own.
    OtherKey,
    /// Signs, and sends these roots.
    Roots(String),
    /// Can't be reached.
    Down,
    /// Never answers.
    Hung,
}

/// A certificate authority over the real issuing code.
pub(crate) struct TestAuthority {
    signing: SigningAuthority,
    clock: Arc<TestClock>,
    random: TestRandom,
    behaviour: Mutex<Behaviour>,
    calls: AtomicU64,
    unusable: AtomicU64,
}

impl TestAuthority {
    pub(crate) fn new(clock: &Arc<TestClock>) -> Arc<Self> {
        let random = TestRandom::default();
        let lifetime = Duration::from_secs(86_400);
        let (signing, _key) =
            SigningAuthority::self_signed(&TRUST_DOMAIN.parse().unwrap(), lifetime, clock.now(), &random).unwrap();
        Arc::new(Self {
            signing,
            clock: Arc::clone(clock),
            random,
            behaviour: Mutex::new(Behaviour::SignFor(id())),
            calls: AtomicU64::new(0),
            unusable: AtomicU64::new(0),
        })
    }

    pub(crate) fn behave(&self, behaviour: Behaviour) {
        *self.behaviour.lock().unwrap() = behaviour;
    }

    pub(crate) fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    /// How many of its answers it was told to be of no use.
    pub(crate) fn unusable(&self) -> u64 {
        self.unusable.load(Ordering::Relaxed)
    }

    pub(crate) fn root_pem(&self) -> String {
        self.signing.bundle().to_pem()
    }

    fn issue(&self, csr_pem: &str, id: &SpiffeId, ttl_seconds: i64, now: Timestamp) -> SignedChain {
        let csr = VerifiedCsr::from_pem(csr_pem.as_bytes()).unwrap();
        let bounds = TtlBounds::new(Duration::from_secs(3600), Duration::from_secs(86_400)).unwrap();
        let issued = issue(&self.signing, &csr, id, ttl_seconds, &bounds, now, &self.random).unwrap();
        SignedChain { chain: CertificateChain::new(vec![issued.leaf]).unwrap(), roots_pem: self.root_pem() }
    }
}

impl CertificateAuthority for TestAuthority {
    fn sign<'a>(&'a self, csr_pem: &'a str, ttl_seconds: i64) -> BoxFuture<'a, Result<SignedChain, SignError>> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let behaviour = self.behaviour.lock().unwrap().clone();
        let now = self.clock.now();
        Box::pin(async move {
            match behaviour {
                Behaviour::SignFor(id) => Ok(self.issue(csr_pem, &id, ttl_seconds, now)),
                Behaviour::Ahead(ahead) => Ok(self.issue(csr_pem, &id(), ttl_seconds, now.plus(ahead))),
                Behaviour::Behind(behind) => Ok(self.issue(csr_pem, &id(), ttl_seconds, now.minus(behind))),
                Behaviour::OtherKey => {
                    let other = PrivateKey::generate_p256().unwrap().certificate_request(&id()).unwrap();
                    Ok(self.issue(&other, &id(), ttl_seconds, now))
                }
                Behaviour::Roots(roots_pem) => {
                    Ok(SignedChain { roots_pem, ..self.issue(csr_pem, &id(), ttl_seconds, now) })
                }
                Behaviour::Down => Err(SignError::Unavailable("the test has switched it off".into())),
                Behaviour::Hung => std::future::pending().await,
            }
        })
    }

    fn unusable(&self) {
        self.unusable.fetch_add(1, Ordering::Relaxed);
    }
}

/// A publisher at work.
pub(crate) struct Running {
    pub(crate) authority: Arc<TestAuthority>,
    pub(crate) identity: IdentityReceiver,
    pub(crate) renew_now: Arc<Notify>,
    pub(crate) stats: Arc<RenewalStats>,
    task: JoinHandle<()>,
}

impl Running {
    pub(crate) fn start(behaviour: Behaviour, ttl_seconds: i64) -> Self {
        Self::start_expecting(Expectation::Exactly(id()), behaviour, ttl_seconds)
    }

    pub(crate) fn start_expecting(expected: Expectation, behaviour: Behaviour, ttl_seconds: i64) -> Self {
        Self::start_as(expected, behaviour, ttl_seconds, |publisher| publisher)
    }

    pub(crate) fn start_as(
        expected: Expectation,
        behaviour: Behaviour,
        ttl_seconds: i64,
        configure: impl FnOnce(SvidPublisher) -> SvidPublisher,
    ) -> Self {
        let clock = TestClock::new();
        let authority = TestAuthority::new(&clock);
        authority.behave(behaviour);
        let random = Arc::new(TestRandom::default());
        let signer = Arc::clone(&authority) as Arc<dyn CertificateAuthority>;
        let check = Arc::new(SelfHandshake::new(Arc::clone(&clock) as _));
        let (publisher, identity) = SvidPublisher::new(signer, expected, ttl_seconds, clock, random);
        let publisher = configure(publisher.checked_by(check));
        let (renew_now, stats) = (publisher.renew_now(), publisher.stats());
        Self { authority, identity, renew_now, stats, task: tokio::spawn(publisher.run()) }
    }

    /// What is published now.
    pub(crate) fn published(&self) -> Option<Arc<WorkloadIdentity>> {
        self.identity.borrow().clone()
    }

    /// The revision published now, 0 for none.
    pub(crate) fn revision(&self) -> u64 {
        self.published().map_or(0, |identity| identity.revision)
    }

    /// Waits for the next publication that holds an SVID.
    pub(crate) async fn next(&mut self) -> Arc<WorkloadIdentity> {
        let changed = async {
            loop {
                self.identity.changed().await.unwrap();
                let identity = self.published();
                if let Some(identity) = identity.filter(|identity| identity.svid.is_some()) {
                    return identity;
                }
            }
        };
        timeout(DEADLINE, changed).await.expect("an SVID is published")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A publisher and the socket it publishes to.
pub(crate) struct Socket {
    pub(crate) publisher: Running,
    pub(crate) path: PathBuf,
    pub(crate) metrics: Arc<Metrics>,
    stop: Option<oneshot::Sender<()>>,
    server: JoinHandle<Result<(), ServeError>>,
    _folder: TempDir,
}

impl Socket {
    pub(crate) async fn start(behaviour: Behaviour, ttl_seconds: i64) -> Self {
        Self::start_with(behaviour, ttl_seconds, None).await
    }

    /// One that serves contexts of Services as well.
    pub(crate) async fn start_with(behaviour: Behaviour, ttl_seconds: i64, policies: Option<ServedPolicies>) -> Self {
        Self::start_serving(behaviour, ttl_seconds, None, policies).await
    }

    /// One that serves what the pair publishes as well.
    pub(crate) async fn start_serving(
        behaviour: Behaviour,
        ttl_seconds: i64,
        trust: Option<ServedTrust>,
        policies: Option<ServedPolicies>,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let publisher = Running::start(behaviour, ttl_seconds);
        let listener = WorkloadListener::bind(&path, SocketAccess::default()).await.unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let identity = publisher.identity.clone();
        let known = trust.as_ref().map(|served| served.trust.clone());
        // as before istiod
        let has_nothing = Some(watch::channel(known.is_none()).1);
        let of_jwt = known.unwrap_or_else(|| watch::channel(None).1);
        let jwt = ServedJwt { svids: Vec::new(), trust: of_jwt, has_nothing, clock: TestClock::new() };
        let metrics = Arc::new(Metrics::of_agent());
        let shown = Arc::clone(&metrics);
        let server = tokio::spawn(workload_server::serve(listener, identity, trust, policies, jwt, shown, async {
            _ = stopped.await;
        }));
        Self { publisher, path, metrics, stop: Some(stop), server, _folder: folder }
    }

    /// One that serves an SVID of an hour.
    pub(crate) async fn ready() -> Self {
        let mut socket = Self::start(Behaviour::SignFor(id()), 3600).await;
        if socket.publisher.revision() == 0 {
            socket.publisher.next().await;
        }
        socket
    }

    pub(crate) fn uri(&self) -> String {
        format!("unix://{}", self.path.display())
    }

    /// A connection of its own.
    pub(crate) async fn connect(&self) -> Channel {
        Endpoint::from_shared(self.uri()).unwrap().connect().await.unwrap()
    }

    /// Renews at once and waits for the publication.
    pub(crate) async fn rotate(&mut self) -> Arc<WorkloadIdentity> {
        self.publisher.identity.mark_unchanged();
        self.publisher.renew_now.notify_one();
        self.publisher.next().await
    }

    /// Tells the server to stop and waits until it has.
    pub(crate) async fn stop(mut self) {
        self.begin_stop();
        timeout(DEADLINE, &mut self.server).await.expect("the server stops").unwrap().unwrap();
        assert!(!self.path.exists(), "the socket file is gone");
    }

    pub(crate) fn begin_stop(&mut self) {
        if let Some(stop) = self.stop.take() {
            _ = stop.send(());
        }
    }
}
