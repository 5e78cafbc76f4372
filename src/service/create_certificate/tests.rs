mod terms;

use std::{
    collections::VecDeque,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    task::{JoinHandle, JoinSet},
    time::{Instant, sleep},
};

use super::*;
use crate::{
    domain::{
        attestation::{AttestationError, Denied, EntitlementError, OwnIdentity},
        authority::{
            SigningAuthority,
            testing::{NOW, TestRandom, authority},
        },
        clock::BootInstant,
        jwt::{IssuerRules, JwtSigner, TokenIssuerKey},
        leadership::Role,
        x509::{Certificate, CertificateChain, PrivateKey},
    },
    service::{
        ports::{ActiveReplica, BoxFuture, ForwardError, JwtSvidRequest, LogError, MintedJwtSvid},
        signing_state::ClaimedState,
    },
};

pub(in crate::service) const ID: &str = "spiffe://cluster.local/ns/default/sa/gateway";
const TERM: Term = Term::new(7);
const TROUBLE: &str = "the API server did not answer";

/// Follows tokio's clock, which these tests pause.
pub(in crate::service) struct TestClock(pub(in crate::service) Instant);

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        NOW.plus(self.0.elapsed())
    }

    fn boot(&self) -> BootInstant {
        BootInstant::from_nanos(0).plus(self.0.elapsed())
    }
}

/// Keeps what is appended, unless it is told otherwise.
#[derive(Default)]
pub(in crate::service) struct TestLog {
    pub(super) events: Mutex<Vec<IssuanceEvent>>,
    full: bool,
    /// Ends while the next record is written.
    ends_meanwhile: Mutex<Option<Arc<SigningSession>>>,
}

impl IssuanceLog for TestLog {
    fn append(&self, event: IssuanceEvent) -> BoxFuture<'_, Result<(), LogError>> {
        if let Some(session) = self.ends_meanwhile.lock().unwrap().take() {
            session.end();
        }
        let answer = if self.full { Err(LogError("the disk is full".into())) } else { Ok(()) };
        if answer.is_ok() {
            self.events.lock().unwrap().push(event);
        }
        Box::pin(async { answer })
    }
}

/// Answers from a list, then that nobody is active.
#[derive(Default)]
pub(in crate::service) struct TestPair {
    pub(super) answers: Mutex<VecDeque<Result<Vec<String>, ForwardError>>>,
    pub(in crate::service) minted: Mutex<VecDeque<Result<MintedJwtSvid, ForwardError>>>,
    pub(super) calls: AtomicUsize,
    pub(in crate::service) hung: bool,
    pub(super) active: watch::Sender<Option<ActiveReplica>>,
}

impl Pair for TestPair {
    fn active(&self) -> watch::Receiver<Option<ActiveReplica>> {
        self.active.subscribe()
    }

    fn forward<'a>(
        &'a self,
        _request: &'a SigningRequest,
        _evidence: &'a Evidence,
    ) -> BoxFuture<'a, Result<Vec<String>, ForwardError>> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let next = self.answers.lock().unwrap().pop_front();
        Box::pin(async move {
            if self.hung {
                std::future::pending::<()>().await;
            }
            next.unwrap_or_else(|| Err(ForwardError::NoActive("nobody".into())))
        })
    }

    fn forward_mint<'a>(
        &'a self,
        _request: &'a JwtSvidRequest,
        _evidence: &'a Evidence,
    ) -> BoxFuture<'a, Result<MintedJwtSvid, ForwardError>> {
        let next = self.minted.lock().unwrap().pop_front();
        Box::pin(async move { next.unwrap_or_else(|| Err(ForwardError::NoActive("nobody".into()))) })
    }
}

const ISTIOD: &str = "spiffe://cluster.local/ns/istio-system/sa/istiod";

/// A replica between ports of the test's own. Not active until a session begins.
pub(in crate::service) struct Replica {
    pub(in crate::service) create: Arc<CreateCertificate>,
    session: watch::Sender<Option<Arc<SigningSession>>>,
    standing: watch::Sender<Standing>,
    pub(super) bundle: watch::Sender<Option<Arc<TrustBundle>>>,
    pub(super) authority: Arc<SigningAuthority>,
    pub(super) log: Arc<TestLog>,
    pub(in crate::service) pair: Arc<TestPair>,
    pub(super) tokens: TokenIssuerKey,
}

fn claimed(authority: &Arc<SigningAuthority>) -> ClaimedState {
    let signer = JwtSigner::generate(NOW.plus(Duration::from_secs(86_400))).unwrap();
    let jwt_signer = watch::channel(Some(Arc::new(signer))).1;
    ClaimedState { jwt_signer, ..ClaimedState::own(Arc::clone(authority), Denied::default()) }
}

impl Replica {
    pub(in crate::service) fn new() -> Self {
        Self::over(TestLog::default(), TestPair::default())
    }

    pub(in crate::service) fn over(log: TestLog, pair: TestPair) -> Self {
        Self::within(None, log, pair)
    }

    pub(in crate::service) fn within(cluster: Option<Cluster>, log: TestLog, pair: TestPair) -> Self {
        let (session, sessions) = watch::channel(None);
        let (bundle, bundles) = watch::channel(None);
        let (standing, standings) = watch::channel(Standing { role: Role::Standby, term: None, trouble: None });
        let (log, pair) = (Arc::new(log), Arc::new(pair));
        let tokens = TokenIssuerKey::generate().unwrap();
        let rules = IssuerRules { issuer: "issuer".into(), audiences: vec!["istio-ca".into()], namespaces: None };
        let hour = Duration::from_secs(3600);
        let policy = SigningPolicy {
            trust_domain: "cluster.local".parse().unwrap(),
            issuers: vec![TokenIssuer::new(rules, tokens.key_set().unwrap())],
            ttl: TtlBounds::new(hour, hour).unwrap(),
            reserved: vec![ISTIOD.parse().unwrap()],
            server_names: Vec::new(),
            istiod: Some(IstiodServing {
                id: ISTIOD.parse().unwrap(),
                server_names: vec!["istiod.istio-system.svc".into()],
            }),
            replica: "replica-0".into(),
        };
        let create = CreateCertificate::new(Parts {
            policy,
            cluster,
            session: sessions,
            bundle: bundles,
            log: Arc::clone(&log) as _,
            pair: Arc::clone(&pair) as _,
            standing: standings,
            clock: Arc::new(TestClock(Instant::now())),
            random: Arc::new(TestRandom),
            metrics: Arc::new(Metrics::new()),
        });
        let (create, authority) = (Arc::new(create), Arc::new(authority()));
        Self { create, session, standing, bundle, authority, log, pair, tokens }
    }

    /// Makes this replica active.
    pub(in crate::service) fn begin(&self) -> Arc<SigningSession> {
        let session = Arc::new(SigningSession::new(TERM, claimed(&self.authority), None));
        self.session.send_replace(Some(Arc::clone(&session)));
        session
    }

    pub(in crate::service) fn by_token(&self) -> Evidence {
        let account = "default/gateway".parse().unwrap();
        let token = self.tokens.mint("issuer", &account, "istio-ca", NOW, Duration::from_secs(3600)).unwrap();
        Evidence { token: Some(token), ..Evidence::NONE }
    }

    async fn answer(&self) -> Result<Vec<String>, CreateError> {
        self.create.answer(&request(), &self.by_token(), &Semaphore::new(1)).await
    }

    /// A request that goes on beside the test.
    fn spawn(&self, held: &Arc<Semaphore>) -> JoinHandle<Result<Vec<String>, CreateError>> {
        let (create, evidence, held) = (Arc::clone(&self.create), self.by_token(), Arc::clone(held));
        tokio::spawn(async move { create.answer(&request(), &evidence, &held).await })
    }

    pub(super) fn forwarded(&self) -> usize {
        self.pair.calls.load(Ordering::Relaxed)
    }

    /// Serials that are on record, and whether as withheld.
    fn recorded(&self) -> Vec<(String, bool)> {
        let event = |event: &IssuanceEvent| match event {
            IssuanceEvent::Issued(issuance) => {
                assert_eq!((issuance.term, issuance.id.as_str()), (TERM, ID));
                (issuance.serial.clone(), false)
            }
            IssuanceEvent::Withheld { serial, term } => {
                assert_eq!(*term, TERM);
                (serial.clone(), true)
            }
        };
        self.log.events.lock().unwrap().iter().map(event).collect()
    }
}

pub(super) fn request() -> SigningRequest {
    let csr = PrivateKey::generate_p256().unwrap().certificate_request(&ID.parse().unwrap()).unwrap();
    SigningRequest { csr: csr.to_string(), ttl_seconds: 0, impersonated: String::new() }
}

fn serial_of(chain: &[String]) -> String {
    let leaf = Certificate::all_from_pem(chain[0].as_bytes()).unwrap().remove(0);
    leaf.serial().to_string()
}

#[tokio::test(start_paused = true)]
async fn the_active_signs_and_records_what_it_sends() {
    let replica = Replica::new();
    replica.begin();
    let chain = replica.answer().await.unwrap();
    assert_eq!(replica.recorded(), [(serial_of(&chain), false)]);
    assert_eq!(replica.forwarded(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_request_is_held_until_this_replica_is_active() {
    let replica = Replica::new();
    let begun = Instant::now();
    let answer = replica.spawn(&Arc::new(Semaphore::new(1)));
    sleep(Duration::from_secs(3)).await;
    assert!(!answer.is_finished());
    replica.begin();
    let chain = answer.await.unwrap().unwrap();
    assert!(begun.elapsed() < Duration::from_millis(3010), "{:?}", begun.elapsed());
    assert_eq!(replica.recorded(), [(serial_of(&chain), false)]);
}

#[tokio::test(start_paused = true)]
async fn a_request_is_unavailable_after_ten_seconds_with_the_reason() {
    let replica = Replica::new();
    replica.standing.send_modify(|standing| standing.trouble = Some(TROUBLE.into()));
    let begun = Instant::now();
    let refused = replica.answer().await.unwrap_err();
    assert!(
        matches!(&refused, CreateError::Unavailable { last, .. } if *last == format!("nobody; here: {TROUBLE}")),
        "{refused}"
    );
    assert_eq!(begun.elapsed(), HOLD_LIMIT);
    assert!((20..=30).contains(&replica.forwarded()), "{} attempts", replica.forwarded());
}

#[tokio::test(start_paused = true)]
async fn a_hung_active_takes_a_second_of_each_attempt_and_no_more_than_ten_in_all() {
    let replica = Replica::over(TestLog::default(), TestPair { hung: true, ..TestPair::default() });
    let begun = Instant::now();
    let refused = replica.answer().await.unwrap_err();
    assert!(refused.to_string().ends_with("did not answer within 1s"), "{refused}");
    assert_eq!(begun.elapsed(), HOLD_LIMIT);
    // each takes its second, with a pause that grows between them
    assert!((8..=10).contains(&replica.forwarded()), "{} attempts", replica.forwarded());
}

#[tokio::test(start_paused = true)]
async fn the_answer_of_the_active_is_passed_on() {
    let not_yet = || Err(ForwardError::NoActive("not yet".into()));
    let signed = vec!["leaf".to_owned(), "root".to_owned()];
    let refused = ForwardError::Refused { code: 3, message: "CSR signing error (…)".into() };
    let answers = VecDeque::from([not_yet(), not_yet(), Ok(signed.clone()), not_yet(), Err(refused)]);
    let replica = Replica::over(TestLog::default(), TestPair { answers: answers.into(), ..TestPair::default() });
    assert_eq!(replica.answer().await, Ok(signed));
    assert_eq!(replica.forwarded(), 3);
    let by_active = CreateError::ByActive { code: 3, message: "CSR signing error (…)".into() };
    assert_eq!(replica.answer().await, Err(by_active));
    assert_eq!(replica.forwarded(), 5);
    assert_eq!(replica.recorded(), []);
}

#[tokio::test(start_paused = true)]
async fn a_forwarded_request_is_never_forwarded_again() {
    let replica = Replica::new();
    let evidence = replica.by_token();
    let forwarded = || async { replica.create.answer_forwarded(&request(), &evidence, "replica-1").await };
    let begun = Instant::now();
    assert_eq!(forwarded().await, Err(CreateError::NotActive));
    let session = replica.begin();
    assert!(forwarded().await.is_ok());
    session.end();
    assert_eq!(forwarded().await, Err(CreateError::NotActive));
    assert_eq!((replica.forwarded(), begun.elapsed()), (0, Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn a_connection_may_have_so_many_requests_waiting_and_others_are_not_in_its_way() {
    let replica = Replica::new();
    let (full, other) = (Arc::new(Semaphore::new(HELD_PER_CONNECTION)), Arc::new(Semaphore::new(1)));
    let mut waiting: JoinSet<_> = (0..HELD_PER_CONNECTION).map(|_| replica.spawn(&full)).collect();
    sleep(Duration::from_millis(1)).await;
    assert_eq!(full.available_permits(), 0);
    let begun = Instant::now();
    assert_eq!(replica.spawn(&full).await.unwrap(), Err(CreateError::Overloaded));
    assert_eq!(begun.elapsed(), Duration::ZERO);

    let others = replica.spawn(&other);
    sleep(Duration::from_secs(1)).await;
    replica.begin();
    assert!(others.await.unwrap().is_ok());
    while let Some(answer) = waiting.join_next().await {
        assert!(answer.unwrap().unwrap().is_ok());
    }
    assert_eq!(full.available_permits(), HELD_PER_CONNECTION);
}

#[tokio::test(start_paused = true)]
async fn who_is_refused_early_takes_up_no_place() {
    let replica = Replica::new();
    let no_place = Semaphore::new(0);
    let begun = Instant::now();
    let bad_token = Evidence { token: Some("x.y.z".to_owned().into()), ..Evidence::NONE };
    for evidence in [Evidence::NONE, bad_token] {
        let refused = replica.create.answer(&request(), &evidence, &no_place).await;
        assert!(matches!(refused, Err(CreateError::Unattested(_))), "{refused:?}");
    }
    assert_eq!((replica.forwarded(), begun.elapsed()), (0, Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_wrong_is_refused_at_once_though_nobody_is_active() {
    let replica = Replica::new();
    let no_place = Semaphore::new(0);
    let begun = Instant::now();
    let junk = SigningRequest { csr: "A".repeat(4 << 20), ..request() };
    let refused = replica.create.answer(&junk, &replica.by_token(), &no_place).await;
    assert!(matches!(refused, Err(CreateError::Csr(_))), "{refused:?}");
    let impersonating = SigningRequest { impersonated: ID.to_owned(), ..request() };
    let refused = replica.create.answer(&impersonating, &replica.by_token(), &no_place).await;
    assert!(matches!(refused, Err(CreateError::NotEntitled(_))), "{refused:?}");
    assert_eq!((replica.forwarded(), begun.elapsed()), (0, Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn a_certificate_that_this_replica_can_not_judge_yet_is_judged_by_the_active() {
    let signed = vec!["leaf".to_owned(), "root".to_owned()];
    let answers = VecDeque::from([Ok(signed.clone())]);
    let replica = Replica::over(TestLog::default(), TestPair { answers: answers.into(), ..TestPair::default() });
    let csr = VerifiedCsr::from_pem(request().csr.as_bytes()).unwrap();
    let hour = Duration::from_secs(3600);
    let (id, bounds) = (ID.parse().unwrap(), TtlBounds::new(hour, hour).unwrap());
    let leaf = issue(&authority(), &csr, &id, 0, &bounds, NOW, &TestRandom).unwrap().leaf;
    let chain = CertificateChain::new(vec![leaf]).unwrap();
    let evidence = Evidence { presented: Some(chain), ..Evidence::NONE };
    let answer = || async { replica.create.answer(&request(), &evidence, &Semaphore::new(1)).await };
    assert_eq!(answer().await, Ok(signed));

    // another root's, as this replica knows by now
    replica.bundle.send_replace(Some(Arc::new(replica.authority.bundle().clone())));
    assert!(matches!(answer().await, Err(CreateError::Unattested(AttestationError::Certificate(_)))));
    assert_eq!(replica.forwarded(), 1);
}

#[tokio::test]
async fn istiods_certificate_bears_its_names_and_goes_to_the_replica_itself_alone() {
    let replica = Replica::new();
    replica.begin();
    let own = |account: &str| Evidence { own: Some(OwnIdentity::Istiod(account.parse().unwrap())), ..Evidence::NONE };
    let ask = async |evidence: Evidence| replica.create.answer(&request(), &evidence, &Semaphore::new(1)).await;

    let chain = ask(own("istio-system/istiod")).await.unwrap();
    let leaf = Certificate::all_from_pem(chain[0].as_bytes()).unwrap().remove(0);
    assert_eq!(leaf.spiffe_id().unwrap().as_str(), ISTIOD);
    assert_eq!(leaf.dns_names(), ["istiod.istio-system.svc"]);

    let refused = ask(own("istio-system/other")).await;
    assert!(matches!(refused, Err(CreateError::NotEntitled(EntitlementError::Reserved(_)))), "{refused:?}");
    let account = "istio-system/istiod".parse().unwrap();
    let token = replica.tokens.mint("issuer", &account, "istio-ca", NOW, Duration::from_secs(3600)).unwrap();
    let refused = ask(Evidence { token: Some(token), ..Evidence::NONE }).await;
    assert!(matches!(refused, Err(CreateError::NotEntitled(EntitlementError::Reserved(_)))), "{refused:?}");
}
