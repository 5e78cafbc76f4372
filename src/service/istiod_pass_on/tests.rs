mod limits;

use std::sync::{
    Mutex,
    atomic::{AtomicUsize, Ordering},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use tokio::{task::JoinSet, time::sleep};

use super::*;
use crate::{
    domain::{
        authority::{
            SigningAuthority, TtlBounds, issue,
            testing::{NOW, TestRandom, authority},
        },
        clock::{BootInstant, Timestamp},
        x509::PrivateKey,
    },
    service::{ports::BoxFuture, readiness::Readiness},
};

/// Follows tokio's clock, which these tests pause.
struct TestClock(Instant);

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        NOW.plus(self.0.elapsed())
    }

    fn boot(&self) -> BootInstant {
        BootInstant::from_nanos(0).plus(self.0.elapsed())
    }
}

/// How an address behaves.
#[derive(Clone)]
enum Manner {
    Signs,
    SignsFor(&'static str),
    SignsByAnother,
    Refuses,
    NoCa,
    Gone,
    Hangs,
}

/// Signs for whoever the `authorization` names, after a while.
struct TestIstiod {
    addresses: Vec<String>,
    manners: Mutex<Vec<Manner>>,
    authority: SigningAuthority,
    takes: Duration,
    asked: AtomicUsize,
}

impl TestIstiod {
    fn set(&self, index: usize, manner: Manner) {
        self.manners.lock().unwrap()[index] = manner;
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }

    fn signed(&self, by: &SigningAuthority, id: &str, request: &PassedRequest) -> Vec<String> {
        let csr = VerifiedCsr::from_pem(&request.message).unwrap();
        let hour = Duration::from_secs(3600);
        let id = id.parse().unwrap();
        let bounds = TtlBounds::new(hour, hour).unwrap();
        issue(by, &csr, &id, 0, &bounds, NOW, &TestRandom).unwrap().response_chain(by)
    }
}

impl Istiod for TestIstiod {
    fn addresses(&self) -> &[String] {
        &self.addresses
    }

    fn ask<'a>(
        &'a self,
        address: usize,
        _roots: &'a TrustBundle,
        request: &'a PassedRequest,
    ) -> BoxFuture<'a, Result<Vec<String>, AskError>> {
        Box::pin(async move {
            self.asked.fetch_add(1, Ordering::Relaxed);
            let manner = self.manners.lock().unwrap()[address].clone();
            sleep(self.takes).await;
            let token = std::str::from_utf8(&request.authorization).unwrap().strip_prefix("Bearer ").unwrap();
            let account = unverified_subject(token).unwrap();
            let id = account.spiffe_id(&"cluster.local".parse().unwrap()).unwrap().to_string();
            match manner {
                Manner::Signs => Ok(self.signed(&self.authority, &id, request)),
                Manner::SignsFor(other) => Ok(self.signed(&self.authority, other, request)),
                Manner::SignsByAnother => Ok(self.signed(&authority(), &id, request)),
                Manner::Refuses => Err(AskError::Refused { code: 16, message: "request authenticate failure".into() }),
                Manner::NoCa => Err(AskError::NoCa("no CA".into())),
                Manner::Gone => Err(AskError::Unreachable("connection refused".into())),
                Manner::Hangs => std::future::pending().await,
            }
        })
    }

    fn reach<'a>(&'a self, address: usize, _roots: &'a TrustBundle) -> BoxFuture<'a, Result<(), String>> {
        let is_there = !matches!(self.manners.lock().unwrap()[address], Manner::Gone);
        Box::pin(async move { if is_there { Ok(()) } else { Err("connection refused".to_owned()) } })
    }
}

struct Stage {
    istiod: Arc<TestIstiod>,
    pass_on: Arc<PassOn>,
    roots: watch::Sender<KnownRoots>,
    csr: String,
}

impl Stage {
    fn set(manners: &[Manner]) -> Self {
        Self::with(manners, 1_000_000)
    }

    fn with(manners: &[Manner], per_second: u32) -> Self {
        let authority = authority();
        let bundle = Some(Arc::new(authority.bundle().clone()));
        let istiod = Arc::new(TestIstiod {
            addresses: (0..manners.len()).map(|index| format!("istiod-{index}:15012")).collect(),
            manners: Mutex::new(manners.to_vec()),
            authority,
            takes: Duration::from_millis(50),
            asked: AtomicUsize::new(0),
        });
        let (roots, known) = watch::channel(KnownRoots { bundle, trouble: None });
        let pass_on = Arc::new(PassOn::new(Parts {
            istiod: Arc::clone(&istiod) as _,
            roots: known,
            trust_domain: "cluster.local".parse().unwrap(),
            per_second: per_second.try_into().unwrap(),
            clock: Arc::new(TestClock(Instant::now())),
            metrics: Arc::new(Metrics::before_istiod()),
        }));
        Self { istiod, pass_on, roots, csr: csr() }
    }

    async fn ask(&self, request: PassOnRequest) -> Result<Vec<String>, PassOnError> {
        self.pass_on.answer(request, &Semaphore::new(1)).await
    }

    fn good(&self) -> PassOnRequest {
        request(&token("gateway", 1), &self.csr)
    }

    fn metric(&self, outcome: &str) -> String {
        let start = format!("countersign_istiod_requests_total{{outcome=\"{outcome}\"}} ");
        let page = self.pass_on.metrics.encode();
        page.lines().find_map(|line| line.strip_prefix(&start)).unwrap().to_owned()
    }
}

fn csr() -> String {
    let id = "spiffe://cluster.local/whatever".parse().unwrap();
    PrivateKey::generate_p256().unwrap().certificate_request(&id).unwrap()
}

/// Tokens of one account differ in their number.
fn token(account: &str, number: usize) -> String {
    let part = |text: String| URL_SAFE_NO_PAD.encode(text);
    let claims = format!(r#"{{"sub":"system:serviceaccount:default:{account}","jti":"{number}"}}"#);
    format!("{}.{}.{}", part(r#"{"alg":"RS256"}"#.into()), part(claims), part("signature".into()))
}

fn request(token: &str, csr: &str) -> PassOnRequest {
    PassOnRequest {
        passed: PassedRequest {
            authorization: Zeroizing::new(format!("Bearer {token}").into_bytes()),
            clusters: vec![b"Kubernetes".to_vec()],
            message: csr.as_bytes().to_vec(),
        },
        token: Some(Zeroizing::new(token.to_owned())),
        has_certificate: false,
        source: None,
        asked: SigningRequest { csr: csr.to_owned(), ttl_seconds: 0, impersonated: String::new() },
    }
}

fn id_of(answer: &[String]) -> String {
    let leaf = crate::domain::x509::Certificate::all_from_pem(answer[0].as_bytes()).unwrap().remove(0);
    leaf.spiffe_id().unwrap().to_string()
}

#[tokio::test(start_paused = true)]
async fn a_good_request_has_istiods_answer() {
    let stage = Stage::set(&[Manner::Signs]);
    let answer = stage.ask(stage.good()).await.unwrap();
    assert_eq!(id_of(&answer), "spiffe://cluster.local/ns/default/sa/gateway");
    assert_eq!(stage.metric("answered"), "1");
    assert!(stage.pass_on.signer().borrow().is_some());
}

#[tokio::test(start_paused = true)]
async fn what_can_be_judged_here_does_not_bother_istiod() {
    let stage = Stage::set(&[Manner::Signs]);
    let none = || PassOnRequest { token: None, ..stage.good() };
    assert_eq!(stage.ask(none()).await, Err(PassOnError::NoProof));
    let certified = PassOnRequest { has_certificate: true, ..none() };
    assert_eq!(stage.ask(certified).await, Err(PassOnError::CertificateOnly));
    assert_eq!(stage.ask(request("no token", &stage.csr)).await, Err(PassOnError::NoAccount));
    let asked = SigningRequest { csr: stage.csr.clone(), ttl_seconds: 0, impersonated: "x".into() };
    let impersonating = PassOnRequest { asked, ..stage.good() };
    assert_eq!(stage.ask(impersonating).await, Err(PassOnError::Impersonation("x".into())));
    let refused = stage.ask(request(&token("gateway", 1), "no CSR")).await;
    assert!(matches!(refused, Err(PassOnError::Csr(_))), "{refused:?}");
    assert_eq!(stage.istiod.asked(), 0);
    // both kinds of proof: the token is passed on
    assert!(stage.ask(PassOnRequest { has_certificate: true, ..stage.good() }).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn equal_requests_are_passed_on_once_and_only_while_one_is_under_way() {
    let stage = Stage::set(&[Manner::Signs]);
    let mut callers = JoinSet::new();
    for _ in 0..100 {
        let (pass_on, request) = (Arc::clone(&stage.pass_on), stage.good());
        callers.spawn(async move { pass_on.answer(request, &Semaphore::new(1)).await.unwrap() });
    }
    let answers = callers.join_all().await;
    assert_eq!(stage.istiod.asked(), 1);
    assert!(answers.iter().all(|answer| *answer == answers[0]));
    assert_eq!(stage.metric("coalesced"), "99");
    let later = stage.ask(stage.good()).await.unwrap();
    assert_eq!(stage.istiod.asked(), 2);
    assert_ne!(later, answers[0]);
}

#[tokio::test(start_paused = true)]
async fn requests_that_differ_in_anything_are_not_equal() {
    let stage = Stage::set(&[Manner::Signs]);
    let with_cluster = |clusters: &[&[u8]]| {
        let mut request = stage.good();
        request.passed.clusters = clusters.iter().map(|cluster| cluster.to_vec()).collect();
        request
    };
    let requests = [
        stage.good(),
        // the same CSR, another token of the same account, and one of another account
        request(&token("gateway", 2), &stage.csr),
        request(&token("other", 1), &stage.csr),
        request(&token("gateway", 1), &csr()),
        with_cluster(&[]),
        with_cluster(&[b"Kubernetes", b"Kubernetes"]),
        with_cluster(&[b"KubernetesKubernetes"]),
        {
            let mut request = stage.good();
            request.passed.message.extend(b"\n");
            request
        },
    ];
    let (count, mut callers) = (requests.len(), JoinSet::new());
    for request in requests {
        let (pass_on, own) = (Arc::clone(&stage.pass_on), unverified_subject(request.token.as_ref().unwrap()).unwrap());
        callers.spawn(async move {
            let answer = pass_on.answer(request, &Semaphore::new(1)).await.unwrap();
            assert_eq!(id_of(&answer), format!("spiffe://cluster.local/ns/default/sa/{}", own.name()));
        });
    }
    callers.join_all().await;
    assert_eq!(stage.istiod.asked(), count);
    assert_eq!(stage.metric("coalesced"), "0");
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_leaves_takes_nothing_from_the_others() {
    let stage = Stage::set(&[Manner::Signs]);
    let begin = || {
        let (pass_on, request) = (Arc::clone(&stage.pass_on), stage.good());
        tokio::spawn(async move { pass_on.answer(request, &Semaphore::new(1)).await })
    };
    let (first, second) = (begin(), begin());
    sleep(Duration::from_millis(10)).await;
    first.abort();
    assert!(second.await.unwrap().is_ok());
    assert_eq!(stage.istiod.asked(), 1);
    stage.pass_on.under_way().none().await;
}

#[tokio::test(start_paused = true)]
async fn istiods_refusal_is_the_callers_and_no_other_address_is_asked() {
    let stage = Stage::set(&[Manner::Refuses, Manner::Signs]);
    let refused = PassOnError::ByIstiod { code: 16, message: "request authenticate failure".into() };
    for _ in 0..10 {
        assert_eq!(stage.ask(stage.good()).await, Err(refused.clone()));
    }
    assert_eq!((stage.istiod.asked(), stage.metric("refused").as_str()), (10, "10"));
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_reached_or_is_no_ca_is_followed_by_the_next() {
    for manner in [Manner::Gone, Manner::NoCa, Manner::Hangs] {
        let stage = Stage::set(&[manner, Manner::Signs]);
        let began = Instant::now();
        assert!(stage.ask(stage.good()).await.is_ok());
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        for _ in 0..20 {
            assert!(stage.ask(stage.good()).await.is_ok());
        }
        let began = Instant::now();
        assert!(stage.ask(stage.good()).await.is_ok());
        assert!(began.elapsed() < Duration::from_millis(100), "left alone by now");
    }
}

#[tokio::test(start_paused = true)]
async fn while_istiod_is_gone_callers_hear_so_at_once_and_soon_after_its_return_have_answers() {
    let stage = Stage::set(&[Manner::Hangs]);
    let began = Instant::now();
    let error = stage.ask(stage.good()).await.unwrap_err();
    assert_eq!(error.to_string(), "istiod can't be reached: istiod-0:15012: no answer within 10.0s");
    assert!((9..=10).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    stage.istiod.set(0, Manner::Gone);
    for _ in 0..5 {
        assert!(stage.ask(stage.good()).await.is_err());
    }
    let (began, before) = (Instant::now(), stage.istiod.asked());
    for _ in 0..100 {
        let error = stage.ask(stage.good()).await.unwrap_err();
        assert_eq!(error.to_string(), "istiod can't be reached: istiod-0:15012: connection refused");
    }
    assert!(stage.istiod.asked() <= before + 1 && began.elapsed() < Duration::from_secs(1));
    stage.istiod.set(0, Manner::Signs);
    let began = Instant::now();
    while stage.ask(stage.good()).await.is_err() {
        sleep(Duration::from_millis(100)).await;
    }
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_wrong_answer_is_never_the_callers() {
    for manner in [
        Manner::SignsFor("spiffe://cluster.local/ns/default/sa/other"),
        Manner::SignsFor("spiffe://other.local/ns/default/sa/gateway"),
        Manner::SignsByAnother,
    ] {
        let stage = Stage::set(&[manner]);
        let answer = stage.ask(stage.good()).await;
        assert!(matches!(answer, Err(PassOnError::Answer(_))), "{answer:?}");
        assert_eq!(stage.metric("bad_answer"), "1");
    }
}

#[tokio::test(start_paused = true)]
async fn without_roots_nobody_is_asked() {
    let stage = Stage::set(&[Manner::Signs]);
    stage.roots.send_replace(KnownRoots { bundle: None, trouble: Some("no such file".into()) });
    let error = stage.ask(stage.good()).await.unwrap_err();
    assert_eq!(error.to_string(), "IstioNotDetected: no roots to verify istiod by: no such file");
    assert_eq!(stage.istiod.asked(), 0);
}

#[tokio::test(start_paused = true)]
async fn readiness_follows_istiod_without_any_caller() {
    let stage = Stage::set(&[Manner::Gone, Manner::Gone]);
    let readiness = Readiness::default();
    let (pass_on, latch) = (Arc::clone(&stage.pass_on), readiness.latch("istiod", ""));
    let detecting = tokio::spawn(async move { pass_on.detect(latch).await });
    let says = |text: &str| readiness.report().to_string().contains(text);
    sleep(Duration::from_millis(100)).await;
    assert!(says(
        "not ready (IstioNotDetected: istiod-0:15012: connection refused; istiod-1:15012: connection refused)"
    ));
    stage.istiod.set(1, Manner::Signs);
    sleep(Duration::from_millis(1100)).await;
    assert!(says("istiod: ready (it answers at istiod-1:15012)"), "{}", readiness.report());
    stage.istiod.set(1, Manner::Gone);
    sleep(Duration::from_millis(11_100)).await;
    assert!(says("istiod: not ready (istiod-0:15012"), "{}", readiness.report());
    stage.istiod.set(0, Manner::Signs);
    sleep(Duration::from_millis(1100)).await;
    assert!(says("istiod: ready (it answers at istiod-0:15012)"), "{}", readiness.report());
    detecting.abort();
}
