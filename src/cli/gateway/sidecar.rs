//! What the agent adds to the pods of a gateway.

use serde_json::{Value, json};

use super::{Agent, SOCKET};

/// As whom Envoy Gateway runs Envoy. The agent is the same user, or the kubelet would give everybody its token to read.
const USER: u32 = 65532;
/// Of probes and metrics.
const ADMIN_PORT: u16 = 15020;

const SOCKET_VOLUME: &str = "countersign-socket";
const TOKEN_VOLUME: &str = "countersign-token";
const API_VOLUME: &str = "countersign-api";
const ROOTS_VOLUME: &str = "countersign-roots";

/// A strategic merge patch for a gateway's Deployment.
pub(super) fn deployment_patch(agent: &Agent) -> Value {
    json!({ "spec": { "template": {
        // an injected sidecar would take Envoy's connections, and encrypt what is encrypted
        "metadata": { "labels": { "sidecar.istio.io/inject": "false" } },
        "spec": {
            "initContainers": [container(agent)],
            "containers": [{ "name": "envoy", "volumeMounts": [{
                "name": SOCKET_VOLUME, "mountPath": socket_folder(), "readOnly": true,
            }] }],
            "volumes": volumes(agent),
        },
    } } })
}

/// A native sidecar: Envoy waits until its socket is there, since without it Envoy would listen on nothing for 15 s.
fn container(agent: &Agent) -> Value {
    json!({
        "name": "countersign-agent",
        "image": agent.image.to_string(),
        "args": arguments(agent),
        "restartPolicy": "Always",
        "ports": [{ "name": "countersign", "containerPort": ADMIN_PORT, "protocol": "TCP" }],
        // answers once the socket accepts, be there an SVID or not: other routes don't wait for one
        "startupProbe": {
            "httpGet": { "path": "/livez", "port": ADMIN_PORT }, "periodSeconds": 1, "failureThreshold": 60,
        },
        "resources": {
            "requests": { "cpu": "10m", "memory": "16Mi" }, "limits": { "memory": "64Mi" },
        },
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": { "drop": ["ALL"] },
            "readOnlyRootFilesystem": true,
            "runAsGroup": USER, "runAsNonRoot": true, "runAsUser": USER,
            "seccompProfile": { "type": "RuntimeDefault" },
        },
        "volumeMounts": [
            { "name": SOCKET_VOLUME, "mountPath": socket_folder() },
            { "name": TOKEN_VOLUME, "mountPath": "/var/run/secrets/tokens", "readOnly": true },
            { "name": API_VOLUME, "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount", "readOnly": true },
            { "name": ROOTS_VOLUME, "mountPath": "/var/run/secrets/istio", "readOnly": true },
        ],
    })
}

fn arguments(agent: &Agent) -> Vec<String> {
    let mut arguments = vec![
        "agent".to_owned(),
        format!("--trust-domain={}", agent.trust_domain),
        format!("--socket={SOCKET}"),
        format!("--root-config-map={}", agent.root_config_map),
        format!("--admin-listen={}:{ADMIN_PORT}", agent.listen_address),
        "--log-format=json".to_owned(),
    ];
    arguments.extend(agent.ca_addresses.iter().map(|address| format!("--ca-address={address}")));
    arguments.extend(agent.ca_identities.iter().map(|id| format!("--ca-identity={id}")));
    arguments.extend(agent.policy_addresses.iter().map(|address| format!("--policy-address={address}")));
    arguments
}

/// The pods of gateways have no token of the API server mounted; the agent alone gets one, for the ConfigMap that it watches.
fn volumes(agent: &Agent) -> Value {
    json!([
        { "name": SOCKET_VOLUME, "emptyDir": { "medium": "Memory" } },
        { "name": TOKEN_VOLUME, "projected": { "sources": [
            { "serviceAccountToken": { "path": "istio-token", "audience": "istio-ca", "expirationSeconds": 43200 } },
        ] } },
        { "name": API_VOLUME, "projected": { "sources": [
            { "serviceAccountToken": { "path": "token", "expirationSeconds": 3607 } },
            { "configMap": { "name": "kube-root-ca.crt", "items": [{ "key": "ca.crt", "path": "ca.crt" }] } },
            { "downwardAPI": { "items": [{
                "path": "namespace", "fieldRef": { "apiVersion": "v1", "fieldPath": "metadata.namespace" },
            }] } },
        ] } },
        // before the mesh is there, there is no such ConfigMap, and pods must start all the same
        { "name": ROOTS_VOLUME, "configMap": { "name": agent.root_config_map.to_string(), "optional": true } },
    ])
}

fn socket_folder() -> &'static str {
    SOCKET.rsplit_once('/').map_or("/", |(folder, _)| folder)
}
