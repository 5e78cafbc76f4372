//! Bad tokens in numbers.

use std::{net::Ipv4Addr, sync::Arc, time::Duration};

use countersign::domain::attestation::Evidence;
use tokio::{task::JoinSet, time::Instant};

use super::{
    forged::Forger,
    world::{World, by_token},
};
use crate::{
    cluster::{Cluster, TokenFor},
    pair::install,
};

const SOURCES: u32 = 100;
const GOOD: usize = 40;
/// A good one takes a few milliseconds when nobody is in its way; the machine is busy with all sides of this.
const AT_MOST: Duration = Duration::from_secs(1);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_bad_tokens_starves_no_good_one() {
    let cluster = tokio::task::spawn_blocking(Cluster::start).await.unwrap();
    let account = install(&cluster).await;
    let world = Arc::new(World::new(&cluster.kubeconfig(&account).await, Duration::from_secs(10)).await);
    let gateway = cluster.account("default", "gateway").await;
    let asked = TokenFor { audiences: &["istio-ca"], ..TokenFor::default() };
    let token = cluster.token(&gateway, &asked).await;
    world.ask(&by_token(&token)).await.unwrap();
    let mut good = Vec::new();
    for _ in 0..GOOD {
        good.push(by_token(&cluster.token(&gateway, &asked).await));
    }

    let mut flood = JoinSet::new();
    for source in 0..SOURCES {
        let (world, token) = (Arc::clone(&world), token.clone());
        flood.spawn(async move {
            let forger = Forger::with_another_key();
            for number in 0_u64.. {
                // of the right issuer and key, by its own word
                let bad = forger.changed(&token, &serde_json::json!({ "jti": format!("{source}-{number}") }));
                let source = Some(Ipv4Addr::from_bits(0x0a00_0000 + source).into());
                let refused = world.ask(&Evidence { source, ..by_token(&bad) }).await;
                assert!(refused.is_err());
            }
        });
    }
    let mut slowest = Duration::ZERO;
    for evidence in &good {
        let begun = Instant::now();
        world.ask(evidence).await.unwrap();
        slowest = slowest.max(begun.elapsed());
    }
    println!("{GOOD} good tokens among {} reviews of {SOURCES} sources: at most {slowest:?}", world.asked());
    assert!(world.asked() > GOOD * 2, "no flood: {} reviews", world.asked());
    assert!(slowest < AT_MOST, "{slowest:?}");
    flood.abort_all();
}
