//! What policies are worked out from, besides pods: namespaces, Services, and EndpointSlices of those without a selector. Objects
//! are trimmed while they are decoded.

use std::{collections::BTreeMap, convert::Infallible};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Client;
use serde::{Deserialize, de::IgnoredAny};

use super::list_watch::{Heard, Source, Trimmed, follow};
use crate::{
    domain::policy::{
        Backing, Change, ClusterChange, Labels, MeshLabels, NamespaceFacts, ObjectName, PortFacts, RevisionTag,
        ServiceFacts, Sidecar, SliceEndpoint, SliceFacts, TargetPort,
    },
    service::policy_publisher::PolicyPublisher,
};

const RIGHTS: &str = "rbac-policy.yaml";
const NAMESPACES: Source<'_> =
    Source { paths: &["/api/v1/namespaces"], event: "namespaces_not_watched", rights: RIGHTS, ..Source::ANY };
const SERVICES: Source<'_> =
    Source { paths: &["/api/v1/services"], event: "services_not_watched", rights: RIGHTS, ..Source::ANY };
/// Those of Services with a selector are most of all, and say nothing that their pods don't.
const SLICES: Source<'_> = Source {
    paths: &["/apis/discovery.k8s.io/v1/endpointslices"],
    labels: "endpointslice.kubernetes.io/managed-by!=endpointslice-controller.k8s.io",
    event: "endpoint_slices_not_watched",
    rights: RIGHTS,
    ..Source::ANY
};

/// Tells `publisher` of namespaces, for ever. Needs the right to list and watch them.
pub async fn follow_namespaces(client: &Client, publisher: &PolicyPublisher) -> Infallible {
    let read = |namespace: &TrimmedNamespace| Some(namespace_facts(namespace));
    let tell = |heard| tell(publisher, heard, |facts: NamespaceFacts| facts.name, ClusterChange::Namespaces);
    follow(client, NAMESPACES, read, tell).await
}

/// Tells `publisher` of Services, for ever. Needs the right to list and watch them in all namespaces.
pub async fn follow_services(client: &Client, publisher: &PolicyPublisher) -> Infallible {
    let read = |service: &TrimmedService| Some(service_facts(service));
    let tell = |heard| tell(publisher, heard, |facts: ServiceFacts| facts.object, ClusterChange::Services);
    follow(client, SERVICES, read, tell).await
}

/// Tells `publisher` of EndpointSlices, for ever. Needs the right to list and watch them in all namespaces.
pub async fn follow_endpoint_slices(client: &Client, publisher: &PolicyPublisher) -> Infallible {
    let tell = |heard| tell(publisher, heard, |facts: SliceFacts| facts.object, ClusterChange::Slices);
    follow(client, SLICES, |slice| Some(slice_facts(slice)), tell).await
}

pub(super) fn tell<T, K>(
    publisher: &PolicyPublisher,
    heard: Heard<T>,
    key: impl FnOnce(T) -> K,
    of: impl FnOnce(Change<T, K>) -> ClusterChange,
) {
    let change = match heard {
        Heard::Served(_) | Heard::Alive | Heard::Trouble(_) => return,
        Heard::NotServed => Change::Reset(Vec::new()),
        Heard::Listed(all, _) => Change::Reset(all),
        Heard::Put(facts) => Change::Put(facts),
        Heard::Gone(facts) => Change::Gone(key(facts)),
    };
    publisher.apply(of(change));
}

#[derive(Clone, Debug, Deserialize)]
struct TrimmedNamespace {
    metadata: Metadata<BTreeMap<Box<str>, Box<str>>, IgnoredAny>,
}

/// With those labels and annotations that count.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, bound = "L: Default + Deserialize<'de>, A: Default + Deserialize<'de>")]
struct Metadata<L, A> {
    namespace: String,
    name: String,
    uid: Box<str>,
    resource_version: String,
    creation_timestamp: Option<Time>,
    labels: L,
    annotations: A,
}

#[derive(Clone, Debug, Deserialize)]
struct TrimmedService {
    metadata: Metadata<ServiceLabels, ServiceAnnotations>,
    #[serde(default)]
    spec: ServiceSpec,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct ServiceLabels {
    #[serde(rename = "istio.io/tag")]
    tag: Option<Box<str>>,
    #[serde(rename = "istio.io/rev")]
    revision: Option<Box<str>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct ServiceAnnotations {
    /// `domain::policy::OPT_OUT_ANNOTATION`.
    #[serde(rename = "countersign.io/mtls")]
    mtls: Option<Box<str>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct ServiceSpec {
    #[serde(rename = "type")]
    kind: String,
    selector: BTreeMap<String, String>,
    ports: Vec<ServicePort>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ServicePort {
    name: Box<str>,
    port: u16,
    protocol: Option<String>,
    app_protocol: Option<Box<str>>,
    target_port: Option<Target>,
}

/// A number, or the name of a port of the pods.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum Target {
    Number(u16),
    Name(Box<str>),
}

#[derive(Clone, Debug, Deserialize)]
struct TrimmedSlice {
    metadata: Metadata<SliceLabels, IgnoredAny>,
    /// `null` if there are none.
    endpoints: Option<Vec<Endpoint>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct SliceLabels {
    #[serde(rename = "kubernetes.io/service-name")]
    service: Option<Box<str>>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Endpoint {
    target_ref: Option<TargetRef>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct TargetRef {
    kind: String,
    namespace: Option<String>,
    name: Box<str>,
    uid: Option<Box<str>>,
}

/// Those annotations of a pod that count.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct PodAnnotations {
    /// Long; that it is there says enough.
    #[serde(rename = "sidecar.istio.io/status")]
    status: Option<IgnoredAny>,
    #[serde(rename = "sidecar.istio.io/inject")]
    inject: Option<String>,
    /// Istio's injection writes it here, and not into a label.
    #[serde(rename = "istio.io/rev")]
    pub(super) revision: Option<Box<str>>,
}

/// Whether a pod has a sidecar, or could have one.
pub(super) fn sidecar_of(labels: &Labels, annotations: &PodAnnotations, on_host_network: bool) -> Sidecar {
    let inject = labels.get("sidecar.istio.io/inject").or(annotations.inject.as_deref());
    if annotations.status.is_some() {
        Sidecar::Injected
    } else if on_host_network || inject == Some("false") {
        Sidecar::Excluded
    } else {
        Sidecar::Missing
    }
}

impl Trimmed for TrimmedNamespace {
    fn version(&self) -> &str {
        &self.metadata.resource_version
    }
}

impl Trimmed for TrimmedService {
    fn version(&self) -> &str {
        &self.metadata.resource_version
    }
}

impl Trimmed for TrimmedSlice {
    fn version(&self) -> &str {
        &self.metadata.resource_version
    }
}

fn namespace_facts(namespace: &TrimmedNamespace) -> NamespaceFacts {
    let of = |key: &str| namespace.metadata.labels.get(key).cloned();
    let labels = MeshLabels {
        injection: of("istio-injection"),
        revision: of("istio.io/rev"),
        dataplane: of("istio.io/dataplane-mode"),
    };
    let all_labels = namespace.metadata.labels.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
    NamespaceFacts { name: namespace.metadata.name.as_str().into(), labels, all_labels }
}

fn service_facts(service: &TrimmedService) -> ServiceFacts {
    let TrimmedService { metadata, spec } = service;
    let backing = match spec.kind.as_str() {
        "ExternalName" => Backing::ExternalName,
        _ if spec.selector.is_empty() => Backing::Slices,
        _ => Backing::Selector(spec.selector.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect()),
    };
    let tcp = spec.ports.iter().filter(|port| port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP"));
    let ports = tcp.map(|port| PortFacts {
        name: port.name.clone(),
        number: port.port,
        app_protocol: port.app_protocol.clone(),
        target: match &port.target_port {
            Some(Target::Name(name)) => TargetPort::Name(name.clone()),
            Some(Target::Number(number)) if *number > 0 => TargetPort::Number(*number),
            Some(Target::Number(_)) | None => TargetPort::Number(port.port),
        },
    });
    let tag = match &metadata.labels {
        ServiceLabels { tag: Some(tag), revision: Some(revision) } => {
            Some(RevisionTag { tag: tag.clone(), revision: revision.clone() })
        }
        ServiceLabels { .. } => None,
    };
    ServiceFacts {
        object: ObjectName::new(&metadata.namespace, &metadata.name),
        uid: (*metadata.uid).into(),
        created: metadata.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second()),
        backing,
        ports: ports.collect(),
        opt_out: metadata.annotations.mtls.clone(),
        tag,
    }
}

fn slice_facts(slice: &TrimmedSlice) -> SliceFacts {
    let metadata = &slice.metadata;
    let endpoints = slice.endpoints.iter().flatten().map(|endpoint| match &endpoint.target_ref {
        Some(target) if target.kind == "Pod" && is_beside(target, &metadata.namespace) => {
            SliceEndpoint::Pod { name: target.name.clone(), uid: target.uid.clone() }
        }
        _ => SliceEndpoint::Other,
    });
    SliceFacts {
        object: ObjectName::new(&metadata.namespace, &metadata.name),
        service: metadata.labels.service.clone(),
        endpoints: endpoints.collect(),
    }
}

/// A slice speaks for its own namespace only.
fn is_beside(target: &TargetRef, namespace: &str) -> bool {
    target.namespace.as_deref().is_none_or(|of| of == namespace)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::policy::OPT_OUT_ANNOTATION;

    #[test]
    fn a_service_is_read_as_the_api_server_writes_it() {
        let json = r#"{"metadata": {"name": "s", "namespace": "n", "resourceVersion": "7", "uid": "u",
            "creationTimestamp": "2027-01-15T08:00:00Z",
            "annotations": {"other": "x", "countersign.io/mtls": "disabled"}, "labels": {"app": "a"}},
            "spec": {"type": "ClusterIP", "clusterIP": "None", "ipFamilies": ["IPv4", "IPv6"], "selector": {"app": "a"},
            "ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080},
            {"name": "dns", "port": 53, "protocol": "UDP"}, {"port": 81, "targetPort": "web", "appProtocol": "kubernetes.io/h2c"}]}}"#;
        let facts = service_facts(&serde_json::from_str(json).unwrap());
        assert_eq!((facts.object, facts.created), (ObjectName::new("n", "s"), 1_800_000_000));
        assert_eq!(facts.backing, Backing::Selector([("app", "a")].into_iter().collect()));
        assert_eq!(facts.ports.iter().map(|port| port.number).collect::<Vec<_>>(), [80, 81]);
        assert_eq!(facts.ports[1].app_protocol.as_deref(), Some("kubernetes.io/h2c"));
        let targets: Vec<_> = facts.ports.iter().map(|port| port.target.clone()).collect();
        assert_eq!(targets, [TargetPort::Number(8080), TargetPort::Name("web".into())]);
        assert_eq!((facts.opt_out.as_deref(), facts.tag), (Some("disabled"), None));
        assert!(json.contains(OPT_OUT_ANNOTATION));
    }

    #[test]
    fn services_without_a_selector_and_those_of_tags_are_told_apart() {
        let read = |json: &str| service_facts(&serde_json::from_str(json).unwrap());
        let external = read(
            r#"{"metadata": {"name": "s", "namespace": "n"}, "spec": {"type": "ExternalName", "externalName": "a.b"}}"#,
        );
        assert_eq!(external.backing, Backing::ExternalName);
        let tagged = read(
            r#"{"metadata": {"name": "s", "namespace": "n", "labels": {"istio.io/tag": "prod", "istio.io/rev": "1-30"}},
                "spec": {"ports": []}}"#,
        );
        assert_eq!(tagged.backing, Backing::Slices);
        assert_eq!(tagged.tag, Some(RevisionTag { tag: "prod".into(), revision: "1-30".into() }));
    }

    #[test]
    fn empty_labels_differ_from_none() {
        let read = |json: &str| namespace_facts(&serde_json::from_str(json).unwrap()).labels;
        let labels = read(r#"{"metadata": {"name": "n", "labels": {"istio.io/rev": "", "team": "x"}}}"#);
        assert_eq!(labels, MeshLabels { revision: Some("".into()), ..MeshLabels::default() });
        assert_eq!(read(r#"{"metadata": {"name": "n"}}"#), MeshLabels::default());
    }

    #[test]
    fn endpoints_are_pods_of_the_same_namespace_or_nobody() {
        let json = r#"{"metadata": {"name": "e", "namespace": "n", "labels": {"kubernetes.io/service-name": "s"}}, "endpoints": [
            {"addresses": ["10.0.0.1"], "targetRef": {"kind": "Pod", "name": "p", "namespace": "n", "uid": "u"}},
            {"addresses": ["10.0.0.2"], "targetRef": {"kind": "Pod", "name": "q"}},
            {"addresses": ["10.0.0.3"], "targetRef": {"kind": "Pod", "name": "r", "namespace": "elsewhere"}},
            {"addresses": ["10.0.0.4"], "targetRef": {"kind": "Node", "name": "n1"}}, {"addresses": ["10.0.0.5"]}]}"#;
        let facts = slice_facts(&serde_json::from_str(json).unwrap());
        assert_eq!(facts.service.as_deref(), Some("s"));
        let pod = |name: &str, uid: Option<&str>| SliceEndpoint::Pod { name: name.into(), uid: uid.map(Into::into) };
        let other = || SliceEndpoint::Other;
        assert_eq!(*facts.endpoints, [pod("p", Some("u")), pod("q", None), other(), other(), other()]);
        let none = r#"{"metadata": {"name": "e", "namespace": "n", "labels": {"kubernetes.io/service-name": "s"}}, "endpoints": null}"#;
        assert!(slice_facts(&serde_json::from_str(none).unwrap()).endpoints.is_empty());
        assert!(
            slice_facts(&serde_json::from_str(r#"{"metadata": {"name": "e"}, "endpoints": []}"#).unwrap())
                .service
                .is_none()
        );
    }

    #[test]
    fn a_pod_says_whether_it_has_or_could_have_a_sidecar() {
        let annotations = |json: &str| -> PodAnnotations { serde_json::from_str(json).unwrap() };
        let (none, off) = (Labels::default(), [("sidecar.istio.io/inject", "false")].into_iter().collect());
        let status = annotations(r#"{"sidecar.istio.io/status": "{\"containers\": []}", "other": "x"}"#);
        assert_eq!(sidecar_of(&none, &status, false), Sidecar::Injected);
        assert_eq!(sidecar_of(&none, &annotations("{}"), false), Sidecar::Missing);
        assert_eq!(sidecar_of(&none, &annotations("{}"), true), Sidecar::Excluded);
        assert_eq!(sidecar_of(&off, &annotations("{}"), false), Sidecar::Excluded);
        let said = annotations(r#"{"sidecar.istio.io/inject": "false"}"#);
        assert_eq!(sidecar_of(&none, &said, false), Sidecar::Excluded);
        let on = [("sidecar.istio.io/inject", "true")].into_iter().collect();
        assert_eq!(sidecar_of(&on, &said, false), Sidecar::Missing, "the label comes first");
    }
}
