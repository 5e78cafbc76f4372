//! A large cluster, with gateways for which objects are to be written.

use std::{
    fs,
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client, api::DynamicObject};
use serde_json::json;
use tokio::task::JoinSet;

use super::{GATEWAY, create, gateway::Gateway, label, pod_of, runtime, service_of, show, start_with};
use crate::{
    cluster::{Cluster, block_on},
    network::in_own_network,
    pair::{TRUST_DOMAIN, replica::Replica, shipped, token_file},
    policy_objects::{
        install_kinds,
        objects::{self, GATEWAY_API},
    },
    support::{
        authority::{Authority, CaDir, Kind},
        countersign::is_released,
        http,
        wait::wait_until,
    },
};

const NAMESPACES: usize = 1_000;
const SERVICES: usize = 5_000;
const PODS: usize = 10_000;
const GATEWAYS: usize = 20;
const ROUTES: usize = 2_000;
const WORKERS: usize = 12;
const COMPLETE: Duration = Duration::from_secs(20);
const MEMORY_KIB: u64 = 64 << 10;
const ROUNDS: usize = 50;
/// Names the variable that makes this a longer run.
const ALL_WRITTEN: &str = "COUNTERSIGN_ALL_WRITTEN";
/// At 100 objects a second.
const WRITING: Duration = Duration::from_secs(240);

fn namespace(number: usize) -> String {
    format!("team-{:04}", number % NAMESPACES)
}

async fn fill(client: &Client) {
    let mut making = JoinSet::new();
    for worker in 0..WORKERS {
        let client = client.clone();
        making.spawn(async move {
            for number in (worker..NAMESPACES).step_by(WORKERS) {
                let object: Namespace = serde_json::from_value(json!({
                    "metadata": { "name": namespace(number), "labels": { "istio-injection": "enabled" } },
                }))
                .unwrap();
                create(Api::all(client.clone()), &object).await;
            }
        });
    }
    while let Some(made) = making.join_next().await {
        made.unwrap();
    }
    for worker in 0..WORKERS {
        let client = client.clone();
        making.spawn(async move {
            for number in (worker..SERVICES).step_by(WORKERS) {
                let (namespace, name) = (namespace(number), format!("service-{}", number / NAMESPACES));
                create(Api::namespaced(client.clone(), &namespace), &service_of(&namespace, &name)).await;
            }
            for number in (worker..PODS).step_by(WORKERS) {
                let (namespace, of) = (namespace(number), number / NAMESPACES);
                let (name, app) = (format!("pod-{of}"), format!("service-{}", of % (SERVICES / NAMESPACES)));
                let pod = pod_of(&namespace, &name, &app, &format!("account-{of}"), true);
                create(Api::namespaced(client.clone(), &namespace), &pod).await;
            }
        });
    }
    while let Some(made) = making.join_next().await {
        made.unwrap();
    }
}

/// Every Gateway takes Routes from everywhere, so all Services are to have a policy.
async fn make_gateways(cluster: &Cluster) {
    cluster.apply_file(&shipped("rbac-policy-objects.yaml")).await;
    install_kinds(cluster).await;
    objects::make_envoy_gateway(cluster).await;
    let client = cluster.admin();
    let api = |namespace: &str, kind: &str, plural: &str| -> Api<DynamicObject> {
        Api::namespaced_with(client.clone(), namespace, &objects::kind(GATEWAY_API, "v1", kind, plural))
    };
    for number in 1..GATEWAYS {
        let object: DynamicObject = serde_json::from_value(json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "metadata": { "name": format!("gw-{number}") },
            "spec": {
                "gatewayClassName": "eg",
                "infrastructure": { "parametersRef": {
                    "group": "gateway.envoyproxy.io", "kind": "EnvoyProxy", "name": "countersign",
                } },
                "listeners": [{
                    "name": "http", "protocol": "HTTP", "port": 80, "allowedRoutes": { "namespaces": { "from": "All" } },
                }],
            },
        }))
        .unwrap();
        create(api("gw", "Gateway", "gateways"), &object).await;
    }
    let mut making = JoinSet::new();
    for worker in 0..WORKERS {
        let client = client.clone();
        making.spawn(async move {
            let kind = objects::kind(GATEWAY_API, "v1", "HTTPRoute", "httproutes");
            for number in (worker..ROUTES).step_by(WORKERS) {
                let (gateway, service) = (number % (GATEWAYS - 1) + 1, format!("service-{}", number / NAMESPACES));
                let object: DynamicObject = serde_json::from_value(json!({
                    "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
                    "metadata": { "name": service },
                    "spec": {
                        "parentRefs": [{ "name": format!("gw-{gateway}"), "namespace": "gw" }],
                        "rules": [{ "backendRefs": [{ "name": service, "port": 8080 }] }],
                    },
                }))
                .unwrap();
                create(Api::namespaced_with(client.clone(), &namespace(number), &kind), &object).await;
            }
        });
    }
    while let Some(made) = making.join_next().await {
        made.unwrap();
    }
}

/// Waits until every Service has its policy and its Secret.
fn wait_until_all_written(replica: &Replica) {
    let begin = Instant::now();
    wait_until(WRITING, "all objects", || {
        let ready = http::get(replica.admin(), "/readyz")?;
        let line = ready.lines().find(|line| line.starts_with("policy objects: ")).unwrap_or_default().to_owned();
        if line.contains(&format!("({0} of {0} policy objects)", 2 * SERVICES)) { Ok(()) } else { Err(line) }
    });
    println!("all {} objects written after {:?}", 2 * SERVICES, begin.elapsed());
}

/// Of `/proc/PID/status`, in KiB.
fn memory(pid: u32, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.trim_matches(|c: char| !c.is_ascii_digit()).parse().unwrap()
}

#[test]
fn a_thousand_namespaces_are_known_within_twenty_seconds_and_in_little_memory() {
    in_own_network(
        "policy::many::a_thousand_namespaces_are_known_within_twenty_seconds_and_in_little_memory",
        |mut network| {
            let cluster = Cluster::start_at(&network.host("api").place(), &[]);
            let runtime = runtime();
            let begin = Instant::now();
            runtime.block_on(async {
                fill(&cluster.admin()).await;
                make_gateways(&cluster).await;
            });
            println!(
                "{NAMESPACES} namespaces, {SERVICES} Services, {PODS} pods, {ROUTES} Routes made in {:?}",
                begin.elapsed()
            );

            let root = Authority::root("mesh");
            let ca = CaDir::mounted(&root.below("countersign", Kind::P256).cacerts(&root.certificate));
            let [ca_flag, ca] = ca.flags();
            let objects = ["--policy-objects", "true", "--standalone-gateway-identity", GATEWAY];
            let flags = [&objects[..], &["--mesh-trust-domain", TRUST_DOMAIN, ca_flag, ca]].concat();
            let begin = Instant::now();
            let mut replica = start_with(&cluster, network.host("a"), &flags);
            replica.wait_until_ready();
            let token = block_on(token_file(&cluster, "gateway"));
            runtime.block_on(async {
                let mut gateway = Gateway::open(&cluster, &replica, Some(&token), "").await.unwrap();
                gateway.until("all Services", |services| services.len() == SERVICES).await;
                let complete = begin.elapsed();
                assert!(gateway.services.values().all(|service| service.identities.len() == PODS / SERVICES));
                let client = cluster.admin();
                let mut latencies = Vec::new();
                for round in 0..ROUNDS {
                    for (value, expected) in [(None, SERVICES - SERVICES / NAMESPACES), (Some("enabled"), SERVICES)] {
                        let begin = Instant::now();
                        label(&client, &namespace(round), "istio-injection", value).await;
                        gateway.until("the label's effect", |services| services.len() == expected).await;
                        latencies.push(begin.elapsed());
                    }
                }
                println!("complete at the gateway after {complete:?} from the start of the process");
                show(latencies);
                if std::env::var_os(ALL_WRITTEN).is_some() {
                    wait_until_all_written(&replica);
                }
                let (now, most) = (memory(replica.process.id(), "VmRSS:"), memory(replica.process.id(), "VmHWM:"));
                println!("resident {now} KiB, at most {most} KiB");
                assert!(complete < COMPLETE, "{complete:?}");
                assert!(now > 4096, "that is not the replica's memory");
                assert!(!is_released() || most < MEMORY_KIB, "{most} KiB");
            });
            replica.stop();
        },
    );
}
