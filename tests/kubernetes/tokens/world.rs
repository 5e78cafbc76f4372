//! An active and a standby in this process. Of the pair nothing but the channel between them is left out.

use std::{
    net::{IpAddr, Ipv4Addr},
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use countersign::{
    domain::{
        attestation::{Denied, Evidence, ReviewRules, ReviewStatus, UnfinishedPods},
        authority::{SigningAuthority, TtlBounds, issue},
        clock::{Clock, Timestamp},
        identity::{ServiceAccount, SpiffeId},
        issuance::{Issuance, IssuanceEvent},
        jwt::{IssuerRules, TokenIssuer, TokenIssuerKey},
        leadership::{Role, Term},
        x509::{CertificateChain, PrivateKey, VerifiedCsr},
    },
    k8s::{client::client, pods::ClusterPods, token_review::ClusterTokenReviewer},
    runtime::seams::{RingRandom, SystemClock},
    service::{
        caller_attestation::Cluster as ClusterCallers,
        create_certificate::{CreateCertificate, CreateError, Parts, SigningPolicy},
        leadership::Standing,
        metrics::Metrics,
        ports::{
            ActiveReplica, BoxFuture, ForwardError, IssuanceLog, JwtSvidRequest, LogError, MintedJwtSvid, Pair,
            PodPresence, ReviewUnavailable, SigningRequest, TokenReviewer,
        },
        signing_session::SigningSession,
        signing_state::ClaimedState,
        token_reviews::TokenReviews,
    },
};
use tokio::{
    sync::{Semaphore, watch},
    task::JoinHandle,
    time::Instant,
};

pub(crate) const TRUST_DOMAIN: &str = "cluster.local";
pub(crate) const CLUSTER: &str = "Kubernetes";
/// The issuer that is configured beside the cluster.
pub(crate) const CONFIGURED: &str = "https://configured.test";
const HOUR: Duration = Duration::from_secs(3600);

pub(crate) struct World {
    pub(crate) active: Arc<CreateCertificate>,
    pub(crate) standby: Arc<CreateCertificate>,
    pub(crate) session: Arc<SigningSession>,
    pub(crate) authority: Arc<SigningAuthority>,
    pub(crate) configured: TokenIssuerKey,
    pods: Arc<ClusterPods>,
    reviewer: Arc<Counted>,
    log: Arc<Log>,
    follow: JoinHandle<()>,
}

/// Counts how often the API server is asked.
struct Counted(ClusterTokenReviewer, AtomicUsize);

impl TokenReviewer for Counted {
    fn review<'a>(
        &'a self,
        token: &'a str,
        audiences: &'a [String],
    ) -> BoxFuture<'a, Result<ReviewStatus, ReviewUnavailable>> {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.review(token, audiences)
    }
}

#[derive(Default)]
struct Log(Mutex<Vec<Issuance>>);

impl IssuanceLog for Log {
    fn append(&self, event: IssuanceEvent) -> BoxFuture<'_, Result<(), LogError>> {
        if let IssuanceEvent::Issued(issuance) = event {
            self.0.lock().unwrap().push(issuance);
        }
        Box::pin(async { Ok(()) })
    }
}

/// What a standby may ask of a cluster: nothing.
struct Unasked;

impl TokenReviewer for Unasked {
    fn review<'a>(
        &'a self,
        _token: &'a str,
        _audiences: &'a [String],
    ) -> BoxFuture<'a, Result<ReviewStatus, ReviewUnavailable>> {
        panic!("a standby has a token reviewed")
    }
}

impl PodPresence for Unasked {
    fn unfinished_pods(&self, account: &ServiceAccount) -> UnfinishedPods {
        panic!("a standby asks for the pods of {account}")
    }
}

/// The way to the active, if there is one; what was proven on the way in is asserted on it.
struct Way(Option<Arc<CreateCertificate>>);

impl Pair for Way {
    fn active(&self) -> watch::Receiver<Option<ActiveReplica>> {
        watch::channel(None).1
    }

    fn forward<'a>(
        &'a self,
        request: &'a SigningRequest,
        evidence: &'a Evidence,
    ) -> BoxFuture<'a, Result<Vec<String>, ForwardError>> {
        Box::pin(async move {
            let nobody = || ForwardError::NoActive("there is no other replica".to_owned());
            let active = self.0.as_ref().ok_or_else(nobody)?;
            let mut evidence = evidence.clone();
            evidence.asserted = evidence.presented.take().or(evidence.asserted);
            active.answer_forwarded(request, &evidence, "standby").await.map_err(|error| {
                let is_final =
                    matches!(error, CreateError::Unattested(_) | CreateError::NotEntitled(_) | CreateError::Csr(_));
                let message = error.to_string();
                if is_final { ForwardError::Refused { code: 16, message } } else { ForwardError::NoActive(message) }
            })
        })
    }

    fn forward_mint<'a>(
        &'a self,
        _request: &'a JwtSvidRequest,
        _evidence: &'a Evidence,
    ) -> BoxFuture<'a, Result<MintedJwtSvid, ForwardError>> {
        unreachable!("no token is minted here")
    }
}

impl World {
    /// With the rights of `kubeconfig`; acceptances are kept for `kept_for`.
    pub(crate) async fn new(kubeconfig: &Path, kept_for: Duration) -> Self {
        let client = client(Some(kubeconfig)).await.unwrap();
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let reviewer = Arc::new(Counted(ClusterTokenReviewer::new(client.clone()), AtomicUsize::new(0)));
        let pods = Arc::new(ClusterPods::new(client, Arc::clone(&clock)));
        let followed = Arc::clone(&pods);
        let follow = tokio::spawn(async move { followed.follow().await });
        let (authority, _key) =
            SigningAuthority::self_signed(&TRUST_DOMAIN.parse().unwrap(), HOUR * 24, clock.now(), &RingRandom::new())
                .unwrap();
        let authority = Arc::new(authority);
        let claimed = ClaimedState::own(Arc::clone(&authority), Denied::default());
        let session = Arc::new(SigningSession::new(Term::new(1), claimed, None));
        let configured = TokenIssuerKey::generate().unwrap();
        let (log, nobody) = (Arc::new(Log::default()), None);
        let of_active = callers(Arc::clone(&reviewer) as _, Arc::clone(&pods) as _, kept_for, &clock);
        let of_standby = callers(Arc::new(Unasked), Arc::new(Unasked), kept_for, &clock);
        let make = |cluster, session, way| {
            Arc::new(CreateCertificate::new(Parts {
                policy: policy(&configured),
                cluster: Some(cluster),
                session: watch::channel(session).1,
                bundle: watch::channel(Some(Arc::new(authority.bundle().clone()))).1,
                log: Arc::clone(&log) as _,
                pair: Arc::new(Way(way)),
                standing: watch::channel(Standing { role: Role::Standby, term: None, trouble: None }).1,
                clock: Arc::clone(&clock),
                random: Arc::new(RingRandom::new()),
                metrics: Arc::new(Metrics::new()),
            }))
        };
        let active = make(of_active, Some(Arc::clone(&session)), nobody);
        let standby = make(of_standby, None, Some(Arc::clone(&active)));
        Self { active, standby, session, authority, configured, pods, reviewer, log, follow }
    }

    /// What a caller of the active gets.
    pub(crate) async fn ask(&self, evidence: &Evidence) -> Result<Vec<String>, CreateError> {
        self.active.answer(&request(""), evidence, &Semaphore::new(1)).await
    }

    /// How often the API server has been asked for a review.
    pub(crate) fn asked(&self) -> usize {
        self.reviewer.1.load(Ordering::Relaxed)
    }

    /// All that was issued.
    pub(crate) fn issued(&self) -> Vec<Issuance> {
        self.log.0.lock().unwrap().clone()
    }

    /// What is known of an account's pods.
    pub(crate) fn pods_of(&self, account: &str) -> UnfinishedPods {
        self.pods.unfinished_pods(&account.parse().unwrap())
    }

    /// The certificate of an account, of this authority, given at `at`.
    pub(crate) fn certificate(&self, account: &str, at: Timestamp) -> CertificateChain {
        certificate_of(&self.authority, &id_of(account), at)
    }

    /// A token of the configured issuer.
    pub(crate) fn configured_token(&self, account: &str) -> String {
        let account = account.parse().unwrap();
        self.configured.mint(CONFIGURED, &account, "istio-ca", SystemClock.now(), HOUR).unwrap().to_string()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.follow.abort();
    }
}

fn callers(
    reviewer: Arc<dyn TokenReviewer>,
    pods: Arc<dyn PodPresence>,
    kept_for: Duration,
    clock: &Arc<dyn Clock>,
) -> ClusterCallers {
    let rules = ReviewRules { cluster: CLUSTER.to_owned(), audiences: vec!["istio-ca".to_owned()] };
    let reviews = TokenReviews::new(reviewer, rules, kept_for, Arc::clone(clock), Arc::new(Metrics::new()));
    ClusterCallers { reviews, pods }
}

fn policy(configured: &TokenIssuerKey) -> SigningPolicy {
    let rules = IssuerRules { issuer: CONFIGURED.to_owned(), audiences: vec!["istio-ca".to_owned()], namespaces: None };
    SigningPolicy {
        trust_domain: TRUST_DOMAIN.parse().unwrap(),
        issuers: vec![TokenIssuer::new(rules, configured.key_set().unwrap())],
        ttl: TtlBounds::new(HOUR, HOUR).unwrap(),
        reserved: vec![id_of("istio-system/istiod")],
        server_names: Vec::new(),
        istiod: None,
        replica: "active".to_owned(),
    }
}

/// A request whose ID says nothing; `impersonated` may be empty.
pub(crate) fn request(impersonated: &str) -> SigningRequest {
    let csr = PrivateKey::generate_p256().unwrap().certificate_request(&id_of("any/body")).unwrap();
    SigningRequest { csr, ttl_seconds: 0, impersonated: impersonated.to_owned() }
}

pub(crate) fn certificate_of(authority: &SigningAuthority, id: &SpiffeId, at: Timestamp) -> CertificateChain {
    let csr = PrivateKey::generate_p256().unwrap().certificate_request(id).unwrap();
    let csr = VerifiedCsr::from_pem(csr.as_bytes()).unwrap();
    let bounds = TtlBounds::new(HOUR, HOUR).unwrap();
    let issued = issue(authority, &csr, id, 0, &bounds, at, &RingRandom::new()).unwrap();
    CertificateChain::new(vec![issued.leaf]).unwrap()
}

pub(crate) fn id_of(account: &str) -> SpiffeId {
    account.parse::<ServiceAccount>().unwrap().spiffe_id(&TRUST_DOMAIN.parse().unwrap()).unwrap()
}

pub(crate) fn by_token(token: &str) -> Evidence {
    let source = Some(IpAddr::from(Ipv4Addr::LOCALHOST));
    Evidence { token: Some(token.to_owned().into()), source, ..Evidence::NONE }
}

pub(crate) fn by_certificate(chain: CertificateChain) -> Evidence {
    Evidence { presented: Some(chain), ..Evidence::NONE }
}

/// Asks until `probe` is content; fails with what it saw last.
pub(crate) async fn until<T, F>(within: Duration, what: &str, mut probe: impl FnMut() -> F) -> T
where
    F: Future<Output = Result<T, String>>,
{
    let begun = Instant::now();
    loop {
        match probe().await {
            Ok(value) => return value,
            Err(seen) if begun.elapsed() > within => panic!("{what}: not within {within:?}; last seen: {seen}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}
