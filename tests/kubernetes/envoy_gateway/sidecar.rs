//! What `countersign render gateway` prints, judged by the API server and by Envoy Gateway.

use std::time::Duration;

use kube::api::{PatchParams, ValidationDirective};
use serde_json::Value;

use super::{adding, controller, deployment, kubelet, render};
use crate::{
    cluster::{Cluster, block_on},
    network::in_own_network,
    support::wait::wait_until,
};

const SOON: Duration = Duration::from_secs(20);

const OWN_PROXY: &str = "
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: EnvoyProxy
metadata: {name: own, namespace: gw}
spec:
  provider: {type: Kubernetes, kubernetes: {envoyDeployment: {replicas: 3}}}
";
const PATCHED_PROXY: &str = "
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: EnvoyProxy
metadata: {name: patched, namespace: gw}
spec:
  provider: {type: Kubernetes, kubernetes: {envoyDeployment: {patch: {type: StrategicMerge, value: {spec: {template: {spec: {
    volumes: [{name: mine, emptyDir: {}}]}}}}}}}}
";

#[test]
fn envoy_gateway_runs_the_agent_beside_envoy_as_rendered() {
    in_own_network("envoy_gateway::sidecar::envoy_gateway_runs_the_agent_beside_envoy_as_rendered", |mut network| {
        let (cluster, controller) = controller(&mut network);
        let rendered = render(&[]);
        block_on(async {
            let mut strictly = PatchParams::apply("somebody").dry_run();
            strictly.field_validation = Some(ValidationDirective::Strict);
            for text in std::iter::once(&rendered.documents).chain(&rendered.additions) {
                cluster.apply_with(text, &strictly).await.unwrap();
            }
            rendered.apply(&cluster).await;
        });
        let written = deployment(&cluster);
        check(&serde_json::to_value(&written).unwrap());
        let account = kubelet::template(&written).1.service_account_name.unwrap();
        assert!(rendered.identity.ends_with(&format!("/ns/{}/sa/{account}", controller::NAMESPACE)), "{account}");

        adds_to_an_own_one(&cluster);
        drop(controller);
    });
}

fn check(deployment: &Value) {
    let at = |path: &str| deployment.pointer(&format!("/spec/template{path}")).cloned().unwrap_or_default();
    assert_eq!(at("/metadata/labels/sidecar.istio.io~1inject"), "false");
    assert_eq!(at("/spec/initContainers/0/restartPolicy"), "Always");
    assert_eq!(at("/spec/initContainers/0/startupProbe/httpGet/path"), "/livez");
    let named = |list: Value, name: &str| -> Value {
        let found = list.as_array().unwrap().iter().find(|item| item["name"] == name).cloned();
        found.unwrap_or_else(|| panic!("no {name} in {list}"))
    };
    let envoy = named(at("/spec/containers"), "envoy");
    let agent = named(at("/spec/initContainers"), "countersign-agent");
    let volume = named(at("/spec/volumes"), "countersign-socket");
    assert_eq!(volume["emptyDir"]["medium"], "Memory");
    let mount = |container: &Value| named(container["volumeMounts"].clone(), "countersign-socket")["mountPath"].clone();
    assert_eq!((mount(&envoy), mount(&agent)), ("/var/run/countersign".into(), "/var/run/countersign".into()));
    // what Envoy Gateway mounts itself is still there
    assert!(envoy["volumeMounts"].as_array().unwrap().iter().any(|mount| mount["mountPath"] == "/certs"), "{envoy}");
    // its socket and its token are for the user that Envoy is
    assert_eq!(agent["securityContext"]["runAsUser"], envoy["securityContext"]["runAsUser"]);
    let token = named(at("/spec/volumes"), "countersign-token");
    assert_eq!(token["projected"]["sources"][0]["serviceAccountToken"]["audience"], "istio-ca");
    assert_eq!(at("/spec/automountServiceAccountToken"), false);
}

/// Nothing of the user's is lost, and what the user has patched already is left to the user.
fn adds_to_an_own_one(cluster: &Cluster) {
    block_on(async {
        cluster.apply(OWN_PROXY).await;
        cluster.apply(PATCHED_PROXY).await;
        render(&["--envoy-proxy", "own"]).apply(cluster).await;
    });
    wait_until(SOON, "the user's three replicas beside the agent", || {
        match deployment(cluster).spec.unwrap().replicas {
            Some(3) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    let patched = render(&["--envoy-proxy", "patched"]);
    let refused = block_on(cluster.apply_with(&patched.additions[0], &adding())).unwrap_err();
    assert!(refused.contains("conflict") && refused.contains("volumes"), "{refused}");
}
