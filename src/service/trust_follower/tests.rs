use std::{collections::VecDeque, sync::Mutex};

use tokio::{
    sync::{Notify, mpsc},
    time::timeout,
};

use super::*;
use crate::{
    domain::{
        authority::testing::{TestRandom, authority},
        bundle::SpiffeBundle,
    },
    service::ca_roots::{FollowedRoots, followed_roots},
};

type Said = Result<PublishedTrust, String>;
type Opened = Result<Option<mpsc::UnboundedReceiver<Said>>, String>;

/// What comes of each attempt in turn; afterwards nobody answers.
#[derive(Default)]
struct Source {
    scripted: Mutex<VecDeque<Opened>>,
    /// What was said to be in effect: at the beginning of a stream, or later.
    said: Arc<Mutex<Vec<(bool, u64)>>>,
    has_left: Arc<Mutex<bool>>,
}

struct Stream {
    said: Arc<Mutex<Vec<(bool, u64)>>>,
    has_left: Arc<Mutex<bool>>,
    updates: mpsc::UnboundedReceiver<Said>,
}

impl TrustSource for Source {
    fn open(&self, in_effect: u64) -> BoxFuture<'_, Result<Option<Box<dyn TrustStream>>, String>> {
        let next = self.scripted.lock().unwrap().pop_front().unwrap_or_else(|| Err("nobody is there".into()));
        self.said.lock().unwrap().push((true, in_effect));
        let (said, has_left) = (Arc::clone(&self.said), Arc::clone(&self.has_left));
        let stream = |updates| Box::new(Stream { said, has_left, updates }) as Box<dyn TrustStream>;
        Box::pin(std::future::ready(next.map(|updates| updates.map(stream))))
    }
}

impl TrustStream for Stream {
    fn next(&mut self) -> BoxFuture<'_, Said> {
        Box::pin(async { self.updates.recv().await.unwrap_or_else(|| Err("ended".into())) })
    }

    fn says(&mut self, in_effect: u64) -> BoxFuture<'_, Result<(), String>> {
        self.said.lock().unwrap().push((false, in_effect));
        Box::pin(std::future::ready(Ok(())))
    }

    fn leave(&mut self) -> BoxFuture<'_, ()> {
        *self.has_left.lock().unwrap() = true;
        Box::pin(std::future::ready(()))
    }
}

fn trust(sequence: u64) -> PublishedTrust {
    let own = SpiffeBundle {
        trust_domain: "cluster.local".parse().unwrap(),
        x509_authorities: authority().bundle().roots().to_vec(),
        jwt_authorities: Vec::new(),
        sequence: Some(sequence),
        refresh_hint: None,
    };
    PublishedTrust { own, tainted: Vec::new(), federated: Vec::new() }
}

fn pem(trust: &PublishedTrust) -> String {
    trust.own_roots().unwrap().to_pem()
}

struct World {
    source: Arc<Source>,
    trust: TrustReceiver,
    has_nothing: watch::Receiver<bool>,
    was_asked: watch::Receiver<bool>,
    roots: FollowedRoots,
    served: watch::Sender<u64>,
    leave: Arc<Notify>,
}

impl World {
    fn start(scripted: Vec<Opened>) -> Self {
        let source = Arc::new(Source { scripted: Mutex::new(scripted.into()), ..Source::default() });
        let (follower, roots) = followed_roots("the pair's trust");
        let served = watch::Sender::new(0);
        let (shared, seen) = (Arc::clone(&source) as _, served.subscribe());
        let trust_domain = "cluster.local".parse().unwrap();
        let (task, trust) = TrustFollower::new(shared, trust_domain, Some(follower), seen, Arc::new(TestRandom));
        let (has_nothing, was_asked, leave) = (task.has_nothing(), task.was_asked(), Arc::new(Notify::new()));
        let asked = Arc::clone(&leave);
        tokio::spawn(task.run(async move { asked.notified().await }));
        Self { source, trust, has_nothing, was_asked, roots, served, leave }
    }

    async fn has(&mut self, wanted: &PublishedTrust) {
        let is_it = |trust: &Option<Arc<PublishedTrust>>| trust.as_deref() == Some(wanted);
        timeout(Duration::from_secs(20), self.trust.wait_for(is_it)).await.expect("it does not come").unwrap();
        sleep(Duration::from_millis(1)).await;
    }

    fn roots(&self) -> Option<String> {
        self.roots.newest().ok().map(|pem| String::from_utf8(pem.to_vec()).unwrap())
    }
}

fn streams<const N: usize>() -> ([mpsc::UnboundedSender<Said>; N], Vec<Opened>) {
    let mut opened = Vec::new();
    let senders = std::array::from_fn(|_| {
        let (say, said) = mpsc::unbounded_channel();
        opened.push(Ok(Some(said)));
        say
    });
    (senders, opened)
}

#[tokio::test(start_paused = true)]
async fn what_comes_counts_while_a_stream_is_open_and_what_came_with_the_svid_otherwise() {
    let ([first, second], opened) = streams();
    let mut world = World::start(opened);
    let [one, two] = [trust(1), trust(2)];
    first.send(Ok(one.clone())).unwrap();
    world.has(&one).await;
    assert_eq!(world.roots(), Some(pem(&one)));
    drop(first);
    while world.roots().is_some() {
        timeout(Duration::from_secs(1), world.roots.changed()).await.expect("the stream has ended");
    }
    assert_eq!(world.trust.borrow().as_deref(), Some(&one), "of the rest nothing else is known");
    second.send(Ok(two.clone())).unwrap();
    world.has(&two).await;
    assert_eq!(world.roots(), Some(pem(&two)));
}

#[tokio::test(start_paused = true)]
async fn it_is_known_when_the_first_that_is_said_is_published_or_nothing_comes() {
    let ([silent], opened) = streams();
    let mut world = World::start(opened);
    sleep(FIRST_PAUSE / 2).await;
    assert!(!*world.was_asked.borrow(), "a stream is open, and nothing has come");
    silent.send(Ok(trust(1))).unwrap();
    timeout(FIRST_PAUSE, world.was_asked.wait_for(|was_asked| *was_asked)).await.expect("it is known").unwrap();
    assert!(world.trust.borrow().is_some());

    let ([ended], opened) = streams();
    drop(ended);
    for answer in [opened, vec![Ok(None)], vec![Err("away".into())]] {
        let mut world = World::start(answer);
        timeout(FIRST_PAUSE, world.was_asked.wait_for(|was_asked| *was_asked)).await.expect("it is known").unwrap();
        assert!(world.trust.borrow().is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn the_sequence_never_falls() {
    let ([first, second], opened) = streams();
    let mut world = World::start(opened);
    let [old, new] = [trust(4), trust(5)];
    first.send(Ok(new.clone())).unwrap();
    world.has(&new).await;
    drop(first);
    second.send(Ok(old)).unwrap();
    sleep(Duration::from_secs(10)).await;
    assert_eq!(world.trust.borrow().as_deref(), Some(&new));
    assert_eq!(world.roots(), None, "a replica that lags is not followed");
    second.send(Ok(new.clone())).unwrap();
    sleep(Duration::from_secs(1)).await;
    assert_eq!(world.roots(), Some(pem(&new)));
}

#[tokio::test(start_paused = true)]
async fn it_is_said_what_is_served() {
    let ([first, second], opened) = streams();
    let world = World::start(opened);
    sleep(Duration::from_millis(10)).await;
    world.served.send_replace(3);
    sleep(Duration::from_millis(10)).await;
    drop(first);
    sleep(Duration::from_secs(10)).await;
    drop(second);
    let said = world.source.said.lock().unwrap().clone();
    assert_eq!(said, [(true, 0), (false, 3), (true, 3)]);
}

#[tokio::test(start_paused = true)]
async fn another_trust_domain_or_no_roots_are_not_taken() {
    let ([first, second, third], opened) = streams();
    let mut world = World::start(opened);
    let mut foreign = trust(9);
    foreign.own.trust_domain = "other.example".parse().unwrap();
    let mut empty = trust(9);
    empty.own.x509_authorities.clear();
    first.send(Ok(foreign)).unwrap();
    second.send(Ok(empty)).unwrap();
    let good = trust(1);
    third.send(Ok(good.clone())).unwrap();
    world.has(&good).await;
    assert_eq!(world.roots(), Some(pem(&good)));
}

#[tokio::test(start_paused = true)]
async fn an_authority_that_publishes_nothing_is_asked_rarely() {
    let ([say], opened) = streams();
    let mut world = World::start([Ok(None)].into_iter().chain(opened).collect());
    assert!(!*world.has_nothing.borrow(), "nobody has said so");
    sleep(RARELY / 2).await;
    assert_eq!(world.source.said.lock().unwrap().len(), 1);
    assert!(*world.has_nothing.borrow());
    assert_eq!(world.roots(), None);
    let good = trust(1);
    say.send(Ok(good.clone())).unwrap();
    sleep(RARELY).await;
    world.has(&good).await;
    assert!(!*world.has_nothing.borrow());
}

#[tokio::test(start_paused = true)]
async fn who_ends_says_so_on_the_stream_that_is_open() {
    let ([say], opened) = streams();
    let mut world = World::start(opened);
    let published = trust(1);
    say.send(Ok(published.clone())).unwrap();
    world.has(&published).await;
    assert!(!*world.source.has_left.lock().unwrap());
    world.leave.notify_one();
    sleep(Duration::from_millis(1)).await;
    assert!(*world.source.has_left.lock().unwrap());
}
