//! Objects of a cluster with gateways, as users and controllers make them.

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret, Service};
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};

use crate::cluster::Cluster;

pub(crate) const GATEWAY_API: &str = "gateway.networking.k8s.io";
pub(crate) const TEAM: &str = "test-infra";
pub(super) const SERVICE: &str = "backend";

pub(crate) fn kind(group: &str, version: &str, kind: &str, plural: &str) -> ApiResource {
    ApiResource {
        group: group.to_owned(),
        version: version.to_owned(),
        api_version: format!("{group}/{version}"),
        kind: kind.to_owned(),
        plural: plural.to_owned(),
    }
}

pub(super) fn policies(client: &Client, namespace: &str) -> Api<DynamicObject> {
    let policy = kind(GATEWAY_API, "v1", "BackendTLSPolicy", "backendtlspolicies");
    Api::namespaced_with(client.clone(), namespace, &policy)
}

pub(crate) async fn get(client: &Client, namespace: &str, name: &str) -> Option<DynamicObject> {
    policies(client, namespace).get_opt(name).await.ok().flatten()
}

pub(super) async fn secret(client: &Client, namespace: &str, name: &str) -> Option<Secret> {
    Api::namespaced(client.clone(), namespace).get_opt(name).await.unwrap()
}

pub(crate) async fn roots(client: &Client, namespace: &str) -> Option<ConfigMap> {
    Api::namespaced(client.clone(), namespace).get_opt("countersign-mesh-ca").await.unwrap()
}

/// Merges into a policy, as `kubectl edit` does.
pub(super) async fn edit(client: &Client, name: &str, change: &Value) {
    let params = PatchParams { field_manager: Some("kubectl-edit".to_owned()), ..PatchParams::default() };
    policies(client, TEAM).patch(name, &params, &Patch::Merge(change)).await.unwrap();
}

pub(crate) async fn label(client: &Client, value: Option<&str>) {
    let patch = Patch::Merge(json!({ "metadata": { "labels": { "istio-injection": value } } }));
    Api::<Namespace>::all(client.clone()).patch(TEAM, &PatchParams::default(), &patch).await.unwrap();
}

pub(super) async fn service_uid(client: &Client, name: &str) -> String {
    Api::<Service>::namespaced(client.clone(), TEAM).get(name).await.unwrap().metadata.uid.unwrap()
}

pub(super) async fn wait_until_served(cluster: &Cluster, kinds: &[ApiResource]) {
    let begin = std::time::Instant::now();
    for kind in kinds {
        let api: Api<DynamicObject> = Api::all_with(cluster.admin(), kind);
        while let Err(error) = api.list(&ListParams::default().limit(1)).await {
            assert!(begin.elapsed() < super::LATER, "{}: {error}", kind.plural);
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }
}

/// Envoy Gateway as it is installed, with SDS Secrets enabled, and a Gateway with an agent, as `countersign render gateway` has it,
/// which takes Routes from everywhere.
pub(crate) async fn make_envoy_gateway(cluster: &Cluster) {
    cluster.apply(ENVOY_GATEWAY).await;
    cluster.apply(GATEWAY).await;
}

/// A namespace with a Service of two ports and a pod with a sidecar behind it.
pub(crate) async fn make_team(cluster: &Cluster) {
    cluster.namespace_named(TEAM, &[]).await;
    cluster.apply(&service(SERVICE)).await;
    cluster.apply(&pod("one", SERVICE, "v1")).await;
}

pub(super) fn service(name: &str) -> String {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": name, "namespace": TEAM },
        "spec": { "clusterIP": "None", "selector": { "app": name }, "ports": [{ "name": "http", "port": 8080 }] },
    })
    .to_string()
}

pub(super) fn pod(name: &str, app: &str, account: &str) -> String {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": name, "namespace": TEAM, "labels": { "app": app }, "annotations": { "sidecar.istio.io/status": "{}" },
        },
        "spec": { "serviceAccountName": account, "containers": [{ "name": "main", "image": "none" }] },
    })
    .to_string()
}

/// A user's own policy.
/// An SDS Secret that somebody has made.
pub(super) fn foreign_secret(name: &str) -> String {
    json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": { "name": name, "namespace": TEAM },
        "type": "gateway.envoyproxy.io/sds", "data": { "url": "L2Vsc2V3aGVyZQ==", "secretName": "dGhlaXJz" },
    })
    .to_string()
}

/// The same with its values as text, of which nobody is said to be the owner.
pub(super) fn foreign_text_secret(name: &str) -> String {
    json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": { "name": name, "namespace": TEAM },
        "type": "gateway.envoyproxy.io/sds", "stringData": { "url": "/elsewhere", "secretName": "theirs" },
    })
    .to_string()
}

pub(super) fn foreign_policy(name: &str, service: &str) -> String {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "BackendTLSPolicy",
        "metadata": { "name": name, "namespace": TEAM },
        "spec": {
            "targetRefs": [{ "group": "", "kind": "Service", "name": service }],
            "validation": { "hostname": "backend.example.test", "wellKnownCACertificates": "System" },
        },
    })
    .to_string()
}

const ENVOY_GATEWAY: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: envoy-gateway-system}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: envoy-gateway-config, namespace: envoy-gateway-system}
data:
  envoy-gateway.yaml: |
    apiVersion: gateway.envoyproxy.io/v1alpha1
    kind: EnvoyGateway
    extensionApis:
      enableSDSSecretRef: true
---
apiVersion: v1
kind: Pod
metadata:
  name: envoy-gateway-0
  namespace: envoy-gateway-system
  labels: {control-plane: envoy-gateway}
spec:
  serviceAccountName: envoy-gateway
  containers: [{name: envoy-gateway, image: "envoyproxy/gateway:v1.9.1"}]
"#;

const GATEWAY: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: gw}
---
apiVersion: v1
kind: Secret
type: gateway.envoyproxy.io/sds
metadata: {name: countersign-svid, namespace: gw}
stringData: {url: "unix:///var/run/countersign/workload.sock", secretName: default}
---
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: EnvoyProxy
metadata: {name: countersign, namespace: gw}
spec:
  backendTLS:
    clientCertificateRef: {group: "", kind: Secret, name: countersign-svid}
    alpnProtocols: [istio-http/1.1, istio]
  provider:
    type: Kubernetes
    kubernetes:
      envoyDeployment:
        patch:
          type: StrategicMerge
          value:
            spec:
              template:
                spec:
                  containers:
                    - name: envoy
                      volumeMounts: [{name: countersign-socket, mountPath: /var/run/countersign}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: eg}
spec: {controllerName: gateway.envoyproxy.io/gatewayclass-controller}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: gw, namespace: gw}
spec:
  gatewayClassName: eg
  infrastructure:
    parametersRef: {group: gateway.envoyproxy.io, kind: EnvoyProxy, name: countersign}
  listeners:
    - name: http
      protocol: HTTP
      port: 80
      allowedRoutes: {namespaces: {from: All}}
"#;

/// Another controller's Gateway, which can verify identities but knows no SDS.
pub(crate) const OTHER_GATEWAY: &str = r#"
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: kgateway}
spec: {controllerName: kgateway.dev/kgateway}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: other, namespace: gw}
spec:
  gatewayClassName: kgateway
  tls: {backend: {clientCertificateRef: {group: "", kind: Secret, name: client}}}
  listeners:
    - name: http
      protocol: HTTP
      port: 80
      allowedRoutes: {namespaces: {from: All}}
"#;
