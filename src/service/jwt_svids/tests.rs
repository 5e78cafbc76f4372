use std::{
    collections::VecDeque,
    sync::atomic::{AtomicUsize, Ordering},
};

use tokio::{
    sync::watch,
    time::{Instant, advance, sleep},
};

use super::*;
use crate::{
    domain::{bundle::SpiffeBundle, jwt::JwtSigner},
    service::{ports::BoxFuture, published_trust::PublishedTrust},
};

const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);
const LIFETIME: Duration = Duration::from_secs(300);
const ID: &str = "spiffe://cluster.local/ns/default/sa/gateway";

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

/// Mints after a while, unless it is told otherwise.
struct TestMinter {
    signer: JwtSigner,
    clock: Arc<TestClock>,
    takes: Duration,
    calls: AtomicUsize,
    /// Instead of minting, one after the other; `None` mints.
    says: Mutex<VecDeque<Option<NotMinted>>>,
    down: Mutex<Option<NotMinted>>,
    id: &'static str,
}

impl JwtMinter for TestMinter {
    fn mint<'a>(&'a self, audiences: &'a Audiences) -> BoxFuture<'a, Result<MintedJwtSvid, NotMinted>> {
        Box::pin(async move {
            self.calls.fetch_add(1, Ordering::Relaxed);
            sleep(self.takes).await;
            let said = self.says.lock().unwrap().pop_front().flatten();
            if let Some(said) = said.or_else(|| self.down.lock().unwrap().clone()) {
                return Err(said);
            }
            let id: SpiffeId = self.id.parse().unwrap();
            let token = self.signer.mint(&id, audiences.as_slice(), self.clock.now(), LIFETIME).unwrap();
            Ok(MintedJwtSvid { token, id })
        })
    }
}

struct World {
    svids: Arc<JwtSvids>,
    minter: Arc<TestMinter>,
    trust: watch::Sender<Option<Arc<PublishedTrust>>>,
}

impl World {
    fn new() -> Self {
        Self::taking(Duration::ZERO, ID)
    }

    fn taking(takes: Duration, id: &'static str) -> Self {
        let clock = Arc::new(TestClock(Instant::now()));
        let signer = JwtSigner::generate(NOW.plus(LIFETIME * 1000)).unwrap();
        let minter = Arc::new(TestMinter {
            signer,
            clock: Arc::clone(&clock),
            takes,
            calls: AtomicUsize::new(0),
            says: Mutex::default(),
            down: Mutex::default(),
            id,
        });
        let (trust, receiver) = watch::channel(None);
        let trust_domain = "cluster.local".parse().unwrap();
        let svids = JwtSvids::new(Arc::clone(&minter) as _, trust_domain, Some(receiver), clock);
        Self { svids: Arc::new(svids), minter, trust }
    }

    async fn fetch(&self, audience: &str) -> Result<Arc<HeldJwtSvid>, FetchError> {
        self.svids.fetch(&of(&[audience])).await
    }

    fn calls(&self) -> usize {
        self.minter.calls.load(Ordering::Relaxed)
    }

    fn set_down(&self, down: bool) {
        *self.minter.down.lock().unwrap() = down.then(|| SignError::Unavailable("away".into()).into());
    }

    /// Publishes the key that mints, and what is tainted.
    fn publish(&self, is_there: bool, tainted: Vec<String>) {
        let keys = if is_there { vec![self.minter.signer.authority().clone()] } else { Vec::new() };
        let own = SpiffeBundle {
            trust_domain: "cluster.local".parse().unwrap(),
            x509_authorities: Vec::new(),
            jwt_authorities: keys,
            sequence: Some(1),
            refresh_hint: None,
        };
        self.trust.send_replace(Some(Arc::new(PublishedTrust { own, tainted, federated: Vec::new() })));
    }
}

fn of(named: &[&str]) -> Audiences {
    Audiences::new(named.iter().map(|&audience| audience.to_owned()).collect()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn one_is_kept_for_each_list_of_audiences_until_half_of_its_life() {
    let world = World::new();
    let first = world.fetch("a").await.unwrap();
    assert_eq!(first.id.as_str(), ID);
    advance(LIFETIME / 2 - Duration::from_secs(1)).await;
    assert_eq!(world.fetch("a").await.unwrap().token, first.token);
    assert_eq!(world.calls(), 1);
    assert_ne!(world.fetch("b").await.unwrap().token, first.token);
    let both = world.svids.fetch(&of(&["a", "b"])).await.unwrap();
    assert_eq!(JwtSvid::unverified(&both.token).unwrap().audiences, ["a", "b"]);
    assert_eq!(world.calls(), 3);
    advance(Duration::from_secs(1)).await;
    assert_ne!(world.fetch("a").await.unwrap().token, first.token);
    assert_eq!(world.calls(), 4);
}

#[tokio::test(start_paused = true)]
async fn those_who_ask_at_the_same_time_get_the_same_one() {
    let world = World::taking(Duration::from_millis(100), ID);
    let asking = (0..100).map(|_| {
        let svids = Arc::clone(&world.svids);
        tokio::spawn(async move { svids.fetch(&of(&["a"])).await.unwrap().token.clone() })
    });
    let asking: Vec<_> = asking.collect();
    let mut tokens = Vec::new();
    for one in asking {
        tokens.push(one.await.unwrap());
    }
    tokens.dedup();
    assert_eq!((tokens.len(), world.calls()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn while_nobody_mints_the_old_one_is_served_until_it_expires_and_new_ones_are_asked_for_at_times() {
    let world = World::new();
    let first = world.fetch("a").await.unwrap();
    world.set_down(true);
    advance(LIFETIME / 2).await;
    for _ in 0..100 {
        assert_eq!(world.fetch("a").await.unwrap().token, first.token);
        advance(Duration::from_secs(1)).await;
    }
    assert!((20..=22).contains(&world.calls()), "{}", world.calls());
    advance(Duration::from_secs(50)).await;
    let lost = world.fetch("a").await.unwrap_err();
    assert_eq!(lost, NotMinted::Failed(SignError::Unavailable("away".into())).into());
    world.set_down(false);
    assert_ne!(world.fetch("a").await.unwrap().token, first.token);
}

#[tokio::test(start_paused = true)]
async fn a_slow_answer_is_waited_for_only_so_long_while_there_is_one() {
    let world = World::taking(Duration::from_secs(10), ID);
    let first = world.fetch("a").await.unwrap();
    advance(LIFETIME / 2).await;
    let asked = Instant::now();
    assert_eq!(world.fetch("a").await.unwrap().token, first.token);
    assert_eq!(asked.elapsed(), PATIENCE);
    sleep(Duration::from_secs(10)).await;
    assert_ne!(world.fetch("a").await.unwrap().token, first.token, "it came all the same");
    assert_eq!(world.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn one_by_a_key_that_is_tainted_or_gone_is_renewed_at_once() {
    let world = World::new();
    world.publish(true, Vec::new());
    world.fetch("a").await.unwrap();
    world.fetch("a").await.unwrap();
    assert_eq!(world.calls(), 1);
    world.publish(true, vec![world.minter.signer.key_id().to_owned()]);
    world.fetch("a").await.unwrap();
    assert_eq!(world.calls(), 2);
    world.publish(false, Vec::new());
    advance(RETRY).await;
    world.set_down(true);
    world.fetch("a").await.expect("the old one has not expired");
    world.fetch("a").await.unwrap();
    assert_eq!(world.calls(), 3, "not for each that asks");
}

#[tokio::test(start_paused = true)]
async fn while_the_trust_lags_behind_one_is_not_minted_for_each_that_asks() {
    let world = World::new();
    world.publish(false, Vec::new());
    for _ in 0..5 {
        world.fetch("a").await.unwrap();
    }
    assert_eq!(world.calls(), 1);
    advance(RETRY).await;
    world.fetch("a").await.unwrap();
    assert_eq!(world.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_old_one_that_expires_while_a_new_one_is_waited_for_is_not_served() {
    let world = World::taking(PATIENCE * 2, ID);
    world.fetch("a").await.unwrap();
    advance(LIFETIME - PATIENCE / 2).await;
    assert!(matches!(world.fetch("a").await, Err(FetchError::NoAnswer)), "a new one takes longer than anybody waits");
}

#[tokio::test(start_paused = true)]
async fn what_is_of_another_trust_domain_is_not_served() {
    let world = World::taking(Duration::ZERO, "spiffe://other.example/ns/a/sa/b");
    assert!(matches!(world.fetch("a").await, Err(FetchError::Other { .. })));
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_the_requests_fault_and_nothing_else_is() {
    let world = World::new();
    let said = [
        NotMinted::Failed(SignError::Refused("no".into())),
        NotMinted::Failed(SignError::Unauthenticated("no".into())),
        NotMinted::NotOffered("no".into()),
    ];
    world.minter.says.lock().unwrap().extend(said.map(Some));
    for expected in [true, false, false] {
        assert_eq!(world.fetch("a").await.unwrap_err().is_of_request(), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_denial_ends_what_is_kept_for_all_audiences_and_a_failure_does_not() {
    let world = World::new();
    for audience in ["a", "b"] {
        world.fetch(audience).await.unwrap();
    }
    advance(LIFETIME / 2).await;
    world.minter.says.lock().unwrap().push_back(Some(NotMinted::Failed(SignError::Unauthenticated("who?".into()))));
    world.fetch("a").await.expect("the old one");
    advance(RETRY).await;
    *world.minter.down.lock().unwrap() = Some(NotMinted::Denied("no".into()));
    for audience in ["a", "b"] {
        assert!(world.fetch(audience).await.unwrap_err().is_denial(), "{audience}");
    }
    world.set_down(false);
    world.fetch("a").await.expect("a new one, once it is allowed again");
}

#[tokio::test(start_paused = true)]
async fn as_many_are_kept_as_there_is_room_for_and_those_that_end_soonest_give_way() {
    let world = World::new();
    for n in 0..KEPT + 10 {
        world.fetch(&n.to_string()).await.unwrap();
        advance(Duration::from_millis(500)).await;
    }
    assert_eq!(world.svids.0.kept().len(), KEPT);
    let calls = world.calls();
    world.fetch(&(KEPT + 9).to_string()).await.unwrap();
    assert_eq!(world.calls(), calls);
    world.fetch("0").await.unwrap();
    assert_eq!(world.calls(), calls + 1);
    for n in 0..KEPT {
        world.svids.fetch(&of(&[&n.to_string(), &"x".repeat(4000)])).await.unwrap();
    }
    let bytes: usize = world.svids.0.kept().values().map(|kept| kept.svid.token.len()).sum();
    assert!((KEPT_BYTES / 2..=KEPT_BYTES).contains(&bytes), "{bytes}");
    assert!(world.svids.0.flights.is_empty());
}

#[tokio::test(start_paused = true)]
async fn so_many_are_minted_at_the_same_time_and_no_more() {
    let world = World::taking(Duration::from_secs(5), ID);
    let asking = (0..UNDER_WAY).map(|n| {
        let svids = Arc::clone(&world.svids);
        tokio::spawn(async move { svids.fetch(&of(&[&n.to_string()])).await.map(drop) })
    });
    let asking: Vec<_> = asking.collect();
    sleep(Duration::from_secs(1)).await;
    assert_eq!(world.fetch("one more").await.unwrap_err(), FetchError::Busy);
    for one in asking {
        one.await.unwrap().unwrap();
    }
    assert!(world.fetch("one more").await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_ever() {
    let world = World::taking(MINT_LIMIT * 100, ID);
    let asked = Instant::now();
    assert!(world.fetch("a").await.is_err());
    assert_eq!(asked.elapsed(), MINT_LIMIT);
}

#[tokio::test(start_paused = true)]
async fn what_was_asked_for_before_a_denial_is_not_kept_after_it() {
    let world = World::taking(Duration::from_millis(100), ID);
    let denied = NotMinted::Denied("by an operator".into());
    world.minter.says.lock().unwrap().push_back(Some(denied));
    // the denial is the first answer, and the other one was asked for before it
    let (refused, minted) = tokio::join!(world.fetch("a"), world.fetch("b"));
    assert!(refused.is_err_and(|error| error.is_denial()));
    minted.unwrap();
    assert_eq!(world.calls(), 2);
    world.set_down(true);
    assert!(world.fetch("b").await.is_err(), "none is served on");
}
