//! Policies of a real cluster's objects, as gateways and operators are told of them.

mod accepted;
mod before_istiod;
mod contexts;
mod gateway;
mod istio;
mod many;

use std::{
    path::Path,
    process::Output,
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;
use tokio::runtime::{Builder, Runtime};
use tonic::Code;

use self::gateway::Gateway;
use crate::{
    cluster::{Account, Cluster, block_on},
    network::{Host, in_own_network},
    pair::{
        install,
        replica::{Planned, Replica},
        shipped, token_file,
    },
    support::{countersign::countersign, wait::wait_until},
};

const GATEWAY: &str = "spiffe://gateways.test/ns/default/sa/gateway";
const TEAM: &str = "test-infra";
const ROUNDS: usize = 40;

fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// A replica that follows policies, running.
fn start(cluster: &Cluster, host: Host) -> Replica {
    start_with(cluster, host, &[])
}

fn start_with(cluster: &Cluster, host: Host, flags: &[&str]) -> Replica {
    start_as("replica-a", cluster, &installed(cluster), host, flags)
}

fn installed(cluster: &Cluster) -> Account {
    block_on(async {
        let account = install(cluster).await;
        cluster.apply_file(&shipped("rbac-policy.yaml")).await;
        account
    })
}

fn start_as(name: &str, cluster: &Cluster, account: &Account, host: Host, flags: &[&str]) -> Replica {
    let flags = [&["--policy", "true", "--gateway-identity", GATEWAY], flags].concat();
    Planned::new(name, cluster, account, host, &flags).start()
}

fn service_of(namespace: &str, name: &str) -> Service {
    serde_json::from_value(json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": name, "namespace": namespace },
        "spec": { "clusterIP": "None", "selector": { "app": name }, "ports": [{ "name": "http", "port": 8080 }] },
    }))
    .unwrap()
}

fn pod_of(namespace: &str, name: &str, app: &str, account: &str, injected: bool) -> Pod {
    let annotations = if injected { json!({ "sidecar.istio.io/status": "{}" }) } else { json!({}) };
    serde_json::from_value(json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": name, "namespace": namespace, "labels": { "app": app, "team": "x" }, "annotations": annotations },
        "spec": { "serviceAccountName": account, "containers": [{ "name": "main", "image": "none" }] },
    }))
    .unwrap()
}

async fn create<K>(api: Api<K>, object: &K)
where
    K: kube::Resource + Clone + std::fmt::Debug + serde::Serialize + serde::de::DeserializeOwned,
{
    api.create(&PostParams::default(), object).await.unwrap();
}

/// `None` takes the label away.
async fn label(client: &Client, namespace: &str, key: &str, value: Option<&str>) {
    let patch = Patch::Merge(json!({ "metadata": { "labels": { key: value } } }));
    Api::<Namespace>::all(client.clone()).patch(namespace, &PatchParams::default(), &patch).await.unwrap();
}

fn policy(replica: &Replica, arguments: &[&str]) -> Output {
    policy_at(replica.data(), arguments)
}

/// By the replica with this data directory.
fn policy_at(data: &Path, arguments: &[&str]) -> Output {
    countersign().arg("policy").args(arguments).arg("--data-dir").arg(data).output().unwrap()
}

fn said(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Waits until this is said: operators hear of a change once it is judged, a moment after gateways.
fn said_soon(replica: &Replica, arguments: &[&str], expected: &str) -> String {
    wait_until(Duration::from_secs(1), expected, || {
        let output = policy(replica, arguments);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if text.contains(expected) { Ok(text) } else { Err(format!("{output:?}")) }
    })
}

#[test]
fn a_gateway_hears_of_a_label_at_once_and_an_operator_is_told_what_won_t_work() {
    in_own_network(
        "policy::a_gateway_hears_of_a_label_at_once_and_an_operator_is_told_what_won_t_work",
        |mut network| {
            let cluster = Cluster::start_at(&network.host("api").place(), &[]);
            let mut replica = start(&cluster, network.host("a"));
            replica.wait_until_ready();
            let token = block_on(token_file(&cluster, "gateway"));
            let stranger = block_on(token_file(&cluster, "stranger"));
            runtime().block_on(async {
                let client = cluster.admin();
                cluster.namespace_named(TEAM, &[]).await;
                create(Api::namespaced(client.clone(), TEAM), &service_of(TEAM, "backend")).await;
                for (name, account, injected) in [("one", "v1", true), ("two", "v2", false)] {
                    create(Api::namespaced(client.clone(), TEAM), &pod_of(TEAM, name, "backend", account, injected))
                        .await;
                }
                for (proof, code) in [(None, Code::Unauthenticated), (Some(&stranger), Code::PermissionDenied)] {
                    let refused = Gateway::open(&cluster, &replica, proof.map(AsRef::as_ref), "").await.err().unwrap();
                    assert_eq!(refused.code(), code, "{refused:?}");
                }
                let mut gateway = Gateway::open(&cluster, &replica, Some(&token), "").await.unwrap();
                gateway.until("nothing", |services| services.is_empty()).await;
                said_soon(&replica, &["explain", TEAM], "nothing is required");
                let diff = said(&policy(&replica, &["diff", "--label", TEAM]));
                assert!(diff.contains("not-managed -> mutual-tls") && diff.contains("SidecarMissing"), "{diff}");

                let mut latencies = Vec::new();
                for _ in 0..ROUNDS {
                    for value in [Some("enabled"), None] {
                        let begin = Instant::now();
                        label(&client, TEAM, "istio-injection", value).await;
                        let wanted = usize::from(value.is_some());
                        gateway.until("the label's effect", |services| services.len() == wanted).await;
                        latencies.push(begin.elapsed());
                    }
                }
                show(latencies);

                label(&client, TEAM, "istio.io/rev", Some("canary")).await;
                gateway.until("the revision's effect", |services| services.len() == 1).await;
                let service = gateway.services.values().next().unwrap().clone();
                let ids = ["v1", "v2"].map(|account| format!("spiffe://cluster.local/ns/{TEAM}/sa/{account}"));
                assert_eq!(service.identities, ids);
                assert_eq!((service.ports[0].number, service.ports[0].class.as_str()), (8080, "http/1"));
                let of_service = ["explain", &format!("{TEAM}/backend")];
                let explained = said_soon(&replica, &of_service, "error SidecarMissing: 1 of 2 pods");
                assert!(
                    explained
                        .contains("kubectl rollout restart deployment,statefulset,daemonset --namespace test-infra"),
                    "{explained}"
                );
                let list = said(&policy(&replica, &["list", "-o", "json"]));
                let list: serde_json::Value = serde_json::from_str(&list).unwrap();
                let team = list.as_array().unwrap().iter().find(|namespace| namespace["name"] == TEAM).unwrap();
                assert_eq!(team["conditions"][0]["reason"], "IstioNotDetected", "{list}");

                goes_on_from_where_it_was(&cluster, &replica, &token, gateway).await;
            });
            replica.stop();
        },
    );
}

async fn goes_on_from_where_it_was(cluster: &Cluster, replica: &Replica, token: &Path, gateway: Gateway) {
    let reached = gateway.version.clone();
    drop(gateway);
    cluster.delete_pod(TEAM, "two").await;
    let mut again = Gateway::open(cluster, replica, Some(token), &reached).await.unwrap();
    again.until("the pod gone", |services| services.values().any(|service| service.identities.len() == 1)).await;
    assert_eq!(again.resets, 0, "it was told everything anew");
    let mut anew = Gateway::open(cluster, replica, Some(token), "another/7").await.unwrap();
    anew.until("everything", |services| services.len() == 1).await;
    assert_eq!(anew.resets, 1);
}

fn show(mut latencies: Vec<Duration>) {
    latencies.sort_unstable();
    let (median, last) = (latencies[latencies.len() / 2], latencies[latencies.len() * 99 / 100]);
    println!("from a label's write to the gateway, {} changes: median {median:?}, p99 {last:?}", latencies.len());
    assert!(median < Duration::from_millis(200) && last < Duration::from_secs(1), "median {median:?}, p99 {last:?}");
}
