//! A replica put together as `serve` does it, but for the election: the test says who is active.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use countersign::{
    domain::{
        attestation::Evidence,
        authority::TtlBounds,
        clock::{BootInstant, Clock, Timestamp},
        identity::{ReplicaId, ServiceAccount, TrustDomain},
        jwt::{IssuerRules, TokenIssuer, TokenIssuerKey},
        leadership::{Role, Term},
        x509::{Certificate, CertificateChain, PrivateKey, TrustBundle},
    },
    grpc::{
        known_peers::KnownPeers,
        pair_client::PairClient,
        pair_server::{CertifiedPeers, PairServices, serve_pair_port},
        pair_tls::pair_tls,
        pair_trust::PairTrustAccess,
    },
    runtime::seams::{RingRandom, SystemClock},
    service::{
        authority_export::AuthorityExport,
        create_certificate::{CreateCertificate, CreateError, Parts, SigningPolicy},
        denial::IssuanceDenial,
        leadership::Standing,
        metrics::Metrics,
        mint_jwt_svid::MintJwtSvid,
        ports::{LeaseHolder, Pair as _, SigningRequest, StateStore},
        replica_identity::ReplicaIdentityKeeper,
        signing_session::SigningSession,
        signing_state::{Claim, Origin, SigningState},
    },
};
use tokio::{
    net::TcpListener,
    sync::{Semaphore, watch},
    task::JoinHandle,
    time::sleep,
};

use crate::store::{Log, Memory};

pub(crate) const ISSUER: &str = "issuer";
pub(crate) const ACCOUNT: &str = "default/gateway";
pub(crate) const ID: &str = "spiffe://cluster.local/ns/default/sa/gateway";
/// For what must come.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// What the replicas of a pair have in common.
pub(crate) struct Pair {
    pub(crate) store: Arc<Memory>,
    pub(crate) tokens: TokenIssuerKey,
    pub(crate) clock: Arc<TestClock>,
}

/// The real clock, and what a test adds to it, in seconds.
#[derive(Default)]
pub(crate) struct TestClock(pub(crate) AtomicU64);

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        SystemClock.now().plus(Duration::from_secs(self.0.load(Ordering::Relaxed)))
    }

    fn boot(&self) -> BootInstant {
        SystemClock.boot()
    }
}

/// What a replica may be given beside the usual.
#[derive(Default)]
pub(crate) struct Settings {
    pub(crate) workload: Option<ServiceAccount>,
    pub(crate) log: Log,
}

pub(crate) struct Replica {
    pub(crate) name: String,
    pub(crate) address: SocketAddr,
    pub(crate) create: Arc<CreateCertificate>,
    pub(crate) client: Arc<PairClient>,
    pub(crate) denial: Arc<IssuanceDenial>,
    pub(crate) export: Arc<AuthorityExport>,
    pub(crate) known: Arc<KnownPeers>,
    pub(crate) lease: watch::Sender<Option<LeaseHolder>>,
    pub(crate) bundle: watch::Sender<Option<Arc<TrustBundle>>>,
    pub(crate) log: Arc<Log>,
    session: watch::Sender<Option<Arc<SigningSession>>>,
    state: Arc<SigningState>,
    leave: watch::Sender<bool>,
    pub(crate) server: JoinHandle<()>,
    tasks: Vec<JoinHandle<()>>,
}

pub(crate) fn trust_domain() -> TrustDomain {
    "cluster.local".parse().unwrap()
}

impl Pair {
    pub(crate) fn new() -> Self {
        let tokens = TokenIssuerKey::generate().unwrap();
        Self { store: Arc::default(), tokens, clock: Arc::default() }
    }

    pub(crate) async fn start(&self, uid: &str) -> Replica {
        self.start_with(uid, Settings::default()).await
    }

    #[expect(clippy::too_many_lines, reason = "a replica put together, part by part")]
    pub(crate) async fn start_with(&self, uid: &str, settings: Settings) -> Replica {
        let (clock, random): (Arc<dyn Clock>, _) = (Arc::<TestClock>::clone(&self.clock), Arc::new(RingRandom::new()));
        let store = Arc::clone(&self.store) as Arc<dyn StateStore>;
        let opened = Arc::clone(&store);
        let open = Box::new(move || Ok(Arc::clone(&opened)));
        let state =
            SigningState::new(open, Origin::SelfSigned, trust_domain(), Arc::clone(&clock), Arc::clone(&random) as _);
        let port = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = port.local_addr().unwrap();
        let id = ReplicaId::new(&trust_domain(), uid).unwrap();
        let (keeper, identities) = ReplicaIdentityKeeper::new(store, id, Arc::clone(&clock), Arc::clone(&random) as _);
        let (tls, follow_tls) = pair_tls(identities, Arc::clone(&clock));
        let (lease, leases) = watch::channel(None);
        let known = Arc::new(KnownPeers::new(leases, address));
        let name = format!("{uid}-0a1b2c3d");
        let client = Arc::new(PairClient::over_network(Arc::clone(&known) as _, name.clone(), address, tls.client));
        let ((session, sessions), (bundle, bundles)) = (watch::channel(None), watch::channel(None));
        let log = Arc::new(settings.log);
        let rules = IssuerRules { issuer: ISSUER.into(), audiences: vec!["istio-ca".into()], namespaces: None };
        let hour = Duration::from_secs(3600);
        let create = Arc::new(CreateCertificate::new(Parts {
            policy: SigningPolicy {
                trust_domain: trust_domain(),
                issuers: vec![TokenIssuer::new(rules, self.tokens.key_set().unwrap())],
                ttl: TtlBounds::new(hour, hour).unwrap(),
                reserved: Vec::new(),
                server_names: vec!["localhost".into()],
                istiod: None,
                replica: name.clone(),
            },
            cluster: None,
            session: sessions.clone(),
            bundle: bundles,
            log: Arc::clone(&log) as _,
            pair: Arc::clone(&client) as _,
            standing: watch::channel(Standing { role: Role::Standby, term: None, trouble: None }).1,
            clock: Arc::clone(&clock),
            random,
            metrics: Arc::new(Metrics::new()),
        }));
        let state = Arc::new(state);
        let denial = Arc::new(IssuanceDenial::new(
            sessions.clone(),
            Arc::clone(&state),
            Arc::clone(&client) as _,
            trust_domain(),
            Arc::clone(&clock),
        ));
        let random = Arc::new(RingRandom::new());
        let (kept, active, time) = (None, client.active(), Arc::clone(&clock));
        let export = AuthorityExport::new(sessions.clone(), Arc::clone(&state), kept, active, time, random);
        let services = PairServices {
            mint: Arc::new(MintJwtSvid::new(Arc::clone(&create), hour)),
            create: Arc::clone(&create),
            history: Arc::clone(&log) as _,
            denial: Arc::clone(&denial),
            rotation: None,
            federation: None,
            enforcement: None,
        };
        let peers = CertifiedPeers { clock, known: Arc::clone(&known), workload: settings.workload };
        let trust = PairTrustAccess { known: watch::channel(None).1, followers: Arc::default() };
        let (leave, mut left) = watch::channel(false);
        let server = tokio::spawn(async move {
            let left = async move { drop(left.wait_for(|left| *left).await.unwrap()) };
            serve_pair_port(port, tls.server, services, trust, peers, left).await.unwrap();
        });
        let followed = Arc::clone(&client);
        let tasks = vec![
            tokio::spawn(keeper.run()),
            tokio::spawn(follow_tls),
            tokio::spawn(async move { followed.follow(sessions).await }),
        ];
        Replica {
            name,
            address,
            create,
            client,
            denial,
            export: Arc::new(export),
            known,
            lease,
            bundle,
            log,
            session,
            state,
            leave,
            server,
            tasks,
        }
    }

    /// As a caller with a token of `account`.
    pub(crate) fn by_token(&self, account: &str) -> Evidence {
        let account = account.parse().unwrap();
        let token = self.tokens.mint(ISSUER, &account, "istio-ca", self.clock.now(), Duration::from_secs(3600));
        Evidence { token: Some(token.unwrap()), ..Evidence::NONE }
    }

    /// Lets everybody know of everybody, and who holds the lease.
    pub(crate) fn introduce(&self, replicas: &[&Replica], holder: &Replica, term: u64) {
        for replica in replicas {
            replicas.iter().for_each(|other| replica.known.heard_of(other.address));
            replica.lease.send_replace(Some(holder.as_holder(term)));
        }
    }
}

impl Replica {
    pub(crate) fn as_holder(&self, term: u64) -> LeaseHolder {
        let (replica, term) = (self.name.clone(), Term::new(term));
        LeaseHolder { replica, term, pair_address: Some(self.address) }
    }

    /// Makes this replica active.
    pub(crate) fn take_over(&self, term: u64) -> Arc<SigningSession> {
        let Claim::Claimed(claimed) = self.state.claim(Term::new(term)).unwrap() else { panic!("term {term}") };
        let session = Arc::new(SigningSession::new(Term::new(term), claimed, None));
        self.bundle.send_replace(Some(Arc::new(session.authority().unwrap().bundle().clone())));
        self.session.send_replace(Some(Arc::clone(&session)));
        session
    }

    /// Ends its term.
    pub(crate) fn step_down(&self) {
        if let Some(session) = self.session.send_replace(None) {
            session.end();
        }
    }

    /// Tells the pair server to leave.
    pub(crate) fn leave(&self) {
        self.leave.send_replace(true);
    }

    /// Asks this replica for a certificate, as one of its own callers.
    pub(crate) async fn sign(&self, evidence: &Evidence) -> Result<CertificateChain, CreateError> {
        let elements = self.create.answer(&request(), evidence, &Semaphore::new(1)).await?;
        let leaf = Certificate::all_from_pem(elements[0].as_bytes()).unwrap();
        Ok(CertificateChain::new(leaf).unwrap())
    }

    /// Waits until this replica knows that `other` is active in `term`.
    pub(crate) async fn knows(&self, other: &Self, term: u64) {
        until(DEADLINE, "the active is known", || match self.client.active_or_why_not() {
            Ok(active) if active.replica == other.name && active.term.number() == term => Ok(()),
            seen => Err(format!("{seen:?}")),
        })
        .await;
    }

    /// Waits until this replica knows of nobody that is active. Why.
    pub(crate) async fn knows_nobody(&self) -> String {
        until(DEADLINE, "nobody is known", || match self.client.active_or_why_not() {
            Err(why) => Ok(why),
            Ok(active) => Err(format!("{active:?}")),
        })
        .await
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.server.abort();
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// What every caller here asks for.
pub(crate) fn request() -> SigningRequest {
    let csr = PrivateKey::generate_p256().unwrap().certificate_request(&ID.parse().unwrap()).unwrap();
    SigningRequest { csr, ttl_seconds: 0, impersonated: String::new() }
}

/// Waits for a condition; fails with what was seen last.
pub(crate) async fn until<T>(within: Duration, what: &str, mut look: impl FnMut() -> Result<T, String>) -> T {
    let begun = Instant::now();
    loop {
        match look() {
            Ok(value) => return value,
            Err(seen) if begun.elapsed() > within => panic!("{what}: not within {within:?}; last seen: {seen}"),
            Err(_) => sleep(Duration::from_millis(2)).await,
        }
    }
}
