//! Of a Service whose Gateway goes by a BackendTLSPolicy alone a replica says that its policy is in force only once it has itself seen a
//! pod speak mutual TLS as it should. The pod is a sidecar's stand-in; the Gateway's controller and the kubelet are the test's.

use std::{cell::RefCell, net::Ipv4Addr, time::Duration};

use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams},
};
use serde_json::{Value, json};

use super::{LATER, POLICY, Stage, install_kinds, objects};
use crate::{
    cluster::block_on,
    envoy_gateway::backend::{App, Backend, Class, Mode},
    network::in_own_network,
    policy_objects::objects::{SERVICE, TEAM},
    support::{countersign::countersign, http, peer::peer_file, wait::wait_until},
};

/// A probe that failed is made again within 16 s, whatever happens.
const EFFECT: Duration = Duration::from_secs(20);

const ROUTE: &str = r#"
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: backend, namespace: test-infra}
spec:
  parentRefs: [{name: other, namespace: gw}]
  rules: [{backendRefs: [{name: backend, port: 8080}]}]
"#;

/// Of a user, for the port that the Route leads to.
const FOR_ITS_PORT: &str = r#"
apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata: {name: mine, namespace: test-infra}
spec:
  targetRefs: [{group: "", kind: Service, name: backend, sectionName: http}]
  validation: {hostname: backend.example.test, wellKnownCACertificates: System}
"#;

#[test]
fn a_policy_is_in_force_once_gateways_have_taken_it_and_a_pod_was_seen_to_speak_mutual_tls() {
    in_own_network(
        "policy_objects::probes::a_policy_is_in_force_once_gateways_have_taken_it_and_a_pod_was_seen_to_speak_mutual_tls",
        |mut network| {
            let host = RefCell::new(Some(network.host("pod")));
            let ip = host.borrow().as_ref().unwrap().address();
            let stage = Stage::start(network, &["a"], |cluster| {
                block_on(async {
                    install_kinds(cluster).await;
                    cluster.apply_file(&peer_file("istio-crds.yaml")).await;
                    objects::make_team(cluster).await;
                    objects::wait_until_served(cluster, &[peers()]).await;
                    objects::label(&cluster.admin(), Some("enabled")).await;
                    cluster.namespace_named("gw", &[]).await;
                    cluster.apply(objects::OTHER_GATEWAY).await;
                    cluster.apply(ROUTE).await;
                });
            });
            stage.replicas[0].wait_until_active(LATER);
            let logs = stage.cluster.folder().to_owned();
            let start = |account: &str, mode: Mode| {
                let host = host.borrow_mut().take().expect("one at a time");
                Backend::start("one", host, &logs, &stage.root, (TEAM, account), (mode, Class::Http, App::Itself))
            };

            until(&stage, "do not say that they have accepted");
            stage.on(accept(&stage));
            until(&stage, "has no ready pod");
            let backend = start("v1", Mode::NoSidecar);
            stage.on(set_ready(&stage, ip, true));
            until(
                &stage,
                "error NotEnforced: a connection to port 8080 of pod one is answered with something else than TLS",
            );
            backend.set(Mode::Permissive);
            until(&stage, "less than a minute ago");
            // sidecars that refuse plaintext have taken none
            stage.on(set_mode(&stage, "STRICT"));
            backend.set(Mode::Strict);
            until(&stage, "notice Enforced: all Gateways that lead to it (1)");
            somebody_else_sees_to_a_port(&stage);

            *host.borrow_mut() = Some(backend.stop());
            let stranger = start("another", Mode::Strict);
            stage.on(touch(&stage));
            until(&stage, "leads to spiffe://gateways.test/ns/test-infra/sa/another, which is none of");
            *host.borrow_mut() = Some(stranger.stop());
            until(&stage, "warning NotEnforced: a connection to port 8080 of pod one can't be made");
            let _backend = start("v1", Mode::Strict);
            until(&stage, "notice Enforced");
            stage.on(set_ready(&stage, ip, false));
            until(&stage, "has no ready pod");

            let page = http::get(stage.replicas[0].admin(), "/metrics").unwrap();
            for outcome in ["mutual", "no_tls", "stranger", "unreachable"] {
                let line = format!("countersign_policy_probes_total{{outcome=\"{outcome}\"}} ");
                let count = page.lines().find_map(|one| one.strip_prefix(&line)).unwrap_or_default();
                assert!(count.parse::<u64>().unwrap() > 0, "{outcome}: {page}");
            }
            stage.check_nothing_was_refused();
        },
    );
}

fn somebody_else_sees_to_a_port(stage: &Stage) {
    stage.on(stage.cluster.apply(FOR_ITS_PORT));
    until(stage, "warning NotEnforced: somebody else's BackendTLSPolicy (Conflicted) is for its port http");
    stage.on(async {
        let policies = objects::policies(&stage.client(), TEAM);
        policies.delete("mine", &DeleteParams::default()).await.map(drop).unwrap();
    });
    until(stage, "notice Enforced");
}

fn said(stage: &Stage) -> String {
    let subject = format!("{TEAM}/{SERVICE}");
    let mut command = countersign();
    command.args(["policy", "explain", &subject, "-o", "json", "--data-dir"]).arg(stage.replicas[0].data());
    let output = command.output().unwrap();
    let all: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let conditions = all["services"][0]["conditions"].as_array().cloned().unwrap_or_default();
    let text = |condition: &Value, key: &str| condition[key].as_str().unwrap_or_default().to_owned();
    let ours = conditions.iter().find(|condition| text(condition, "reason").ends_with("Enforced"));
    ours.map_or_else(
        || format!("{} {}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)),
        |one| format!("{} {}: {}", text(one, "severity"), text(one, "reason"), text(one, "message")),
    )
}

fn until(stage: &Stage, text: &str) {
    wait_until(EFFECT, text, || {
        let said = said(stage);
        if said.contains(text) { Ok(()) } else { Err(said) }
    });
}

/// As a controller says it.
async fn accept(stage: &Stage) {
    let client = stage.client();
    let policy = objects::get(&client, TEAM, POLICY).await.unwrap();
    let status = Patch::Merge(json!({ "status": { "ancestors": [{
        "ancestorRef": { "group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "other", "namespace": "gw" },
        "controllerName": "kgateway.dev/kgateway",
        "conditions": [{
            "type": "Accepted", "status": "True", "reason": "Accepted", "message": "",
            "observedGeneration": policy.metadata.generation, "lastTransitionTime": "2026-11-27T10:00:00Z",
        }],
    }] } }));
    objects::policies(&client, TEAM).patch_status(POLICY, &PatchParams::default(), &status).await.unwrap();
}

/// As a kubelet says it.
async fn set_ready(stage: &Stage, ip: Ipv4Addr, ready: bool) {
    let status = if ready { "True" } else { "False" };
    let status = Patch::Strategic(json!({ "status": {
        "phase": "Running", "podIP": ip, "podIPs": [{ "ip": ip }],
        "conditions": [{ "type": "Ready", "status": status }],
    } }));
    Api::<Pod>::namespaced(stage.client(), TEAM).patch_status("one", &PatchParams::default(), &status).await.unwrap();
}

/// A change of the pod that a replica sees.
async fn touch(stage: &Stage) {
    let change = Patch::Merge(json!({ "metadata": { "labels": { "touched": "yes" } } }));
    Api::<Pod>::namespaced(stage.client(), TEAM).patch("one", &PatchParams::default(), &change).await.unwrap();
}

fn peers() -> ApiResource {
    objects::kind("security.istio.io", "v1", "PeerAuthentication", "peerauthentications")
}

async fn set_mode(stage: &Stage, mode: &str) {
    let object = json!({
        "apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication",
        "metadata": { "name": "default" }, "spec": { "mtls": { "mode": mode } },
    });
    let api: Api<DynamicObject> = Api::namespaced_with(stage.client(), TEAM, &peers());
    api.patch("default", &PatchParams::apply("test").force(), &Patch::Apply(object)).await.unwrap();
}
