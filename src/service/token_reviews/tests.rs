use std::{
    net::Ipv4Addr,
    sync::atomic::{AtomicUsize, Ordering},
};

use tokio::{task::JoinSet, time::sleep};

use super::*;
use crate::{
    domain::{attestation::ReviewStatus, clock::BootInstant, jwt::TokenOrigin},
    service::ports::{BoxFuture, ReviewUnavailable},
};

const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);
const KEPT_FOR: Duration = Duration::from_secs(10);

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

/// Accepts each token that begins with `good`, says nothing about one that begins with `away`, and refuses all others.
struct TestReviewer {
    takes: Duration,
    calls: AtomicUsize,
}

impl TokenReviewer for TestReviewer {
    fn review<'a>(
        &'a self,
        token: &'a str,
        audiences: &'a [String],
    ) -> BoxFuture<'a, Result<ReviewStatus, ReviewUnavailable>> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        Box::pin(async move {
            sleep(self.takes).await;
            if token.starts_with("away") {
                return Err(ReviewUnavailable("it is away".into()));
            }
            Ok(ReviewStatus {
                authenticated: token.starts_with("good"),
                username: "system:serviceaccount:default:gateway".into(),
                groups: vec!["system:serviceaccounts".into()],
                audiences: audiences.to_vec(),
                ..ReviewStatus::default()
            })
        })
    }
}

struct World {
    reviews: Arc<TokenReviews>,
    reviewer: Arc<TestReviewer>,
}

impl World {
    fn new(takes: Duration) -> Self {
        let reviewer = Arc::new(TestReviewer { takes, calls: AtomicUsize::new(0) });
        let rules = ReviewRules { cluster: "Kubernetes".into(), audiences: vec!["istio-ca".into()] };
        let clock = Arc::new(TestClock(Instant::now()));
        let metrics = Arc::new(Metrics::new());
        let reviews = TokenReviews::new(Arc::clone(&reviewer) as _, rules, KEPT_FOR, clock, metrics);
        Self { reviews: Arc::new(reviews), reviewer }
    }

    fn calls(&self) -> usize {
        self.reviewer.calls.load(Ordering::Relaxed)
    }

    async fn review(&self, token: &str) -> Reviewed {
        review(&self.reviews, token, "key", 1, Duration::from_secs(3600)).await
    }
}

async fn review(reviews: &TokenReviews, token: &str, key: &str, address: u32, lives: Duration) -> Reviewed {
    let deadline = Instant::now() + Duration::from_secs(10);
    let source = Some(Ipv4Addr::from_bits(address).into());
    reviews.review(&token.to_owned().into(), &claims(key, lives), source, deadline).await
}

fn claims(key: &str, lives: Duration) -> UnverifiedToken {
    let origin = TokenOrigin { issuer: "issuer".into(), key: key.into() };
    UnverifiedToken { origin, expires: NOW.plus(lives) }
}

fn is_unavailable(reviewed: &Reviewed) -> bool {
    matches!(reviewed, Err(error) if error.is_undecided())
}

#[tokio::test(start_paused = true)]
async fn an_acceptance_is_kept_for_its_time() {
    let world = World::new(Duration::ZERO);
    for _ in 0..3 {
        assert!(world.review("good").await.is_ok());
    }
    assert_eq!(world.calls(), 1);
    sleep(KEPT_FOR).await;
    assert!(world.review("good").await.is_ok());
    assert_eq!(world.calls(), 2);
    assert!(world.review("good too").await.is_ok());
    assert_eq!(world.calls(), 3);
}

#[tokio::test(start_paused = true)]
async fn an_acceptance_ends_with_its_token() {
    let world = World::new(Duration::ZERO);
    let lives = Duration::from_secs(4);
    let again = || review(&world.reviews, "good", "key", 1, lives);
    assert!(again().await.is_ok());
    sleep(lives - Duration::from_millis(1)).await;
    assert!(again().await.is_ok());
    assert_eq!(world.calls(), 1);
    sleep(Duration::from_millis(1)).await;
    assert!(again().await.is_ok());
    assert_eq!(world.calls(), 2, "the API server is asked again");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_kept_for_two_seconds_and_a_failure_never() {
    let world = World::new(Duration::ZERO);
    for _ in 0..3 {
        assert_eq!(world.review("bad").await, Err(ReviewError::NotAuthenticated));
    }
    assert_eq!(world.calls(), 1);
    sleep(REFUSALS_KEPT).await;
    assert!(world.review("bad").await.is_err());
    assert_eq!(world.calls(), 2);
    for _ in 0..3 {
        assert_eq!(world.review("away").await, unavailable("it is away"));
    }
    assert_eq!(world.calls(), 5);
}

#[tokio::test(start_paused = true)]
async fn bad_tokens_push_out_no_answer_about_a_good_one() {
    let world = World::new(Duration::ZERO);
    assert!(world.review("good").await.is_ok());
    for number in 0..u32::try_from(REFUSED).unwrap() * 2 {
        let hour = Duration::from_secs(3600);
        assert!(review(&world.reviews, &format!("bad {number}"), "key", number, hour).await.is_err());
    }
    let calls = world.calls();
    assert!(world.review("good").await.is_ok());
    assert_eq!(world.calls(), calls);
    assert!(world.reviews.0.flights.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_token_that_many_bring_at_once_is_reviewed_once() {
    let world = World::new(Duration::from_millis(300));
    let mut asking = JoinSet::new();
    for address in 0..1000 {
        let reviews = Arc::clone(&world.reviews);
        asking.spawn(async move { review(&reviews, "good", "key", address, Duration::from_secs(3600)).await });
    }
    while let Some(reviewed) = asking.join_next().await {
        assert!(reviewed.unwrap().is_ok());
    }
    assert_eq!(world.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn who_gives_up_fails_nobody_else() {
    let world = World::new(Duration::from_millis(500));
    let reviews = Arc::clone(&world.reviews);
    let first = tokio::spawn(async move { review(&reviews, "good", "key", 1, Duration::from_secs(3600)).await });
    sleep(Duration::from_millis(100)).await;
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    assert!(world.review("good").await.is_ok());
    assert_eq!(world.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_takes_long_is_found_by_the_next_try() {
    let world = World::new(Duration::from_millis(900));
    let (begun, limit) = (Instant::now(), Duration::from_millis(800));
    let claims = claims("key", Duration::from_secs(3600));
    let first = world.reviews.review(&"good".to_owned().into(), &claims, None, begun + limit).await;
    assert_eq!(first, unavailable("the API server has not answered yet"));
    assert_eq!(begun.elapsed(), limit);
    assert!(world.review("good").await.is_ok());
    assert_eq!((world.calls(), begun.elapsed()), (1, Duration::from_millis(900)));
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_hangs_is_left_after_a_second_and_asked_again() {
    let world = World::new(Duration::from_secs(3600));
    let begun = Instant::now();
    for _ in 0..3 {
        assert_eq!(world.review("good").await, unavailable("the API server did not answer within 1s"));
    }
    assert_eq!((world.calls(), begun.elapsed()), (3, CALL_LIMIT * 3));
    assert!(world.reviews.0.flights.is_empty());
}

/// Keeps `number` addresses asking with ever new bad tokens.
fn flood(world: &World, key: &'static str, number: u32) -> JoinSet<()> {
    let mut flood = JoinSet::new();
    for address in 0..number {
        let reviews = Arc::clone(&world.reviews);
        flood.spawn(async move {
            for count in 0.. {
                let token = format!("bad {address} {count}");
                if is_unavailable(&review(&reviews, &token, key, 1000 + address, Duration::from_secs(3600)).await) {
                    sleep(Duration::from_millis(10)).await;
                }
            }
        });
    }
    flood
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_tokens_of_unknown_keys_delays_no_good_one() {
    let takes = Duration::from_millis(20);
    let world = World::new(takes);
    assert!(world.review("good").await.is_ok());
    let _flood = flood(&world, "other", 400);
    for number in 0..50 {
        let begun = Instant::now();
        assert!(world.review(&format!("good {number}")).await.is_ok());
        assert!(begun.elapsed() <= takes + Duration::from_millis(2), "{:?}", begun.elapsed());
        sleep(Duration::from_millis(20)).await;
    }
    assert!(world.calls() > 100, "the flood was there: {} calls", world.calls());
}

#[tokio::test(start_paused = true)]
async fn a_flood_that_knows_the_key_delays_good_ones_only_until_it_is_known() {
    let takes = Duration::from_millis(20);
    let world = World::new(takes);
    assert!(world.review("good").await.is_ok());
    let _flood = flood(&world, "key", 300);
    let mut slow = 0;
    for number in 0..50 {
        let begun = Instant::now();
        assert!(world.review(&format!("good {number}")).await.is_ok());
        assert!(begun.elapsed() < Duration::from_millis(500), "{:?}", begun.elapsed());
        slow += u32::from(begun.elapsed() > takes + Duration::from_millis(2));
        sleep(Duration::from_millis(20)).await;
    }
    // three refusals of each of 300 addresses, 32 at a time
    assert!((1..25).contains(&slow), "{slow} of 50 were slow");
}

#[test]
fn the_key_tells_apart_whatever_differs() {
    let rules = |cluster: &str, audiences: &[&str]| ReviewRules {
        cluster: cluster.into(),
        audiences: audiences.iter().map(|audience| (*audience).to_owned()).collect(),
    };
    let keys = [
        key_of("token", &rules("a", &["b"])),
        key_of("token", &rules("ab", &[""])),
        key_of("token", &rules("a", &["b", ""])),
        key_of("tokena", &rules("", &["b"])),
        key_of("token", &rules("b", &["a"])),
    ];
    for (at, key) in keys.iter().enumerate() {
        assert!(!keys[..at].contains(key));
    }
}
