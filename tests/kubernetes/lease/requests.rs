//! Single requests for the Lease: what each answer of the API server becomes.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use countersign::{
    domain::leadership::{Action, Event, HolderId, LeaseRecord, LeaseTiming, Observed, Occupancy, Term, Version},
    k8s::{client::client, lease_store::LeaseStore},
    runtime::seams::SystemClock,
    service::{
        leadership::Election as _,
        state_manifest::{Acknowledged, Mark, StateManifest},
    },
};
use k8s_openapi::api::coordination::v1::Lease;
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams},
};
use serde_json::json;

use super::{
    proxy::Proxy,
    replicas::{NAME, Replicas, bound, short},
};
use crate::{cluster::Cluster, support::wait::wait_until};

async fn store(kubeconfig: &Path, namespace: &str, manifest: Arc<StateManifest>) -> LeaseStore {
    let (client, address) = (client(Some(kubeconfig)).await.unwrap(), "10.0.0.1:15013".parse().ok());
    LeaseStore::new(client, namespace, NAME, LeaseTiming::DEFAULT, address, manifest, Arc::new(SystemClock))
}

async fn admin_store(cluster: &Cluster, namespace: &str) -> LeaseStore {
    store(&cluster.admin_kubeconfig(), namespace, Arc::default()).await
}

fn write(expected: Option<&Version>, term: u64, occupancy: Occupancy) -> Action {
    Action::WriteLease { expected: expected.cloned(), record: LeaseRecord { term: Term::new(term), occupancy } }
}

fn held() -> Occupancy {
    Occupancy::Held(HolderId::parse("me").unwrap())
}

async fn written(store: &LeaseStore, action: Action) -> Version {
    let event = store.request(action).await;
    let Event::LeaseWritten(version) = event else { panic!("{event:?}, {:?}", store.trouble()) };
    version
}

#[tokio::test]
async fn each_answer_of_the_server_becomes_the_event_that_it_is() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("lease").await;
    let (one, other) = (admin_store(cluster, &namespace).await, admin_store(cluster, &namespace).await);
    let leases = Api::<Lease>::namespaced(cluster.admin(), &namespace);
    assert_eq!(one.request(Action::ReadLease).await, Event::LeaseRead(None));
    let first = written(&one, write(None, 1, held())).await;
    assert_eq!(other.request(write(None, 1, held())).await, Event::LeaseConflict, "it exists already");
    let record = LeaseRecord { term: Term::new(1), occupancy: held() };
    let read = Event::LeaseRead(Some(Observed { version: first.clone(), record }));
    assert_eq!(other.request(Action::ReadLease).await, read);
    let second = written(&one, write(Some(&first), 1, held())).await;
    assert_ne!(first, second);
    assert_eq!(other.request(write(Some(&first), 2, held())).await, Event::LeaseConflict, "changed meanwhile");
    assert_eq!(one.request(write(Some(&first), 1, held())).await, Event::LeaseUnknown, "not what was read last");

    leases.delete(NAME, &DeleteParams::default()).await.unwrap();
    assert_eq!(one.request(write(Some(&second), 1, held())).await, Event::LeaseConflict, "deleted");
    assert_eq!(leases.get_opt(NAME).await.unwrap(), None, "and not made anew by a renewal");
    written(&other, write(None, 7, held())).await;
    assert_eq!(one.request(write(Some(&second), 1, held())).await, Event::LeaseConflict, "another of the same name");
    assert_eq!(one.trouble(), None, "none of that is trouble");
}

#[tokio::test]
async fn a_release_is_read_as_one() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("lease").await;
    let (one, other) = (admin_store(cluster, &namespace).await, admin_store(cluster, &namespace).await);
    let taken = written(&one, write(None, 3, held())).await;
    let left = Occupancy::Released(HolderId::parse("me").unwrap());
    let version = written(&one, write(Some(&taken), 3, left.clone())).await;
    let record = LeaseRecord { term: Term::new(3), occupancy: left };
    let read = Event::LeaseRead(Some(Observed { version, record }));
    assert_eq!(other.request(Action::ReadLease).await, read);
    assert_eq!(*other.observed().borrow(), None);
}

#[tokio::test]
async fn the_manifest_goes_along_with_the_lease() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("lease").await;
    let (kubeconfig, written_by) = (cluster.admin_kubeconfig(), Arc::new(StateManifest::default()));
    let mark = |version| Mark { version, term: 4, digest: "d".into() };
    let state = Acknowledged { root: Some("ab".into()), authority: mark(1), trust: mark(6) };
    written_by.acknowledge(state.clone(), Term::new(4));
    let one = store(&kubeconfig, &namespace, Arc::clone(&written_by)).await;
    let version = written(&one, write(None, 4, held())).await;
    let read_by = Arc::new(StateManifest::default());
    let other = store(&kubeconfig, &namespace, Arc::clone(&read_by)).await;
    other.request(Action::ReadLease).await;
    assert_eq!(read_by.known().acknowledged, state);

    // what can't be read is left for others to see
    let leases = Api::<Lease>::namespaced(cluster.admin(), &namespace);
    let broken = Patch::Merge(json!({ "metadata": { "annotations": { "countersign.io/state": "{" } } }));
    leases.patch(NAME, &PatchParams::default(), &broken).await.unwrap();
    assert_eq!(one.request(write(Some(&version), 4, held())).await, Event::LeaseConflict);
    let fresh = Arc::new(StateManifest::default());
    let third = store(&kubeconfig, &namespace, Arc::clone(&fresh)).await;
    let Event::LeaseRead(Some(found)) = third.request(Action::ReadLease).await else { panic!("no lease") };
    assert!(fresh.known().unreadable.is_some());
    written(&third, write(Some(&found.version), 5, held())).await;
    let lease = leases.get(NAME).await.unwrap();
    assert_eq!(lease.metadata.annotations.unwrap()["countersign.io/state"], "{");
}

#[tokio::test]
async fn a_refusal_is_unknown_and_its_reason_told() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("lease").await;
    let account = cluster.account(&namespace, "without-rights").await;
    let refused = store(&cluster.kubeconfig(&account).await, &namespace, Arc::default()).await;
    assert_eq!(refused.request(Action::ReadLease).await, Event::LeaseUnknown);
    let told = refused.trouble().unwrap();
    assert!(told.contains("403 Forbidden") && told.contains("\"countersign\""), "{told}");

    let nowhere = admin_store(cluster, "no-such-namespace").await;
    assert_eq!(nowhere.request(Action::ReadLease).await, Event::LeaseRead(None));
    assert_eq!(nowhere.request(write(None, 1, held())).await, Event::LeaseUnknown);
    let told = nowhere.trouble().unwrap();
    assert!(told.contains("404 NotFound") && told.contains("no-such-namespace"), "{told}");
}

/// The admin's kubeconfig, for a proxy before the API server.
fn kubeconfig_by(cluster: &Cluster, proxy: SocketAddr) -> PathBuf {
    let text = fs::read_to_string(cluster.admin_kubeconfig()).unwrap();
    let path = cluster.folder().join(cluster.unique("proxied"));
    fs::write(&path, text.replace(&cluster.url(), &format!("https://{proxy}"))).unwrap();
    path
}

/// Of a request, and how long it took.
async fn timed(store: &LeaseStore) -> (Event, Duration) {
    let begun = Instant::now();
    (store.request(Action::ReadLease).await, begun.elapsed())
}

#[tokio::test]
async fn a_dead_connection_costs_one_request_and_no_more() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("lease").await;
    let proxy = Proxy::start(cluster.url().strip_prefix("https://").unwrap().parse().unwrap()).await;
    let store = store(&kubeconfig_by(cluster, proxy.address), &namespace, Arc::default()).await;
    for _ in 0..3 {
        assert_eq!(timed(&store).await.0, Event::LeaseRead(None), "{:?}", store.trouble());
    }
    assert_eq!(proxy.accepted(), 1, "a connection is used again while it works");
    proxy.drop_what_there_is();
    let (event, took) = timed(&store).await;
    assert_eq!(event, Event::LeaseUnknown);
    let limit = LeaseTiming::DEFAULT.renew();
    assert!(took >= limit && took < limit * 2, "{took:?}");
    assert_eq!(store.trouble().as_deref(), Some("the API server did not answer within 1s"));
    let (event, took) = timed(&store).await;
    assert_eq!(event, Event::LeaseRead(None), "{:?}", store.trouble());
    assert!(took < limit, "{took:?}");
    assert_eq!((proxy.accepted(), store.trouble()), (2, None));

    proxy.drop_everything();
    for _ in 0..3 {
        let (event, took) = timed(&store).await;
        assert_eq!(event, Event::LeaseUnknown);
        assert!(took < limit * 2, "{took:?}");
    }
    proxy.let_new_ones_through();
    let (event, took) = timed(&store).await;
    assert_eq!(event, Event::LeaseRead(None), "{:?}", store.trouble());
    assert!(took < limit, "{took:?}");
}

#[test]
fn conflicts_are_not_followed_up_in_a_loop() {
    let cluster = Cluster::shared();
    let replicas = Replicas::start(cluster, 2, short());
    let (_, term) = replicas.wait_for_active(Term::NONE, bound(short()));
    let namespace = replicas.lease().unwrap().metadata.namespace.unwrap();
    let by_replicas = || {
        let requests = cluster.requests();
        let ours = requests.iter().filter(|it| it.namespace == namespace && it.user_agent.starts_with("countersign/"));
        ours.filter(|it| it.resource == "leases").count()
    };
    let (begun, before) = (Instant::now(), by_replicas());
    let mut edits = 0;
    while begun.elapsed() < Duration::from_secs(5) {
        let label = Patch::Merge(json!({ "metadata": { "labels": { "edit": edits.to_string() } } }));
        replicas.on_runtime(async { replicas.leases.patch(NAME, &PatchParams::default(), &label).await.unwrap() });
        edits += 1;
    }
    let (requests, renewals) = (by_replicas() - before, begun.elapsed().as_millis() / short().renew().as_millis());
    println!("{requests} requests of two replicas over {edits} edits and {renewals} renewals");
    assert!(requests as u128 <= 2 * (8 + 3 * renewals), "{requests} requests in {renewals} renewals");
    // and all comes to rest
    let (_, last) = replicas.wait_for_active(Term::NONE, bound(short()));
    assert!(last >= term);
    wait_until(bound(short()), "two renewals in one term", || {
        let version = |lease: &Lease| lease.metadata.resource_version.clone();
        let first = replicas.lease().ok_or("no lease")?;
        wait_until(bound(short()), "a renewal", || {
            replicas.lease().filter(|next| version(next) != version(&first)).ok_or("none yet")
        });
        let standing = replicas.wait_for_active(Term::NONE, bound(short())).1;
        if standing == last { Ok(()) } else { Err("another term") }
    });
    replicas.assert_terms_do_not_overlap();
}
