//! Client certificates, and the pods that make them renewable.

use std::time::Duration;

use countersign::{
    domain::{
        attestation::{Denial, DeniedSubject, Evidence, UnfinishedPods},
        authority::SigningAuthority,
        clock::Clock as _,
    },
    runtime::seams::{RingRandom, SystemClock},
};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, PostParams};
use serde_json::json;

use super::{
    row::{By, Row},
    world::{TRUST_DOMAIN, World, by_certificate, by_token, certificate_of, id_of, until},
};
use crate::cluster::{Account, Cluster, PodPhase, TokenFor};

const HOUR: Duration = Duration::from_secs(3600);
const SEEN: Duration = Duration::from_secs(10);

pub(crate) async fn rows(cluster: &Cluster, world: &World) -> Vec<Row> {
    make_pods(cluster, world).await;
    let mut rows = by_pods(world);
    rows.extend(refused(world));
    rows.extend(with_tokens(cluster, world).await);
    rows.extend(denied(cluster, world).await);
    rows
}

/// Accounts `default/NAME`, each with the pods that its name says.
async fn make_pods(cluster: &Cluster, world: &World) {
    for phase in [PodPhase::Running, PodPhase::Pending, PodPhase::Succeeded, PodPhase::Failed] {
        let name = format!("{phase:?}").to_lowercase();
        pod(cluster, &name, &format!("only-{name}"), phase).await;
    }
    pod(cluster, "mixed", "mixed-0", PodPhase::Succeeded).await;
    pod(cluster, "mixed", "mixed-1", PodPhase::Running).await;
    pod(cluster, "ended", "ended-0", PodPhase::Running).await;
    pod(cluster, "ended", "ended-1", PodPhase::Failed).await;
    cluster.delete_pod("default", "ended-0").await;
    leaving_pod(cluster, "leaving", 3600).await;
    leaving_pod(cluster, "stuck", 0).await;
    // the last one: who sees it has seen all before it
    pod(cluster, "last", "last-0", PodPhase::Running).await;
    until(SEEN, "the pods seen", || async {
        let seen = (world.pods_of("default/last"), world.pods_of("default/ended"));
        if seen == (UnfinishedPods::Some, UnfinishedPods::None) { Ok(()) } else { Err(format!("{seen:?}")) }
    })
    .await;
}

async fn pod(cluster: &Cluster, account: &str, name: &str, phase: PodPhase) {
    let account = Account { namespace: "default".to_owned(), name: account.to_owned() };
    cluster.pod(&account, name).await;
    cluster.set_phase("default", name, phase).await;
}

/// One that is being deleted, and is not gone because of a finalizer. With a grace period it still runs; with none it would
/// be gone if nothing held it.
async fn leaving_pod(cluster: &Cluster, account: &str, grace: u32) {
    let pod = json!({
        "metadata": { "name": account, "finalizers": ["test.local/held"] },
        "spec": {
            "serviceAccountName": account, "nodeName": "worker",
            "containers": [{ "name": "main", "image": "none" }],
        },
    });
    let pods = cluster.pods("default");
    let pod: Pod = serde_json::from_value(pod).unwrap();
    pods.create(&PostParams::default(), &pod).await.unwrap();
    cluster.set_phase("default", account, PodPhase::Running).await;
    pods.delete(account, &DeleteParams::default().grace_period(grace)).await.unwrap();
}

fn by_pods(world: &World) -> Vec<Row> {
    let now = SystemClock.now();
    let presented = |account: &str| by_certificate(world.certificate(account, now));
    let good = |name, account: &str| Row::new(name, presented(account)).issued(account, &["certificate "]);
    let bad = |name, account: &str| Row::new(name, presented(account)).refused("has no pod that has not finished");
    let asserted = |name, account| Row::new(name, presented(account)).at_the_standby();
    vec![
        good("certificate, pod running", "default/running"),
        good("certificate, pod pending", "default/pending"),
        bad("certificate, pod succeeded", "default/succeeded"),
        bad("certificate, pod failed", "default/failed"),
        good("certificate, one pod succeeded, one running", "default/mixed"),
        bad("certificate, one pod deleted, one failed", "default/ended"),
        good("certificate, pod leaving, in its grace period", "default/leaving"),
        good("certificate, pod leaving for no longer than clocks may differ", "default/stuck"),
        bad("certificate, never a pod", "default/never"),
        bad("certificate, pod of that account in another namespace", "other/running"),
        asserted("certificate asserted by the standby, pod running", "default/running")
            .by(By::Active)
            .issued("default/running", &["asserted by standby"]),
        asserted("certificate asserted by the standby, pod succeeded", "default/succeeded")
            .by(By::Active)
            .refused("has no pod that has not finished"),
    ]
}

/// No certificate of ours, or not now.
fn refused(world: &World) -> Vec<Row> {
    let now = SystemClock.now();
    let (other, _key) =
        SigningAuthority::self_signed(&TRUST_DOMAIN.parse().unwrap(), HOUR, now, &RingRandom::new()).unwrap();
    let id = id_of("default/running");
    let row = |name, chain| Row::new(name, by_certificate(chain));
    let foreign = "spiffe://elsewhere.test/ns/default/sa/running".parse().unwrap();
    let serving = "spiffe://cluster.local/countersign/serving".parse().unwrap();
    let own_root = |id| certificate_of(&world.authority, id, now);
    vec![
        row("certificate of another root", certificate_of(&other, &id, now)).refused("client certificate"),
        row("certificate that has expired", world.certificate("default/running", now.minus(HOUR * 2)))
            .refused("client certificate"),
        row("certificate of another root at the standby", certificate_of(&other, &id, now))
            .at_the_standby()
            .refused("client certificate"),
        row("certificate of another trust domain", own_root(&foreign)).refused("not the SVID of a service account"),
        row("certificate that serves our own API", own_root(&serving)).refused("not the SVID of a service account"),
        Row::new("nothing", Evidence::NONE).refused("neither a bearer token nor a client certificate"),
        Row::new("nothing at the standby", Evidence::NONE)
            .at_the_standby()
            .refused("neither a bearer token nor a client certificate"),
    ]
}

async fn with_tokens(cluster: &Cluster, world: &World) -> Vec<Row> {
    let account = cluster.account("default", "succeeded").await;
    let asked = TokenFor { audiences: &["istio-ca"], ..TokenFor::default() };
    let token = cluster.token(&account, &asked).await;
    let now = SystemClock.now();
    let both =
        |account: &str, token: &str| Evidence { presented: Some(world.certificate(account, now)), ..by_token(token) };
    vec![
        Row::new("certificate without a pod, and a token", both("default/succeeded", &token))
            .by(By::ApiServer)
            .issued("default/succeeded", &["token reviewed"]),
        Row::new("certificate outranks a token", both("default/running", &token))
            .issued("default/running", &["certificate "]),
        Row::new("certificate without a pod, and garbage", both("default/succeeded", "garbage")).refused("malformed"),
        Row::new("certificate outranks garbage", both("default/running", "garbage"))
            .issued("default/running", &["certificate "]),
    ]
}

async fn denied(cluster: &Cluster, world: &World) -> Vec<Row> {
    let now = SystemClock.now();
    let chain = world.certificate("default/running", now);
    let reason = "lost".parse().unwrap();
    let denial = Denial { reason, since: now, actor_uid: 0 };
    world.session.set_denied(
        [DeniedSubject::Serial(chain.leaf().serial().clone()), DeniedSubject::Identity(id_of("default/denied"))]
            .map(|subject| (subject, denial.clone()))
            .into_iter()
            .collect(),
    );
    pod(cluster, "denied", "denied-0", PodPhase::Running).await;
    let account = cluster.account("default", "running").await;
    let token = cluster.token(&account, &TokenFor { audiences: &["istio-ca"], ..TokenFor::default() }).await;
    vec![
        Row::new("certificate whose serial is denied", by_certificate(chain.clone())).refused("is denied: lost"),
        Row::new(
            "certificate whose serial is denied, and a token",
            Evidence { presented: Some(chain), ..by_token(&token) },
        )
        .by(By::ApiServer)
        .issued("default/running", &["token reviewed"]),
    ]
}
