use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

use tokio::sync::mpsc;

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

type Said = Result<TermTrust, String>;

type Told = Arc<Mutex<Vec<Vec<(Follower, u64)>>>>;

/// Streams of the active, in the order in which they are opened; afterwards it does not answer.
#[derive(Default)]
struct Streams {
    scripted: Mutex<VecDeque<mpsc::UnboundedReceiver<Said>>>,
    told: Told,
}

struct Scripted {
    said: mpsc::UnboundedReceiver<Said>,
    told: Told,
}

impl TrustOfActive for Streams {
    fn open<'a>(&'a self, _active: &'a ActiveReplica) -> BoxFuture<'a, Result<Box<dyn PairTrustStream>, String>> {
        let next = self.scripted.lock().unwrap().pop_front();
        let told = Arc::clone(&self.told);
        Box::pin(async move {
            match next {
                Some(said) => Ok(Box::new(Scripted { said, told }) as Box<dyn PairTrustStream>),
                None => pending().await,
            }
        })
    }
}

impl PairTrustStream for Scripted {
    fn next(&mut self) -> BoxFuture<'_, Said> {
        Box::pin(async { self.said.recv().await.unwrap_or_else(|| Err("ended".into())) })
    }

    fn tell(&mut self, followers: Vec<(Follower, u64)>) -> BoxFuture<'_, Result<(), String>> {
        self.told.lock().unwrap().push(followers);
        Box::pin(async { Ok(()) })
    }
}

#[derive(Default)]
struct Kept(Mutex<Option<TermTrust>>);

impl KeptTrust for Kept {
    fn load(&self) -> Result<Option<TermTrust>, String> {
        Ok(self.0.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    fn keep(&self, trust: &TermTrust) -> Result<(), String> {
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
    let endpoint = PairEndpoint::Unix("/nowhere".into());
    ActiveReplica { replica: format!("replica-{term}"), term: Term::new(term), endpoint }
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
}

impl World {
    fn start(kept: Option<TermTrust>) -> Self {
        let (pair, streams) = (Arc::new(Known(watch::Sender::new(None))), Arc::new(Streams::default()));
        let (kept, followers) = (Arc::new(Kept(Mutex::new(kept))), Arc::new(TrustFollowers::default()));
        let shared = (Arc::clone(&pair) as _, Arc::clone(&streams) as _, Arc::clone(&kept) as _);
        let (task, trust) = PairTrust::new(shared.0, shared.1, shared.2, Arc::clone(&followers));
        let (known, sessions) = (task.with_terms(), watch::Sender::new(None));
        let receiver = sessions.subscribe();
        tokio::spawn(async move { match task.run::<Session>(receiver).await {} });
        Self { pair, streams, kept, followers, sessions, trust, known }
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
    say.send(Ok(of(2, &third))).unwrap();
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
    for said in [of(7, &new), of(7, &old), of(6, &trust(9))] {
        say.send(Ok(said)).unwrap();
    }
    world.has(7, &new).await;
    sleep(Duration::from_secs(1)).await;
    world.has(7, &new).await;
    say.send(Ok(of(8, &other))).unwrap();
    world.has(8, &other).await;
    // the same sequence may come with another bundle of somebody else
    let federated = vec![SpiffeBundle { trust_domain: "other.example".parse().unwrap(), ..other.own.clone() }];
    let with_other = Arc::new(PublishedTrust { federated, ..(*other).clone() });
    say.send(Ok(of(8, &with_other))).unwrap();
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
    second.send(Ok(of(4, &new))).unwrap();
    world.has(4, &new).await;
}

#[tokio::test(start_paused = true)]
async fn the_active_is_told_who_follows_here_after_each_change_and_now_and_then() {
    let world = World::start(None);
    let _say = world.stream();
    world.pair.0.send_replace(Some(active(1)));
    let follower = Follower { identity: "spiffe://td/gateway".parse().unwrap(), instance: "a".into() };
    let stream = world.followers.open(follower.clone()).unwrap();
    stream.says(3);
    sleep(PACE * 3).await;
    let last = || world.streams.told.lock().unwrap().last().cloned();
    assert_eq!(last(), Some(vec![(follower.clone(), 3)]));
    stream.says(4);
    sleep(PACE * 3).await;
    assert_eq!(last(), Some(vec![(follower, 4)]));
    let before = world.streams.told.lock().unwrap().len();
    sleep(CONFIRM_EVERY * 3).await;
    assert!((before + 2..=before + 3).contains(&world.streams.told.lock().unwrap().len()));
}
