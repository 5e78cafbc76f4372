//! What is still believed of what was there a moment ago.

use std::time::{Duration, Instant};

use countersign::{
    domain::{attestation::UnfinishedPods, clock::Clock as _},
    runtime::seams::SystemClock,
    service::create_certificate::CreateError,
};

use super::world::{World, by_certificate, by_token, until};
use crate::{
    cluster::{Cluster, TokenFor},
    pair::install,
};

const KEPT_FOR: Duration = Duration::from_secs(3);
/// For so long the API server itself keeps what it found out about a token.
const API_SERVER_KEEPS: Duration = Duration::from_secs(10);
const SLACK: Duration = Duration::from_secs(3);
const SEEN: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_believed_after_its_pods_death_for_the_kept_time_and_a_certificate_not_at_all() {
    let cluster = tokio::task::spawn_blocking(Cluster::start).await.unwrap();
    let account = install(&cluster).await;
    let world = World::new(&cluster.kubeconfig(&account).await, KEPT_FOR).await;
    let gateway = cluster.account("default", "gateway").await;
    cluster.pod(&gateway, "gateway-0").await;
    let asked = TokenFor { audiences: &["istio-ca"], pod: Some("gateway-0"), ..TokenFor::default() };
    let token = by_token(&cluster.token(&gateway, &asked).await);
    let certificate = by_certificate(world.certificate("default/gateway", SystemClock.now()));
    until(SEEN, "the pod seen", || async {
        let seen = world.pods_of("default/gateway");
        if seen == UnfinishedPods::Some { Ok(()) } else { Err(format!("{seen:?}")) }
    })
    .await;
    world.ask(&token).await.unwrap();
    world.ask(&certificate).await.unwrap();

    cluster.delete_pod("default", "gateway-0").await;
    let deleted = Instant::now();
    world.ask(&token).await.expect("believed for the kept time");
    assert_eq!(world.asked(), 1);
    let refused = until(SEEN, "the certificate refused", || async {
        world.ask(&certificate).await.err().ok_or_else(|| "it is renewed".to_owned())
    })
    .await;
    assert!(matches!(&refused, CreateError::Unattested(error) if error.to_string().contains("no pod")), "{refused}");
    println!("certificate refused {:?} after its last pod was deleted", deleted.elapsed());
    let refused = until(KEPT_FOR + API_SERVER_KEEPS + SLACK, "the token refused", || async {
        world.ask(&token).await.err().ok_or_else(|| "it is accepted".to_owned())
    })
    .await;
    assert!(matches!(refused, CreateError::Unattested(_)), "{refused}");
    println!("token refused {:?} after its pod was deleted", deleted.elapsed());
}
