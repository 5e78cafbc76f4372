//! An API server that stands still or is gone.

use std::time::{Duration, Instant};

use countersign::{
    domain::leadership::Term,
    service::ports::{StateError, StateObject, StateStore},
};
use tokio::task::block_in_place;

use super::{BTreeMap, LIMIT, Place, eventually};
use crate::cluster::Cluster;

/// For the machine that the test runs on, on top of the limit.
const SLACK: Duration = Duration::from_millis(500);

fn timed<T>(call: impl FnOnce() -> T) -> (T, Duration) {
    let begin = Instant::now();
    (block_in_place(call), begin.elapsed())
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_api_server_stands_still_each_call_ends_in_time_and_nothing_is_lost() {
    let mut cluster = Cluster::start();
    let place = Place::make(&cluster).await;
    let (namespace, client) = (place.namespace.clone(), place.client.clone());
    let replica = place.replica(&BTreeMap::new());
    let root = replica.claim(1).unwrap();
    let trust = block_in_place(|| replica.store.load(StateObject::Trust)).unwrap().unwrap();

    cluster.pause();
    let (write, took) = timed(|| replica.store.compare_and_swap(StateObject::Trust, 1, Term::new(1), &trust.content));
    assert!(matches!(&write, Err(StateError::Io(why)) if why.contains("in time")), "{write:?}");
    assert!(took < LIMIT + SLACK, "{took:?}");
    let (claim, took) = timed(|| replica.store.claim(Term::new(2)));
    assert!(matches!(&claim, Err(StateError::Io(_))), "{claim:?}");
    assert!(took < LIMIT + SLACK, "{took:?}");
    cluster.resume();
    cluster.wait_until_ready();

    // whether one of the calls was still carried out is not known; either way the state is whole
    let place = Place { cluster: &cluster, namespace, client };
    let mut term = 2;
    let found = eventually(Duration::from_secs(20), "a claim", async || {
        term += 1;
        place.replica(&replica.lease()).claim(term)
    })
    .await;
    assert_eq!(found, root);
}

/// The answer to a write is lost again and again: what it did is found out by the next one.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_whose_answer_was_lost_counts_or_does_not_but_is_never_damage() {
    let mut cluster = Cluster::start();
    let place = Place::make(&cluster).await;
    let (namespace, client) = (place.namespace.clone(), place.client.clone());
    let replica = place.replica(&BTreeMap::new());
    let root = replica.claim(1).unwrap();
    let mut version = 1;
    for pause in [0, 2, 4, 8, 12, 20, 30] {
        let store = replica.store.clone();
        let writing = tokio::task::spawn_blocking(move || {
            let trust = store.load(StateObject::Trust)?.ok_or_else(|| StateError::Io("no trust".into()))?;
            store.compare_and_swap(StateObject::Trust, trust.version, Term::new(1), &trust.content)
        });
        tokio::time::sleep(Duration::from_millis(pause)).await;
        cluster.pause();
        let answer = writing.await.unwrap();
        cluster.resume();
        cluster.wait_until_ready();
        let now = eventually(Duration::from_secs(20), "a read", async || {
            let read = block_in_place(|| replica.store.load(StateObject::Trust)).map_err(|error| error.to_string())?;
            Ok(read.unwrap().version)
        })
        .await;
        match answer {
            Ok(written) => assert_eq!(now, written),
            Err(StateError::Io(_)) => assert!(now == version || now == version + 1, "{now}, not {version} or one more"),
            Err(other) => panic!("{other}"),
        }
        version = now;
    }
    let place = Place { cluster: &cluster, namespace, client };
    assert_eq!(place.replica(&replica.lease()).claim(2).unwrap(), root);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_that_is_gone_is_said_at_once_and_found_again() {
    let mut cluster = Cluster::start();
    let place = Place::make(&cluster).await;
    let (namespace, client) = (place.namespace.clone(), place.client.clone());
    let replica = place.replica(&BTreeMap::new());
    let root = replica.claim(1).unwrap();
    cluster.kill();
    let (claim, took) = timed(|| replica.store.claim(Term::new(2)));
    assert!(matches!(&claim, Err(StateError::Io(_))), "{claim:?}");
    assert!(took < LIMIT + SLACK, "{took:?}");
    cluster.restart();
    cluster.wait_until_ready();
    let place = Place { cluster: &cluster, namespace, client };
    let again = place.replica(&replica.lease());
    let mut term = 2;
    let found = eventually(Duration::from_secs(20), "a claim", async || {
        term += 1;
        again.claim(term)
    })
    .await;
    assert_eq!(found, root);
}
