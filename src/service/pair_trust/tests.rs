use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

use tokio::sync::{Notify, mpsc};

use super::*;
use crate::{
    domain::{attestation::Evidence, authority::testing::authority, bundle::SpiffeBundle},
    service::ports::{ForwardError, JwtSvidRequest, MintedJwtSvid, PairEndpoint, SigningRequest},
};

/// A pair in which somebody is active, or nobody.
struct Known(watch::Sender<Option<ActiveReplica>>);

impl Pair for Known {
    fn active(&self) -> watch::Receiver<Option<ActiveReplica>> {
        self.0.subscribe()
    }

    fn forward<'a>(
        &'a self,
        _request: &'a SigningRequest,
        _evidence: &'a Evidence,
    ) -> BoxFuture<'a, Result<Vec<String>, ForwardError>> {
        unreachable!("nothing is signed here")
    }

    fn forward_mint<'a>(
        &'a self,
        _request: &'a JwtSvidRequest,
        _evidence: &'a Evidence,
    ) -> BoxFuture<'a, Result<MintedJwtSvid, ForwardError>> {
        unreachable!("nothing is minted here")
    }
}

type Said = Result<ActiveSays, String>;

type Told = Arc<Mutex<Vec<StandbySays>>>;

/// Streams of the active, in the order in which they are opened; afterwards it does not answer.
#[derive(Default)]
struct Streams {
    scripted: Mutex<VecDeque<mpsc::UnboundedReceiver<Said>>>,
    told: Told,
    has_left: Arc<Mutex<bool>>,
}

struct Scripted {
    said: mpsc::UnboundedReceiver<Said>,
    told: Told,
    has_left: Arc<Mutex<bool>>,
}

impl TrustOfActive for Streams {
    fn open<'a>(&'a self, _active: &'a ActiveReplica) -> BoxFuture<'a, Result<Box<dyn PairTrustStream>, String>> {
        let next = self.scripted.lock().unwrap().pop_front();
        let (told, has_left) = (Arc::clone(&self.told), Arc::clone(&self.has_left));
        Box::pin(async move {
            match next {
                Some(said) => Ok(Box::new(Scripted { said, told, has_left }) as Box<dyn PairTrustStream>),
                None => std::future::pending().await,
            }
        })
    }
}

impl PairTrustStream for Scripted {
    fn next(&mut self) -> BoxFuture<'_, Said> {
        Box::pin(async { self.said.recv().await.unwrap_or_else(|| Err("ended".into())) })
    }

    fn tell(&mut self, here: StandbySays) -> BoxFuture<'_, Result<(), String>> {
        self.told.lock().unwrap().push(here);
        Box::pin(async { Ok(()) })
    }

    fn leave(&mut self) -> BoxFuture<'_, ()> {
        *self.has_left.lock().unwrap() = true;
        Box::pin(async {})
    }
}

#[derive(Default)]
struct Kept(Mutex<Option<TermTrust>>, AtomicBool);

impl KeptTrust for Kept {
    fn load(&self) -> Result<Option<TermTrust>, String> {
        Ok(self.0.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    fn keep(&self, trust: &TermTrust) -> Result<(), String> {
        if self.1.load(Ordering::Relaxed) {
            return Err("no space left".into());
        }
        *self.0.lock().unwrap() = Some(trust.clone());
        Ok(())
    }
}

struct Session(Term, watch::Sender<Option<Arc<PublishedTrust>>>);

impl TrustSession for Session {
    fn term(&self) -> Term {
        self.0
    }

    fn trust(&self) -> TrustReceiver {
        self.1.subscribe()
    }
}

fn trust(sequence: u64) -> Arc<PublishedTrust> {
    let own = SpiffeBundle {
        trust_domain: "cluster.local".parse().unwrap(),
        x509_authorities: authority().bundle().roots().to_vec(),
        jwt_authorities: Vec::new(),
        sequence: Some(sequence),
        refresh_hint: None,
    };
    Arc::new(PublishedTrust { own, tainted: Vec::new(), federated: Vec::new() })
}

fn of(term: u64, trust: &Arc<PublishedTrust>) -> TermTrust {
    TermTrust { term: Term::new(term), trust: Arc::clone(trust) }
}

fn active(term: u64) -> ActiveReplica {
    let endpoint = PairEndpoint::Tcp(([127, 0, 0, 1], 1).into());
    ActiveReplica { replica: format!("pod-{term}-ab"), term: Term::new(term), endpoint }
}

fn known(term: u64, trust: &Arc<PublishedTrust>) -> Said {
    Ok(ActiveSays::Trust(of(term, trust)))
}

fn says(known: u64, followers: &[(&Follower, u64)]) -> StandbySays {
    let follows = |(follower, sequence): &(&Follower, u64)| ((*follower).clone(), Standing::Follows(*sequence));
    StandbySays { known, followers: followers.iter().map(follows).collect() }
}

/// A replica.
struct World {
    pair: Arc<Known>,
    streams: Arc<Streams>,
    kept: Arc<Kept>,
    followers: Arc<TrustFollowers>,
    sessions: watch::Sender<Option<Arc<Session>>>,
    trust: TrustReceiver,
    known: TermTrustReceiver,
    leave: Arc<Notify>,
}

impl World {
    fn start(kept: Option<TermTrust>) -> Self {
        let (pair, streams) = (Arc::new(Known(watch::Sender::new(None))), Arc::new(Streams::default()));
        let (kept, followers) =
            (Arc::new(Kept(Mutex::new(kept), AtomicBool::new(false))), Arc::new(TrustFollowers::default()));
        let shared = (Arc::clone(&pair) as _, Arc::clone(&streams) as _, Arc::clone(&kept) as _);
        let (task, trust) = PairTrust::new(shared.0, shared.1, shared.2, Arc::clone(&followers));
        let (known, sessions) = (task.with_terms(), watch::Sender::new(None));
        let receiver = sessions.subscribe();
        let leave = Arc::new(Notify::new());
        let asked = Arc::clone(&leave);
        tokio::spawn(task.run::<Session>(receiver, async move { asked.notified().await }));
        Self { pair, streams, kept, followers, sessions, trust, known, leave }
    }

    /// The next stream of the active.
    fn stream(&self) -> mpsc::UnboundedSender<Said> {
        let (say, said) = mpsc::unbounded_channel();
        self.streams.scripted.lock().unwrap().push_back(said);
        say
    }

    async fn has(&mut self, term: u64, wanted: &Arc<PublishedTrust>) {
        let wanted = of(term, wanted);
        let is_it = |known: &Option<TermTrust>| *known == Some(wanted.clone());
        let found = timeout(Duration::from_secs(20), self.known.wait_for(is_it)).await.is_ok();
        assert!(found, "{:?} instead of {wanted:?}", self.known.borrow());
        assert_eq!(*self.trust.borrow(), Some(wanted.trust));
    }
}

#[tokio::test(start_paused = true)]
async fn the_own_term_counts_then_the_active_and_the_last_one_stays_while_there_is_none() {
    let mut world = World::start(None);
    let [first, second, third] = [1, 2, 3].map(trust);
    let session = Arc::new(Session(Term::new(1), watch::Sender::new(Some(Arc::clone(&first)))));
    world.sessions.send_replace(Some(Arc::clone(&session)));
    world.has(1, &first).await;
    session.1.send_replace(Some(Arc::clone(&second)));
    world.has(1, &second).await;
    let kept = world.kept.load().unwrap();
    assert!(kept.is_some_and(|kept| kept.term == Term::new(1)), "what is published is kept");

    world.sessions.send_replace(None);
    let say = world.stream();
    world.pair.0.send_replace(Some(active(2)));
    say.send(known(2, &third)).unwrap();
    world.has(2, &third).await;
    world.pair.0.send_replace(None);
    sleep(Duration::from_secs(60)).await;
    world.has(2, &third).await;
}

#[tokio::test(start_paused = true)]
async fn within_a_term_the_sequence_never_falls_and_of_two_terms_the_later_is_right() {
    let mut world = World::start(None);
    let [old, new, other] = [4, 5, 3].map(trust);
    let say = world.stream();
    world.pair.0.send_replace(Some(active(7)));
    for said in [known(7, &new), known(7, &old), known(6, &trust(9))] {
        say.send(said).unwrap();
    }
    world.has(7, &new).await;
    sleep(Duration::from_secs(1)).await;
    world.has(7, &new).await;
    say.send(known(8, &other)).unwrap();
    world.has(8, &other).await;
    // the same sequence may come with another bundle of somebody else
    let federated = vec![SpiffeBundle { trust_domain: "other.example".parse().unwrap(), ..other.own.clone() }];
    let with_other = Arc::new(PublishedTrust { federated, ..(*other).clone() });
    say.send(known(8, &with_other)).unwrap();
    world.has(8, &with_other).await;
}

#[tokio::test(start_paused = true)]
async fn what_was_kept_counts_until_somebody_says_more_and_a_stream_that_ends_is_opened_again() {
    let [kept, new] = [1, 2].map(trust);
    let mut world = World::start(Some(of(3, &kept)));
    world.has(3, &kept).await;
    let (first, second) = (world.stream(), world.stream());
    world.pair.0.send_replace(Some(active(4)));
    drop(first);
    second.send(known(4, &new)).unwrap();
    world.has(4, &new).await;
}

#[tokio::test(start_paused = true)]
async fn the_active_is_told_who_follows_here_after_each_change_and_now_and_then() {
    let world = World::start(None);
    let say = world.stream();
    world.pair.0.send_replace(Some(active(1)));
    let follower = Follower { identity: "spiffe://td/gateway".parse().unwrap(), instance: "a".into() };
    let stream = world.followers.open(follower.clone()).unwrap();
    stream.says(3);
    sleep(PACE * 3).await;
    let last = || world.streams.told.lock().unwrap().last().cloned();
    assert_eq!(last(), Some(says(0, &[(&follower, 3)])));
    stream.says(4);
    sleep(PACE * 3).await;
    assert_eq!(last(), Some(says(0, &[(&follower, 4)])));
    say.send(known(1, &trust(5))).unwrap();
    sleep(PACE * 3).await;
    assert_eq!(last(), Some(says(5, &[(&follower, 4)])), "and what is known here");
    let before = world.streams.told.lock().unwrap().len();
    sleep(CONFIRM_EVERY * 3).await;
    assert!((before + 2..=before + 3).contains(&world.streams.told.lock().unwrap().len()));
}

#[tokio::test(start_paused = true)]
async fn who_is_cut_off_from_the_active_goes_by_what_is_stored_and_who_ends_says_so() {
    let [first, new, newest, last] = [1, 2, 3, 4].map(trust);
    let mut world = World::start(Some(of(1, &first)));
    world.has(1, &first).await;
    let say = world.stream();
    world.pair.0.send_replace(Some(active(1)));
    say.send(known(1, &new)).unwrap();
    world.has(1, &new).await;
    let store = |trust: &Arc<PublishedTrust>| world.kept.keep(&of(1, trust)).unwrap();
    store(&newest);
    sleep(LONG_PAUSE * 2).await;
    assert_eq!(world.trust.borrow().as_ref(), Some(&new), "what the active says is waited for");
    drop(say);
    world.has(1, &newest).await;
    world.pair.0.send_replace(None);
    world.kept.keep(&of(1, &last)).unwrap();
    world.has(1, &last).await;

    assert!(!*world.streams.has_left.lock().unwrap());
    let _say = world.stream();
    world.pair.0.send_replace(Some(active(2)));
    sleep(PACE * 3).await;
    world.leave.notify_one();
    sleep(PACE).await;
    assert!(*world.streams.has_left.lock().unwrap());
}

#[tokio::test(start_paused = true)]
async fn the_replica_that_was_active_before_is_waited_for_unless_it_said_that_it_ends() {
    for (last_words, waited_for) in [(None, 1), (Some(ActiveSays::Leaves), 0)] {
        let mut world = World::start(None);
        let ([theirs, own], say) = ([6, 7].map(trust), world.stream());
        world.pair.0.send_replace(Some(active(1)));
        say.send(known(1, &theirs)).unwrap();
        world.has(1, &theirs).await;
        if let Some(words) = last_words {
            say.send(Ok(words)).unwrap();
            sleep(PACE).await;
        }
        drop(say);
        world.pair.0.send_replace(None);
        let session = Session(Term::new(2), watch::Sender::new(Some(Arc::clone(&own))));
        world.sessions.send_replace(Some(Arc::new(session)));
        world.has(2, &own).await;
        let reached = world.followers.reached();
        let before: Vec<_> = reached.iter().filter(|one| one.who.starts_with("replica pod-1, lost")).collect();
        assert_eq!(before.len(), waited_for, "{reached:?}");
        assert!(before.iter().all(|one| one.sequence == 6), "{before:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_could_not_be_kept_is_kept_as_soon_as_that_can_be_and_only_the_newest() {
    let mut world = World::start(None);
    let [first, second] = [1, 2].map(trust);
    let is_full = |is_full| world.kept.1.store(is_full, Ordering::Relaxed);
    is_full(true);
    let session = Arc::new(Session(Term::new(1), watch::Sender::new(Some(Arc::clone(&first)))));
    world.sessions.send_replace(Some(Arc::clone(&session)));
    sleep(LONGEST_PAUSE * 4).await;
    is_full(false);
    sleep(LONGEST_PAUSE).await;
    assert_eq!(world.kept.load().unwrap(), Some(of(1, &first)));

    is_full(true);
    session.1.send_replace(Some(Arc::clone(&second)));
    world.has(1, &second).await;
    world.kept.1.store(false, Ordering::Relaxed);
    sleep(LONGEST_PAUSE).await;
    assert_eq!(world.kept.load().unwrap(), Some(of(1, &second)));
}
