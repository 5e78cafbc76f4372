//! The distribution of one replica, with a term that the test grants.

use std::sync::{Arc, Mutex};

use countersign::{
    domain::{
        attestation::Denied,
        authority::{SigningAuthority, TtlBounds},
        clock::Clock,
        identity::TrustDomain,
        issuance::IssuanceEvent,
        leadership::{Role, Term},
        x509::{Certificate, PrivateKey, TrustBundle},
    },
    grpc::self_handshake::SelfHandshake,
    k8s::bundle_places::bundle_places,
    runtime::seams::{RingRandom, SystemClock},
    service::{
        bundle_distribution::{BundleDistribution, DistributionConfig, DistributionStatus, MeshCa, Parts},
        create_certificate::{self, CreateCertificate, SigningPolicy},
        leadership::Standing,
        metrics::Metrics,
        ports::{
            ActiveReplica, BoxFuture, ForwardError, IssuanceLog, JwtSvidRequest, LogError, MintedJwtSvid, Pair,
            SigningRequest,
        },
        readiness::Readiness,
        signing_session::SigningSession,
        signing_state::ClaimedState,
    },
};
use tokio::{sync::watch, task::JoinHandle};

use super::{Duration, NAMESPACE, SOON, until};
use crate::cluster::{Account, Cluster};

pub(super) const TRUST_DOMAIN: &str = "cluster.local";
const DAY: Duration = Duration::from_secs(86_400);

/// A running one. It ends when this is dropped.
pub(super) struct Replica {
    sessions: watch::Sender<Option<Arc<SigningSession>>>,
    pub(super) status: watch::Receiver<DistributionStatus>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) log: Arc<Log>,
    task: JoinHandle<()>,
}

/// An authority whose bundle changes.
pub(super) struct Authority {
    pub(super) certificate: Certificate,
    key: PrivateKey,
    now: watch::Sender<Arc<SigningAuthority>>,
}

/// The record of what was issued.
#[derive(Default)]
pub(super) struct Log(pub(super) Mutex<Vec<IssuanceEvent>>);

struct Nobody(watch::Sender<Option<ActiveReplica>>);

pub(super) fn trust_domain() -> TrustDomain {
    TRUST_DOMAIN.parse().unwrap()
}

pub(super) fn config() -> DistributionConfig {
    DistributionConfig {
        namespace: NAMESPACE.to_owned(),
        trust_domain: trust_domain(),
        mesh_ca: None,
        cluster_trust_bundle: false,
        adopt: false,
    }
}

pub(super) fn mesh_config() -> DistributionConfig {
    let istiod = "istio-system/istiod".parse().unwrap();
    let revisions = vec!["canary".parse().unwrap()];
    let mesh = MeshCa::new("istio-ca-root-cert".into(), istiod, revisions, &trust_domain()).unwrap();
    DistributionConfig { mesh_ca: Some(mesh), ..config() }
}

impl Authority {
    pub(super) fn new() -> Self {
        let year = DAY * 365;
        let (authority, key) =
            SigningAuthority::self_signed(&trust_domain(), year, SystemClock.now(), &RingRandom::new()).unwrap();
        let certificate = authority.certificate().clone();
        Self { certificate, key, now: watch::Sender::new(Arc::new(authority)) }
    }

    /// The same, below a bundle with one more root. Returns its text.
    pub(super) fn publish_also(&self, other: &Certificate) -> String {
        self.publish(vec![self.certificate.clone(), other.clone()])
    }

    /// The bundle holds only its own root again.
    pub(super) fn publish_alone(&self) -> String {
        self.publish(vec![self.certificate.clone()])
    }

    fn publish(&self, roots: Vec<Certificate>) -> String {
        let bundle = TrustBundle::new(trust_domain(), roots).unwrap();
        let (certificate, now) = (self.certificate.clone(), SystemClock.now());
        let authority = SigningAuthority::from_parts(certificate, &self.key, Vec::new(), bundle, now).unwrap();
        self.now.send_replace(Arc::new(authority));
        self.roots()
    }

    pub(super) fn roots(&self) -> String {
        self.now.borrow().roots_pem().to_owned()
    }
}

impl Replica {
    /// With the rights of the shipped service account.
    pub(super) async fn start(cluster: &Cluster, config: DistributionConfig) -> Self {
        let account = Account { namespace: NAMESPACE.to_owned(), name: "countersign".to_owned() };
        let kubeconfig = cluster.kubeconfig(&account).await;
        let client = countersign::k8s::client::client(Some(&kubeconfig)).await.unwrap();
        let (clock, metrics, log) = (Arc::new(SystemClock), Arc::new(Metrics::new()), Arc::new(Log::default()));
        let sessions = watch::Sender::new(None);
        let ttl = TtlBounds::new(DAY, DAY).unwrap();
        let istiod = config.mesh_ca.as_ref().map(MeshCa::istiod_serving);
        let create = CreateCertificate::new(create_certificate::Parts {
            policy: SigningPolicy {
                trust_domain: config.trust_domain.clone(),
                issuers: Vec::new(),
                ttl,
                reserved: istiod.iter().map(|istiod| istiod.id.clone()).collect(),
                server_names: Vec::new(),
                istiod,
                replica: "replica".into(),
            },
            cluster: None,
            session: sessions.subscribe(),
            bundle: watch::channel(None).1,
            log: Arc::clone(&log) as _,
            pair: Arc::new(Nobody(watch::Sender::new(None))),
            standing: watch::channel(Standing { role: Role::Standby, term: None, trouble: None }).1,
            clock: Arc::clone(&clock) as _,
            random: Arc::new(RingRandom::new()),
            metrics: Arc::clone(&metrics),
        });
        let distribution = BundleDistribution::new(Parts {
            places: bundle_places(&client, &config),
            config,
            create: Arc::new(create),
            ttl,
            check: Arc::new(SelfHandshake::new(Arc::clone(&clock) as _)),
            clock,
            metrics: Arc::clone(&metrics),
        });
        let (status, received) = (distribution.status(), sessions.subscribe());
        let latch = Readiness::default().latch("distribution", "");
        let task = tokio::spawn(async move { match distribution.run(received, latch).await {} });
        Self { sessions, status, metrics, log, task }
    }

    /// Grants it a term.
    pub(super) fn activate(&self, term: u64, authority: &Authority) {
        let state = ClaimedState::following(authority.now.subscribe(), Denied::default());
        self.sessions.send_replace(Some(Arc::new(SigningSession::new(Term::new(term), state, None))));
    }

    /// Takes it away.
    pub(super) fn stand_by(&self) {
        self.sessions.send_replace(None);
    }

    /// Waits until its status says this.
    pub(super) async fn says(&self, text: &str, within: Duration) {
        until(within, text, async || {
            let status = self.status.borrow().to_string();
            if status.contains(text) { Ok(()) } else { Err(status) }
        })
        .await;
    }

    /// Waits until its status says this, soon.
    pub(super) async fn says_soon(&self, text: &str) {
        self.says(text, SOON).await;
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl IssuanceLog for Log {
    fn append(&self, event: IssuanceEvent) -> BoxFuture<'_, Result<(), LogError>> {
        self.0.lock().unwrap().push(event);
        Box::pin(async { Ok(()) })
    }
}

impl Pair for Nobody {
    fn active(&self) -> watch::Receiver<Option<ActiveReplica>> {
        self.0.subscribe()
    }

    fn forward<'a>(
        &'a self,
        _request: &'a SigningRequest,
        _evidence: &'a countersign::domain::attestation::Evidence,
    ) -> BoxFuture<'a, Result<Vec<String>, ForwardError>> {
        Box::pin(async { Err(ForwardError::NoActive("nobody".into())) })
    }

    fn forward_mint<'a>(
        &'a self,
        _request: &'a JwtSvidRequest,
        _evidence: &'a countersign::domain::attestation::Evidence,
    ) -> BoxFuture<'a, Result<MintedJwtSvid, ForwardError>> {
        Box::pin(async { Err(ForwardError::NoActive("nobody".into())) })
    }
}
