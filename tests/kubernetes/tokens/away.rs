//! The API server is away, stands still, or does not let the pair ask: undecided, never refused.

use std::{fs, time::Duration};

use countersign::{
    domain::{
        attestation::{Evidence, UnfinishedPods},
        clock::Clock as _,
    },
    runtime::seams::SystemClock,
    service::create_certificate::CreateError,
};
use tokio::time::Instant;

use super::world::{World, by_certificate, by_token, until};
use crate::{
    cluster::{Account, Cluster, TokenFor},
    pair::{install, shipped},
};

const KEPT_FOR: Duration = Duration::from_secs(60);
const HELD: Duration = Duration::from_secs(10);
const HELD_AT_MOST: Duration = Duration::from_secs(14);
const SOON: Duration = Duration::from_secs(1);
const SEEN: Duration = Duration::from_secs(10);

async fn token(cluster: &Cluster, account: &Account) -> Evidence {
    by_token(&cluster.token(account, &TokenFor { audiences: &["istio-ca"], ..TokenFor::default() }).await)
}

/// Held for the whole time, then unavailable for this reason.
async fn assert_unavailable(world: &World, evidence: &Evidence, reasons: &[&str]) {
    let begun = Instant::now();
    let refused = world.ask(evidence).await.expect_err("nobody can say");
    let CreateError::Unavailable { last, .. } = &refused else { panic!("{refused:?}") };
    assert!(reasons.iter().any(|reason| last.contains(reason)), "{last}, not one of {reasons:?}");
    assert!((HELD..HELD_AT_MOST).contains(&begun.elapsed()), "held for {:?}", begun.elapsed());
}

async fn assert_issued_at_once(world: &World, evidence: &Evidence) {
    let begun = Instant::now();
    world.ask(evidence).await.unwrap();
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_api_server_what_is_known_is_believed_and_all_else_waits() {
    let mut cluster = tokio::task::spawn_blocking(Cluster::start).await.unwrap();
    let account = install(&cluster).await;
    let world = World::new(&cluster.kubeconfig(&account).await, KEPT_FOR).await;
    let gateway = cluster.account("default", "gateway").await;
    cluster.pod(&gateway, "gateway-0").await;
    let [known, new, newer, newest] = [
        token(&cluster, &gateway).await,
        token(&cluster, &gateway).await,
        token(&cluster, &gateway).await,
        token(&cluster, &gateway).await,
    ];
    let certificate = by_certificate(world.certificate("default/gateway", SystemClock.now()));
    until(SEEN, "the pod seen", || async {
        let seen = world.pods_of("default/gateway");
        if seen == UnfinishedPods::Some { Ok(()) } else { Err(format!("{seen:?}")) }
    })
    .await;
    world.ask(&known).await.unwrap();

    cluster.pause();
    tokio::join!(
        assert_unavailable(&world, &new, &["did not answer within 1s", "has not answered yet"]),
        assert_issued_at_once(&world, &known),
        assert_issued_at_once(&world, &certificate),
    );
    let asked = world.asked();
    let (held, ()) = tokio::join!(world.ask(&newer), async {
        until(SEEN, "asked in vain", || async {
            if world.asked() > asked { Ok(()) } else { Err(format!("{} times", world.asked())) }
        })
        .await;
        cluster.resume();
    });
    held.expect("held until the API server went on");

    cluster.kill();
    tokio::join!(
        assert_unavailable(&world, &newest, &["can't be reached"]),
        assert_issued_at_once(&world, &known),
        assert_issued_at_once(&world, &certificate),
    );
    cluster.restart();
    until(Duration::from_secs(30), "asked again", || async {
        world.ask(&newest).await.map(drop).map_err(|error| error.to_string())
    })
    .await;
    // and the pods are followed again
    let late = cluster.account("default", "late").await;
    cluster.pod(&late, "late-0").await;
    until(SEEN, "a new pod seen", || async {
        let seen = world.pods_of("default/late");
        if seen == UnfinishedPods::Some { Ok(()) } else { Err(format!("{seen:?}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_rights_of_our_own_nobody_is_refused() {
    let cluster = tokio::task::spawn_blocking(Cluster::start).await.unwrap();
    cluster.namespace_named("countersign", &[]).await;
    let gateway = cluster.account("default", "gateway").await;
    cluster.pod(&gateway, "gateway-0").await;
    let own = cluster.account("countersign", "countersign").await;
    let world = World::new(&cluster.kubeconfig(&own).await, KEPT_FOR).await;
    let stranger = cluster.kubeconfig(&gateway).await;
    fs::write(stranger.with_extension("token"), "no.such.token").unwrap();
    let unknown = World::new(&stranger, KEPT_FOR).await;
    let certificate = by_certificate(world.certificate("default/gateway", SystemClock.now()));
    let [new, other] = [token(&cluster, &gateway).await, token(&cluster, &gateway).await];
    tokio::join!(
        assert_unavailable(&world, &new, &["lacks the right to create tokenreviews.authentication.k8s.io"]),
        assert_unavailable(&world, &certificate, &["the pods of this cluster are not known"]),
        assert_unavailable(&unknown, &other, &["does not accept the certificate authority's own credentials"]),
    );
    assert_eq!(world.pods_of("default/gateway"), UnfinishedPods::Unknown);

    // without a restart
    cluster.apply_file(&shipped("rbac.yaml")).await;
    for evidence in [&new, &certificate] {
        until(SEEN, "rights", || async { world.ask(evidence).await.map_err(|error| error.to_string()) }).await;
    }
}
