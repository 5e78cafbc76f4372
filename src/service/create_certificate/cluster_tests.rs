//! Callers whom a Kubernetes cluster vouches for.

use std::{
    collections::VecDeque,
    net::{IpAddr, Ipv4Addr},
    sync::Mutex,
};

use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};

use super::{
    tests::{ID, Replica, TestClock, TestLog, TestPair, request},
    *,
};
use crate::{
    domain::{
        attestation::{AttestationError, ReviewError, ReviewRules, ReviewStatus, UnfinishedPods},
        authority::testing::{NOW, TestRandom},
        identity::ServiceAccount,
        jwt::TokenError,
        x509::CertificateChain,
    },
    service::{
        ports::{BoxFuture, PodPresence, ReviewUnavailable, TokenReviewer},
        room::{BYTES_EACH, PARTS},
        token_reviews::TokenReviews,
    },
};

const HOUR: Duration = Duration::from_secs(3600);
const SECOND: Duration = Duration::from_secs(1);
const FLOODING: Option<IpAddr> = Some(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)));
const OTHER: Option<IpAddr> = Some(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2)));

/// A cluster that says what the test has it say.
#[derive(Default)]
struct TestCluster {
    /// The answers to come; after them each token is accepted.
    reviews: Mutex<VecDeque<Result<ReviewStatus, ReviewUnavailable>>>,
    asked: Mutex<Vec<String>>,
    pods: Mutex<Option<UnfinishedPods>>,
    /// Whether no review comes to an end.
    is_silent: Mutex<bool>,
}

impl TokenReviewer for TestCluster {
    fn review<'a>(
        &'a self,
        token: &'a str,
        audiences: &'a [String],
    ) -> BoxFuture<'a, Result<ReviewStatus, ReviewUnavailable>> {
        assert_eq!(audiences, ["istio-ca"]);
        self.asked.lock().unwrap().push(token.to_owned());
        let next = self.reviews.lock().unwrap().pop_front();
        let is_silent = *self.is_silent.lock().unwrap();
        Box::pin(async move {
            if is_silent {
                std::future::pending::<()>().await;
            }
            next.unwrap_or_else(|| Ok(accepted()))
        })
    }
}

impl PodPresence for TestCluster {
    fn unfinished_pods(&self, account: &ServiceAccount) -> UnfinishedPods {
        assert_eq!(account.to_string(), "default/gateway");
        self.pods.lock().unwrap().unwrap_or(UnfinishedPods::Some)
    }
}

fn accepted() -> ReviewStatus {
    ReviewStatus {
        authenticated: true,
        username: "system:serviceaccount:default:gateway".into(),
        groups: vec!["system:serviceaccounts".into()],
        audiences: vec!["istio-ca".into()],
        pod_name: Some("gateway-0".into()),
        pod_uid: Some("5a1c".into()),
        ..ReviewStatus::default()
    }
}

fn away() -> Result<ReviewStatus, ReviewUnavailable> {
    Err(ReviewUnavailable("the API server is away".into()))
}

/// A replica in a cluster.
struct World {
    replica: Replica,
    cluster: Arc<TestCluster>,
}

impl World {
    fn new() -> Self {
        Self::with(TestPair::default())
    }

    fn with(pair: TestPair) -> Self {
        let cluster = Arc::new(TestCluster::default());
        let rules = ReviewRules { cluster: "Kubernetes".into(), audiences: vec!["istio-ca".into()] };
        let clock = Arc::new(TestClock(Instant::now()));
        let reviewer = Arc::clone(&cluster) as _;
        let reviews = TokenReviews::new(reviewer, rules, Duration::from_secs(10), clock, Arc::new(Metrics::new()));
        let of_replica = Cluster { reviews, pods: Arc::clone(&cluster) as _ };
        Self { replica: Replica::within(Some(of_replica), TestLog::default(), pair), cluster }
    }

    /// A token that no configured issuer has made.
    fn by_token(&self, audience: &str) -> Evidence {
        let account = "default/gateway".parse().unwrap();
        let token = self.replica.tokens.mint("https://kubernetes", &account, audience, NOW, HOUR).unwrap();
        Evidence { token: Some(token), ..Evidence::NONE }
    }

    fn by_certificate(&self) -> Evidence {
        self.replica.bundle.send_replace(Some(Arc::new(self.replica.authority.bundle().clone())));
        let csr = VerifiedCsr::from_pem(request().csr.as_bytes()).unwrap();
        let (id, bounds) = (ID.parse().unwrap(), TtlBounds::new(HOUR, HOUR).unwrap());
        let leaf = issue(&self.replica.authority, &csr, &id, 0, &bounds, NOW, &TestRandom).unwrap().leaf;
        Evidence { presented: Some(CertificateChain::new(vec![leaf]).unwrap()), ..Evidence::NONE }
    }

    async fn answer(&self, evidence: &Evidence) -> Result<Vec<String>, CreateError> {
        self.replica.create.answer(&request(), evidence, &Semaphore::new(1)).await
    }

    async fn answer_forwarded(&self, evidence: &Evidence) -> Result<Vec<String>, CreateError> {
        self.replica.create.answer_forwarded(&request(), evidence, "replica-1").await
    }

    fn asked(&self) -> usize {
        self.cluster.asked.lock().unwrap().len()
    }

    fn say(&self, reviews: impl IntoIterator<Item = Result<ReviewStatus, ReviewUnavailable>>) {
        self.cluster.reviews.lock().unwrap().extend(reviews);
    }

    fn set_pods(&self, pods: UnfinishedPods) {
        *self.cluster.pods.lock().unwrap() = Some(pods);
    }

    fn proofs(&self) -> Vec<String> {
        let proof = |event: &IssuanceEvent| match event {
            IssuanceEvent::Issued(issuance) => Some(issuance.proof.to_string()),
            IssuanceEvent::Withheld { .. } => None,
        };
        self.replica.log.events.lock().unwrap().iter().filter_map(proof).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn the_active_has_a_token_reviewed_and_records_the_pod() {
    let world = World::new();
    world.replica.begin();
    assert!(world.answer(&world.by_token("istio-ca")).await.is_ok());
    assert!(world.answer_forwarded(&world.by_token("istio-ca")).await.is_ok());
    let proof = "token of pod gateway-0, UID 5a1c, reviewed by cluster Kubernetes";
    assert_eq!(world.proofs(), [proof, proof]);
}

#[tokio::test(start_paused = true)]
async fn a_standby_has_nothing_reviewed_and_refuses_what_needs_no_review() {
    let signed = vec!["leaf".to_owned(), "root".to_owned()];
    let world = World::with(TestPair { answers: VecDeque::from([Ok(signed.clone())]).into(), ..TestPair::default() });
    assert_eq!(world.answer(&world.by_token("istio-ca")).await, Ok(signed));
    let refused = world.answer(&world.by_token("istio")).await;
    assert_eq!(refused, Err(CreateError::Unattested(AttestationError::Token(TokenError::Audience))));
    let elsewhere = Evidence { cluster: "remote".into(), ..world.by_token("istio-ca") };
    let refused = world.answer(&elsewhere).await;
    assert!(matches!(refused, Err(CreateError::Unattested(AttestationError::OtherCluster { .. }))), "{refused:?}");
    assert_eq!((world.asked(), world.replica.forwarded()), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_standby_leaves_the_pods_to_the_active() {
    let signed = vec!["leaf".to_owned(), "root".to_owned()];
    let world = World::with(TestPair { answers: VecDeque::from([Ok(signed.clone())]).into(), ..TestPair::default() });
    world.set_pods(UnfinishedPods::None);
    assert_eq!(world.answer(&world.by_certificate()).await, Ok(signed));
}

#[tokio::test(start_paused = true)]
async fn a_request_is_held_until_the_api_server_answers() {
    let world = World::new();
    world.replica.begin();
    world.say([away(), away(), away()]);
    let begun = Instant::now();
    assert!(world.answer(&world.by_token("istio-ca")).await.is_ok());
    assert_eq!((world.asked(), world.replica.forwarded()), (4, 0));
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn without_the_api_server_a_request_is_unavailable_after_ten_seconds_with_the_reason() {
    let world = World::new();
    world.replica.begin();
    world.say(std::iter::repeat_n(away(), 100));
    let begun = Instant::now();
    let refused = world.answer(&world.by_token("istio-ca")).await.unwrap_err();
    let reason = "the token could not be reviewed: the API server is away";
    assert!(matches!(&refused, CreateError::Unavailable { last, .. } if last == reason), "{refused}");
    assert_eq!(begun.elapsed(), HOLD_LIMIT);
    assert!((20..=30).contains(&world.asked()), "{} reviews", world.asked());
}

#[tokio::test(start_paused = true)]
async fn what_is_undecided_is_not_answered_to_another_replica() {
    let world = World::new();
    world.replica.begin();
    world.say([away()]);
    let begun = Instant::now();
    let undecided = AttestationError::Review(ReviewError::Unavailable("the API server is away".into()));
    let answer = world.answer_forwarded(&world.by_token("istio-ca")).await;
    assert_eq!(answer, Err(CreateError::Undecided(undecided)));
    assert_eq!(begun.elapsed(), Duration::ZERO);
    world.set_pods(UnfinishedPods::Unknown);
    let answer = world.answer_forwarded(&world.by_certificate()).await;
    assert_eq!(answer, Err(CreateError::Undecided(AttestationError::PodsUnknown)));
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_final() {
    let world = World::new();
    world.replica.begin();
    world.say([Ok(ReviewStatus::default())]);
    let refused = world.answer(&world.by_token("istio-ca")).await;
    let expected = AttestationError::Review(ReviewError::NotAuthenticated);
    assert_eq!(refused, Err(CreateError::Unattested(expected)));
    assert_eq!(world.asked(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_certificate_is_renewed_while_its_account_has_a_pod() {
    let world = World::new();
    world.replica.begin();
    let evidence = world.by_certificate();
    assert!(world.answer(&evidence).await.is_ok());
    world.set_pods(UnfinishedPods::None);
    let refused = world.answer(&evidence).await;
    let no_pod = AttestationError::NoPod("default/gateway".parse().unwrap());
    assert_eq!(refused, Err(CreateError::Unattested(no_pod)));

    // a token that comes with it decides then
    let both = Evidence { token: world.by_token("istio-ca").token, ..evidence.clone() };
    assert!(world.answer(&both).await.is_ok());
    assert_eq!(world.asked(), 1);
    world.set_pods(UnfinishedPods::Some);
    assert!(world.answer(&both).await.is_ok());
    let proofs = world.proofs();
    assert!(proofs[1].starts_with("token of pod") && proofs[2].starts_with("certificate"), "{proofs:?}");
}

#[tokio::test(start_paused = true)]
async fn a_certificate_is_held_while_the_pods_are_not_known() {
    let world = Arc::new(World::new());
    world.replica.begin();
    world.set_pods(UnfinishedPods::Unknown);
    let evidence = world.by_certificate();
    let asking = tokio::spawn({
        let world = Arc::clone(&world);
        async move { world.answer(&evidence).await }
    });
    sleep(Duration::from_secs(3)).await;
    assert!(!asking.is_finished());
    world.set_pods(UnfinishedPods::Some);
    assert!(asking.await.unwrap().is_ok());
}

#[tokio::test(start_paused = true)]
async fn impersonation_and_reserved_identities_are_refused_for_reviewed_tokens_too() {
    let world = World::new();
    world.replica.begin();
    let impersonating = SigningRequest { impersonated: ID.into(), ..request() };
    let evidence = world.by_token("istio-ca");
    let refused = world.replica.create.answer(&impersonating, &evidence, &Semaphore::new(1)).await;
    assert!(matches!(refused, Err(CreateError::NotEntitled(_))), "{refused:?}");
    assert_eq!(world.proofs(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_flood_takes_up_its_part_and_the_others_are_answered_as_before() {
    let world = World::new();
    world.replica.begin();
    *world.cluster.is_silent.lock().unwrap() = true;
    let account = "default/gateway".parse().unwrap();
    let mut asking = Vec::new();
    for n in 0..20_000 {
        let token =
            world.replica.tokens.mint("https://kubernetes", &account, "istio-ca", NOW, HOUR + SECOND * n).unwrap();
        let evidence = Evidence { token: Some(token), source: FLOODING, ..Evidence::NONE };
        let create = Arc::clone(&world.replica.create);
        let held = Semaphore::new(HELD_PER_CONNECTION);
        asking.push(tokio::spawn(async move { create.answer(&request(), &evidence, &held).await }));
    }
    sleep(Duration::from_millis(10)).await;
    let by_issuer = world.replica.tokens.mint("issuer", &account, "istio-ca", NOW, HOUR).unwrap();
    let others = Evidence { token: Some(by_issuer), source: OTHER, ..Evidence::NONE };
    assert!(world.answer(&others).await.is_ok(), "somebody else, in the midst of it");
    let again = world.answer(&Evidence { source: FLOODING, ..world.by_token("istio-ca") }).await;
    assert_eq!(again, Err(CreateError::Busy));
    let (refused, waiting): (Vec<_>, Vec<_>) = asking.into_iter().partition(JoinHandle::is_finished);
    assert!(waiting.len() <= BYTES_IN_ALL / PARTS / BYTES_EACH, "{} wait", waiting.len());
    assert!(!waiting.is_empty());
    for refused in refused {
        let refused = refused.await.unwrap();
        assert!(matches!(refused, Err(CreateError::Busy | CreateError::Overloaded)), "{refused:?}");
    }
    // and all is free again
    for waiting in waiting {
        assert!(waiting.await.unwrap().is_err());
    }
    *world.cluster.is_silent.lock().unwrap() = false;
    assert!(world.replica.create.room.is_empty());
    assert!(world.answer(&world.by_token("istio-ca")).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_token_of_a_configured_issuer_is_not_reviewed() {
    let world = World::new();
    world.replica.begin();
    world.set_pods(UnfinishedPods::None);
    let account = "default/gateway".parse().unwrap();
    let token = world.replica.tokens.mint("issuer", &account, "istio-ca", NOW, HOUR).unwrap();
    assert!(world.answer(&Evidence { token: Some(token), ..Evidence::NONE }).await.is_ok());
    assert_eq!((world.asked(), world.proofs()), (0, vec!["token of issuer".to_owned()]));
}
