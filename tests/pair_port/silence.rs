//! Peers that say nothing.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use countersign::{domain::leadership::Term, service::ports::LeaseHolder};
use tokio::{
    net::TcpListener,
    sync::{Semaphore, watch},
    task::{JoinHandle, JoinSet},
    time::sleep,
};

use crate::{
    proxy::Proxy,
    replica::{ACCOUNT, Pair, Replica, request},
};

/// How long a silent peer can hold up whoever waits for it. What is found meanwhile takes milliseconds, but on a machine that
/// is busy with other tests only this bound tells the one from the other.
const ATTEMPT: Duration = Duration::from_secs(1);

/// A port whose process takes connections and never answers.
async fn hanging() -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let kept = tokio::spawn(async move {
        let mut connections = Vec::new();
        loop {
            connections.push(listener.accept().await.unwrap());
        }
    });
    (address, kept)
}

/// Requests at a replica, one each 10 ms, until they are told to end; each with the time that it took.
struct Load {
    end: watch::Sender<bool>,
    running: JoinHandle<Vec<Duration>>,
}

impl Load {
    fn on(pair: &Pair, replica: &Replica) -> Self {
        let (end, ended) = watch::channel(false);
        let (evidence, create) = (pair.by_token(ACCOUNT), Arc::clone(&replica.create));
        let running = tokio::spawn(async move {
            let mut requests = JoinSet::new();
            while !*ended.borrow() {
                let (evidence, create) = (evidence.clone(), Arc::clone(&create));
                requests.spawn(async move {
                    let begun = Instant::now();
                    create.answer(&request(), &evidence, &Semaphore::new(1)).await.expect("no call fails");
                    begun.elapsed()
                });
                sleep(Duration::from_millis(10)).await;
            }
            requests.join_all().await
        });
        Self { end, running }
    }

    /// How many there were, and what the slowest took.
    async fn end(self) -> (usize, Duration) {
        self.end.send_replace(true);
        let took = self.running.await.unwrap();
        (took.len(), took.into_iter().max().unwrap())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_accepts_and_never_answers_holds_up_nobody() {
    let pair = Pair::new();
    let (active, standby) = (pair.start("uid-a").await, pair.start("uid-b").await);
    active.take_over(1);
    let (silent, _kept) = hanging().await;
    // the lease names it, in a later term than anybody has
    let holder = LeaseHolder { replica: "gone".into(), term: Term::new(9), pair_address: Some(silent) };
    standby.lease.send_replace(Some(holder));
    standby.known.heard_of(active.address);
    let begun = Instant::now();
    standby.sign(&pair.by_token(ACCOUNT)).await.unwrap();
    println!("with a hanging peer named by the lease: {:?} to the first answer", begun.elapsed());
    let load = Load::on(&pair, &standby);
    sleep(Duration::from_millis(1500)).await;
    let (count, slowest) = load.end().await;
    println!("{count} requests, the slowest took {slowest:?}");
    assert!(slowest < ATTEMPT, "{slowest:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_active_is_found_at_once_though_the_old_one_has_fallen_silent() {
    let pair = Pair::new();
    let (old, new, standby) = (pair.start("uid-a").await, pair.start("uid-b").await, pair.start("uid-c").await);
    old.take_over(1);
    let network = Proxy::to(old.address).await;
    standby.lease.send_replace(Some(LeaseHolder { pair_address: Some(network.address), ..old.as_holder(1) }));
    standby.known.heard_of(new.address);
    standby.knows(&old, 1).await;
    let load = Load::on(&pair, &standby);
    sleep(Duration::from_millis(200)).await;

    network.fall_silent();
    let silent_since = Instant::now();
    let why = standby.knows_nobody().await;
    let noticed = silent_since.elapsed();
    // the API server has not said who is next, and need not
    let begun = Instant::now();
    new.take_over(2);
    standby.knows(&new, 2).await;
    let found = begun.elapsed();
    let without_active = silent_since.elapsed();
    let (count, slowest) = load.end().await;
    println!("silence noticed after {noticed:?} ({why}), the new active found after {found:?}");
    println!("{count} requests, the slowest took {slowest:?}, {without_active:?} without an active");
    assert!(noticed < ATTEMPT * 4, "{noticed:?}");
    assert!(found < ATTEMPT, "{found:?}");
    assert!(slowest < without_active + ATTEMPT * 3, "{slowest:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_can_be_heard_again_is_found_by_a_fresh_connection() {
    let pair = Pair::new();
    let (active, standby) = (pair.start("uid-a").await, pair.start("uid-b").await);
    active.take_over(1);
    let network = Proxy::to(active.address).await;
    standby.lease.send_replace(Some(LeaseHolder { pair_address: Some(network.address), ..active.as_holder(1) }));
    standby.knows(&active, 1).await;
    let load = Load::on(&pair, &standby);
    network.fall_silent();
    let silent_since = Instant::now();
    standby.knows_nobody().await;
    network.speak_again();
    let begun = Instant::now();
    standby.knows(&active, 1).await;
    let (found, without_active) = (begun.elapsed(), silent_since.elapsed());
    let (count, slowest) = load.end().await;
    println!("found again after {found:?}; {count} requests, the slowest took {slowest:?}");
    assert!(found < ATTEMPT * 3, "{found:?}");
    assert!(slowest < without_active + ATTEMPT * 3, "{slowest:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_is_known_to_those_that_it_has_asked() {
    let pair = Pair::new();
    let (active, standby) = (pair.start("uid-a").await, pair.start("uid-b").await);
    active.take_over(1);
    // only one knows of the other
    standby.lease.send_replace(Some(active.as_holder(1)));
    standby.knows(&active, 1).await;
    active.step_down();
    standby.take_over(2);
    active.knows(&standby, 2).await;
    active.sign(&pair.by_token(ACCOUNT)).await.unwrap();
}
