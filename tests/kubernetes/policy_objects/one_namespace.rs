//! One namespace in which nothing is taken: no other waits for it, not even while that is being found out.

use std::{
    net::{SocketAddr, TcpListener},
    time::{Duration, Instant},
};

use k8s_openapi::{
    ByteString,
    api::{
        admissionregistration::v1::ValidatingWebhookConfiguration,
        core::v1::{Namespace, ResourceQuota, Secret},
    },
};
use kube::{
    Api,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::json;
use tokio::time::timeout;

use super::{LATER, Stage, is_complete, is_empty, objects, webhook::BusyWebhook};
use crate::{
    network::in_own_network,
    support::{http, wait::wait_until},
};

/// Before the team's, by name.
const BAD: &str = "a-namespace";
/// More than are written at once.
const SERVICES: usize = 30;
/// The first pause after something that may concern everybody, and what a label takes otherwise: less than a write that hangs, and than
/// what a webhook asks for.
const SHORTLY: Duration = Duration::from_secs(3);
/// Seconds for which a webhook asks to be left alone.
const RETRY_AFTER: u64 = 20;
/// Until what is refused by itself is tried again, at most.
const AGAIN: Duration = Duration::from_secs(70);

#[derive(Clone, Debug)]
enum Obstacle {
    /// No more Secrets.
    Quota,
    /// A webhook where nobody listens.
    Fails(SocketAddr),
    /// A webhook that takes connections and says nothing.
    Hangs(SocketAddr),
    /// A webhook that asks for time; with its roots.
    Busy(SocketAddr, String),
}

impl Obstacle {
    async fn set(&self, stage: &Stage) {
        let client = stage.client();
        let params = PostParams::default();
        match self {
            Self::Quota => {
                let quotas: Api<ResourceQuota> = Api::namespaced(client, BAD);
                let hard = json!({ "count/secrets": "0" });
                let quota = json!({ "metadata": { "name": "full" }, "spec": { "hard": hard } });
                quotas.create(&params, &serde_json::from_value(quota).unwrap()).await.unwrap();
                // no controller runs that would count
                let status = Patch::Merge(json!({ "status": { "hard": hard, "used": hard } }));
                quotas.patch_status("full", &PatchParams::default(), &status).await.unwrap();
            }
            Self::Fails(place) | Self::Hangs(place) | Self::Busy(place, _) => {
                let roots = match self {
                    Self::Busy(_, roots) => Some(ByteString(roots.clone().into_bytes())),
                    _ => None,
                };
                let webhook = json!({
                    "metadata": { "name": "obstacle" },
                    "webhooks": [{
                        "name": "obstacle.example.test", "admissionReviewVersions": ["v1"], "sideEffects": "None",
                        "failurePolicy": "Fail", "timeoutSeconds": 30,
                        "clientConfig": { "url": format!("https://{place}/"), "caBundle": roots },
                        "rules": [{
                            "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["secrets"],
                        }],
                        "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": BAD } },
                    }],
                });
                let webhooks: Api<ValidatingWebhookConfiguration> = Api::all(client);
                webhooks.create(&params, &serde_json::from_value(webhook).unwrap()).await.unwrap();
            }
        }
        wait_until_taken(stage, false).await;
    }

    async fn remove(&self, stage: &Stage) {
        let (client, params) = (stage.client(), DeleteParams::default());
        match self {
            Self::Quota => drop(Api::<ResourceQuota>::namespaced(client, BAD).delete("full", &params).await.unwrap()),
            Self::Fails(_) | Self::Hangs(_) | Self::Busy(..) => {
                drop(Api::<ValidatingWebhookConfiguration>::all(client).delete("obstacle", &params).await.unwrap());
            }
        }
        wait_until_taken(stage, true).await;
    }
}

/// The API server hears of quotas and webhooks by watches of its own.
async fn wait_until_taken(stage: &Stage, is_taken: bool) {
    let secrets: Api<Secret> = Api::namespaced(stage.client(), BAD);
    let params = PostParams { dry_run: true, ..PostParams::default() };
    let secret = serde_json::from_value(json!({ "metadata": { "name": "probe" } })).unwrap();
    let begin = Instant::now();
    loop {
        let answer = timeout(Duration::from_secs(1), secrets.create(&params, &secret)).await;
        if matches!(answer, Ok(Ok(_))) == is_taken {
            return;
        }
        assert!(begin.elapsed() < LATER, "{answer:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn label_bad(stage: &Stage, value: Option<&str>) {
    let patch = Patch::Merge(json!({ "metadata": { "labels": { "istio-injection": value } } }));
    Api::<Namespace>::all(stage.client()).patch(BAD, &PatchParams::default(), &patch).await.unwrap();
}

fn has_written(stage: &Stage, expected: usize) -> Result<(), String> {
    let found = stage.on(objects::policies(&stage.client(), BAD).list(&ListParams::default())).unwrap().items.len();
    if found == expected { Ok(()) } else { Err(format!("{found} of {expected} policies")) }
}

#[test]
fn a_namespace_in_which_nothing_is_taken_keeps_no_other_waiting() {
    in_own_network(
        "policy_objects::one_namespace::a_namespace_in_which_nothing_is_taken_keeps_no_other_waiting",
        |network| {
            let free = TcpListener::bind((network.address(), 0)).unwrap();
            let silent = TcpListener::bind((network.address(), 0)).unwrap();
            let [failing, hanging] = [&free, &silent].map(|listener| listener.local_addr().unwrap());
            drop(free);
            let busy = BusyWebhook::start(network.address().into(), RETRY_AFTER);
            let mut stage = Stage::complete(network);
            stage.on(async {
                stage.cluster.namespace_named(BAD, &[]).await;
                for number in 0..SERVICES {
                    let service = objects::service(&format!("s{number:02}"));
                    stage.cluster.apply(&service.replace(objects::TEAM, BAD)).await;
                }
            });
            let busy = Obstacle::Busy(busy.address, busy.roots);
            for obstacle in [Obstacle::Quota, Obstacle::Fails(failing), Obstacle::Hangs(hanging), busy] {
                beside(&stage, &obstacle);
            }
            stage.replicas[0].stop();
        },
    );
}

fn beside(stage: &Stage, obstacle: &Obstacle) {
    let client = stage.client();
    stage.on(obstacle.set(stage));
    let name = match obstacle {
        Obstacle::Quota => "a full quota",
        Obstacle::Fails(_) => "a webhook that fails",
        Obstacle::Hangs(_) => "a webhook that hangs",
        Obstacle::Busy(..) => "a webhook that is busy",
    };
    // in the first round nothing is known of the namespace yet
    stage.on(label_bad(stage, Some("enabled")));
    for round in 0..4 {
        let begin = Instant::now();
        stage.on(objects::label(&client, Some("enabled")));
        wait_until(SHORTLY, &format!("objects of another namespace beside {name}"), || is_complete(stage));
        let made = begin.elapsed();
        if round == 0 {
            wait_until(LATER, "what is not taken", || {
                let ready = http::get(stage.replicas[0].admin(), "/readyz")?;
                if ready.contains(&format!("Failing: Secret {BAD}/countersign-s")) { Ok(()) } else { Err(ready) }
            });
        }
        let begin = Instant::now();
        stage.on(objects::label(&client, None));
        wait_until(SHORTLY, "nothing without the label", || is_empty(stage));
        println!("beside {name}, round {round}: all after {made:?}, nothing after {:?}", begin.elapsed());
    }
    has_written(stage, 0).unwrap();
    stage.on(obstacle.remove(stage));
    wait_until(AGAIN, &format!("objects after {name}"), || has_written(stage, SERVICES));
    stage.on(label_bad(stage, None));
    wait_until(LATER, "nothing without the label", || has_written(stage, 0));
}
