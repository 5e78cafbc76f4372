//! Envoy Gateway's own kinds, its configuration, and the SDS Secrets that stand for gateways' certificates.

use std::convert::Infallible;

use k8s_openapi::ByteString;
use kube::Client;
use serde::{Deserialize, de::IgnoredAny};
use serde_json::Value;

use super::{
    Metadata, OPTIONAL, Object, RIGHTS, Reference, Source, Tell, attached_policies::upstreams, change_of, follow_kind,
};
use crate::{
    domain::policy::{
        Change, EnvoyBackendFacts, EnvoyGatewaySettings, EnvoyProxyFacts, EnvoyWorkload, GatewayChange, ProxyMerge,
        SdsSecretFacts,
    },
    k8s::{
        list_watch::{Trimmed, follow},
        policy_objects::SDS_TYPE,
    },
};

const PROXIES: Source<'_> = Source {
    paths: &["/apis/gateway.envoyproxy.io/v1alpha1/envoyproxies"],
    event: "envoy_proxies_not_watched",
    ..OPTIONAL
};
const BACKENDS: Source<'_> = Source {
    paths: &["/apis/gateway.envoyproxy.io/v1alpha1/backends"],
    event: "envoy_backends_not_watched",
    ..OPTIONAL
};
/// Of one name, as `countersign render gateway` has it: RBAC can limit the right to see Secrets to a name, not to a type.
const SDS_SECRETS: Source<'_> = Source {
    paths: &["/api/v1/secrets"],
    fields: "metadata.name=countersign-svid",
    event: "sds_secrets_not_watched",
    rights: RIGHTS,
    ..Source::ANY
};
/// Of one object.
const SETTINGS: Source<'_> = Source {
    fields: "metadata.name=envoy-gateway-config",
    event: "envoy_gateway_settings_not_watched",
    rights: RIGHTS,
    ..Source::ANY
};
/// Where the agent's socket is in the pods of a gateway.
const SOCKET_FOLDER: &str = "/var/run/countersign";

/// Tells of EnvoyProxies, for ever.
pub async fn follow_envoy_proxies(client: &Client, tell: Tell<'_>) -> Infallible {
    let read = |proxy: &Object<ProxySpec>| Some(proxy_facts(proxy));
    let key = |facts: EnvoyProxyFacts| facts.object;
    follow_kind(client, PROXIES, read, key, |change| tell(GatewayChange::EnvoyProxies(change))).await
}

/// Tells of Backends, for ever.
pub async fn follow_envoy_backends(client: &Client, tell: Tell<'_>) -> Infallible {
    let read = |backend: &Object<BackendSpec>| Some(backend_facts(backend));
    let key = |facts: EnvoyBackendFacts| facts.object;
    follow_kind(client, BACKENDS, read, key, |change| tell(GatewayChange::EnvoyBackends(change))).await
}

/// Tells of SDS Secrets, for ever.
pub async fn follow_sds_secrets(client: &Client, tell: Tell<'_>) -> Infallible {
    let key = |facts: SdsSecretFacts| facts.object;
    follow_kind(client, SDS_SECRETS, secret_facts, key, |change| tell(GatewayChange::SdsSecrets(change))).await
}

/// Tells how the Envoy Gateway in a namespace is set up, for ever.
pub async fn follow_envoy_gateway_settings(client: &Client, namespace: &str, tell: Tell<'_>) -> Infallible {
    let path = format!("/api/v1/namespaces/{namespace}/configmaps");
    let read = |found: &ConfigMap| Some((found.metadata.object(), sds_enabled(found)));
    let mut last = None;
    let hear = |heard| {
        let sds_enabled = match change_of(heard, |(object, _)| object) {
            None => return,
            Some(Change::Reset(all)) => all.first().and_then(|(_, enabled)| *enabled),
            Some(Change::Put((_, enabled))) => enabled,
            Some(Change::Gone(_)) => None,
        };
        last = sds_enabled.or(last);
        tell(GatewayChange::Settings(EnvoyGatewaySettings { sds_enabled: last }));
    };
    follow(client, Source { paths: &[&path], ..SETTINGS }, read, hear).await
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ProxySpec {
    provider: Provider,
    #[serde(rename = "backendTLS")]
    backend_tls: ProxyTls,
    telemetry: Value,
    merge_type: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ProxyTls {
    client_certificate_ref: Option<Reference>,
    alpn_protocols: Vec<Box<str>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Provider {
    kubernetes: OnKubernetes,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct OnKubernetes {
    envoy_deployment: Option<Workload>,
    envoy_daemon_set: Option<Workload>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Workload {
    container: MountingContainer,
    patch: Patch,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct MountingContainer {
    volume_mounts: Vec<Mount>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Mount {
    mount_path: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Patch {
    /// Part of a Deployment, or of a DaemonSet.
    value: Value,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct BackendSpec {
    tls: Option<BackendTls>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct BackendTls {
    client_certificate_ref: Option<IgnoredAny>,
}

#[derive(Clone, Debug, Deserialize)]
struct Secret {
    metadata: Metadata,
    #[serde(default, rename = "type")]
    kind: String,
    #[serde(default)]
    data: SecretData,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct SecretData {
    url: Option<ByteString>,
    secret_name: Option<ByteString>,
}

#[derive(Clone, Debug, Deserialize)]
struct ConfigMap {
    metadata: Metadata,
    #[serde(default)]
    data: ConfigMapData,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct ConfigMapData {
    #[serde(rename = "envoy-gateway.yaml")]
    configuration: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Configuration {
    extension_apis: Option<ExtensionApis>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ExtensionApis {
    #[serde(rename = "enableSDSSecretRef")]
    enable_sds_secret_ref: bool,
}

impl Trimmed for Secret {
    fn version(&self) -> &str {
        &self.metadata.resource_version
    }
}

impl Trimmed for ConfigMap {
    fn version(&self) -> &str {
        &self.metadata.resource_version
    }
}

fn proxy_facts(proxy: &Object<ProxySpec>) -> EnvoyProxyFacts {
    let ProxySpec { provider, backend_tls, telemetry, merge_type } = &proxy.spec;
    let OnKubernetes { envoy_deployment, envoy_daemon_set } = &provider.kubernetes;
    let client = backend_tls.client_certificate_ref.as_ref();
    let secret = client.filter(|reference| reference.is("", "Secret", "", "Secret"));
    EnvoyProxyFacts {
        object: proxy.metadata.object(),
        client_certificate: secret.map(|reference| reference.name.as_str().into()),
        alpn: backend_tls.alpn_protocols.clone().into(),
        deployment: envoy_deployment.as_ref().map(workload_facts),
        daemon_set: envoy_daemon_set.as_ref().map(workload_facts),
        telemetry: upstreams(telemetry, &proxy.metadata.namespace),
        merge: match merge_type.as_deref() {
            Some("StrategicMerge") => Some(ProxyMerge::Strategic),
            Some("JSONMerge") => Some(ProxyMerge::Json),
            _ => None,
        },
    }
}

fn workload_facts(workload: &Workload) -> EnvoyWorkload {
    let mounts = &workload.container.volume_mounts;
    let patch = &workload.patch.value;
    let objects = patch.as_object().into_iter().flatten().filter(|(_, value)| value.is_object());
    EnvoyWorkload {
        mounts: (!mounts.is_empty()).then(|| mounts.iter().any(|mount| is_socket_folder(&mount.mount_path))),
        patched: patched_containers(patch).map(sees_socket),
        parts: objects.map(|(name, _)| name.as_str().into()).collect(),
    }
}

/// The containers of a patch; what takes away the place where they would be has none, `null` for one.
fn patched_containers(patch: &Value) -> Option<&[Value]> {
    let mut at = Some(patch).filter(|patch| patch.is_object())?;
    for field in ["spec", "template", "spec", "containers"] {
        let Some(fields) = at.as_object() else { return Some(&[]) };
        at = fields.get(field)?;
    }
    Some(at.as_array().map_or(&[], Vec::as_slice))
}

/// Whether Envoy's container mounts the folder of the socket.
fn sees_socket(containers: &[Value]) -> bool {
    let envoy = containers.iter().filter(|container| container.get("name").is_some_and(|name| name == "envoy"));
    let mut mounts = envoy.filter_map(|container| container.get("volumeMounts")?.as_array()).flatten();
    mounts.any(|mount| mount.get("mountPath").and_then(Value::as_str).is_some_and(is_socket_folder))
}

fn is_socket_folder(path: &str) -> bool {
    path.trim_end_matches('/') == SOCKET_FOLDER
}

fn backend_facts(backend: &Object<BackendSpec>) -> EnvoyBackendFacts {
    let tls = backend.spec.tls.as_ref();
    EnvoyBackendFacts {
        object: backend.metadata.object(),
        is_tls: tls.is_some(),
        has_client_certificate: tls.is_some_and(|tls| tls.client_certificate_ref.is_some()),
    }
}

fn secret_facts(secret: &Secret) -> Option<SdsSecretFacts> {
    let text = |value: &Option<ByteString>| -> Box<str> {
        value.as_ref().and_then(|value| std::str::from_utf8(&value.0).ok()).unwrap_or_default().into()
    };
    (secret.kind == SDS_TYPE).then(|| SdsSecretFacts {
        object: secret.metadata.object(),
        resource: text(&secret.data.secret_name),
        url: text(&secret.data.url),
    })
}

/// `None` if it can't be read.
fn sds_enabled(found: &ConfigMap) -> Option<bool> {
    let configuration: Configuration = serde_yaml_ng::from_str(found.data.configuration.as_deref()?).ok()?;
    Some(configuration.extension_apis.is_some_and(|apis| apis.enable_sds_secret_ref))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxy(spec: &str) -> EnvoyProxyFacts {
        let json = format!(r#"{{"metadata": {{"name": "ep", "namespace": "n"}}, "spec": {spec}}}"#);
        proxy_facts(&serde_json::from_str(&json).unwrap())
    }

    #[test]
    fn an_envoy_proxy_says_its_certificate_its_alpn_and_whether_envoy_sees_the_agent() {
        let facts = proxy(
            r#"{"backendTLS": {"clientCertificateRef": {"group": "", "kind": "Secret", "name": "countersign-svid"},
            "alpnProtocols": ["istio-http/1.1", "istio"]}, "provider": {"type": "Kubernetes", "kubernetes": {"envoyDeployment":
            {"patch": {"type": "StrategicMerge", "value": {"spec": {"template": {"spec": {"initContainers": [{"name": "countersign-agent"}],
            "containers": [{"name": "envoy", "volumeMounts": [{"name": "s", "mountPath": "/var/run/countersign"}]}]}}}}}}}}}"#,
        );
        assert_eq!(facts.client_certificate.as_deref(), Some("countersign-svid"));
        assert_eq!(*facts.alpn, ["istio-http/1.1".into(), "istio".into()]);
        let parts = || ["spec".into()].into();
        assert_eq!(facts.deployment, Some(EnvoyWorkload { mounts: None, patched: Some(true), parts: parts() }));
        assert_eq!((facts.daemon_set, facts.merge), (None, None));
        let elsewhere = proxy(
            r#"{"provider": {"kubernetes": {"envoyDeployment": {"patch": {"value": {"spec": {"template": {"spec":
            {"containers": [{"name": "other", "volumeMounts": [{"mountPath": "/var/run/countersign"}]}]}}}}}}}}}"#,
        );
        assert_eq!(elsewhere.deployment, Some(EnvoyWorkload { mounts: None, patched: Some(false), parts: parts() }));
        assert!(elsewhere.client_certificate.is_none() && elsewhere.alpn.is_empty());
        let by_field = proxy(
            r#"{"provider": {"kubernetes": {"envoyDaemonSet": {"container":
            {"volumeMounts": [{"name": "s", "mountPath": "/var/run/countersign/"}]}}}}}"#,
        );
        assert_eq!(by_field.daemon_set, Some(EnvoyWorkload { mounts: Some(true), ..EnvoyWorkload::default() }));
    }

    #[test]
    fn an_envoy_proxy_says_how_it_is_merged_and_what_of_the_other_one_it_leaves() {
        for (said, expected) in [
            ("null", None),
            (r#""Replace""#, None),
            (r#""StrategicMerge""#, Some(ProxyMerge::Strategic)),
            (r#""JSONMerge""#, Some(ProxyMerge::Json)),
        ] {
            assert_eq!(proxy(&format!(r#"{{"mergeType": {said}}}"#)).merge, expected, "{said}");
        }
        for (deployment, mounts, patched, parts) in [
            (r#"{"replicas": 2}"#, None, None, ""),
            (r#"{"container": {"volumeMounts": []}}"#, None, None, ""),
            (r#"{"container": {"volumeMounts": [{"mountPath": "/tmp"}]}}"#, Some(false), None, ""),
            (r#"{"patch": {"value": {"metadata": {}, "kind": "Deployment"}}}"#, None, None, "metadata"),
            (r#"{"patch": {"value": {"spec": {"template": {"spec": {"volumes": []}}}}}}"#, None, None, "spec"),
            (
                r#"{"patch": {"value": {"spec": {"template": {"spec": {"containers": null}}}}}}"#,
                None,
                Some(false),
                "spec",
            ),
            (r#"{"patch": {"value": {"spec": {"template": null}}}}"#, None, Some(false), "spec"),
        ] {
            let facts = proxy(&format!(r#"{{"provider": {{"kubernetes": {{"envoyDeployment": {deployment}}}}}}}"#));
            let parts = parts.split_whitespace().map(Into::into).collect();
            assert_eq!(facts.deployment, Some(EnvoyWorkload { mounts, patched, parts }), "{deployment}");
        }
    }

    #[test]
    fn a_backend_says_whether_it_has_tls_and_a_certificate_of_its_own() {
        let facts = |spec: &str| {
            let json = format!(r#"{{"metadata": {{"name": "b", "namespace": "n"}}, "spec": {spec}}}"#);
            let facts = backend_facts(&serde_json::from_str(&json).unwrap());
            (facts.is_tls, facts.has_client_certificate)
        };
        assert_eq!(facts("{}"), (false, false));
        assert_eq!(facts(r#"{"tls": {"sni": "a.test"}}"#), (true, false));
        assert_eq!(facts(r#"{"tls": {"clientCertificateRef": {"name": "own"}}}"#), (true, true));
    }

    #[test]
    fn only_an_sds_secret_counts() {
        let facts = |kind: &str| {
            let json = format!(
                r#"{{"metadata": {{"name": "s", "namespace": "n"}}, "type": "{kind}", "data": {{"secretName": "ZGVmYXVsdA==", "url": "eA=="}}}}"#
            );
            secret_facts(&serde_json::from_str(&json).unwrap())
        };
        let sds = facts(SDS_TYPE).unwrap();
        assert_eq!((&*sds.resource, &*sds.url), ("default", "x"));
        assert_eq!(facts("Opaque"), None);
    }

    #[test]
    fn envoy_gateways_configuration_says_whether_it_takes_sds_secrets() {
        let enabled = |text: &str| {
            let data = ConfigMapData { configuration: Some(text.to_owned()) };
            sds_enabled(&ConfigMap { metadata: Metadata::default(), data })
        };
        assert_eq!(enabled("kind: EnvoyGateway\nextensionApis:\n  enableSDSSecretRef: true\n"), Some(true));
        assert_eq!(enabled("kind: EnvoyGateway\nextensionApis: {}\n"), Some(false));
        assert_eq!(enabled("kind: EnvoyGateway\nextensionApis:\nprovider: {type: Kubernetes}\n"), Some(false));
        assert_eq!(enabled("a: [\n"), None);
    }
}
