//! GatewayClasses, Gateways and ListenerSets.

use std::{collections::BTreeMap, convert::Infallible};

use kube::Client;
use serde::Deserialize;

use super::{GATEWAY_API, OPTIONAL, Object, Reference, Source, Tell, follow_kind};
use crate::domain::policy::{
    Admits, ClassFacts, Controller, GatewayChange, GatewayFacts, ListenerFacts, ListenerSetFacts, NamespaceSelector,
    Requirement, RouteKinds,
};

const CLASSES: Source<'_> = Source {
    paths: &[
        "/apis/gateway.networking.k8s.io/v1/gatewayclasses",
        "/apis/gateway.networking.k8s.io/v1beta1/gatewayclasses",
    ],
    event: "gateway_classes_not_watched",
    ..OPTIONAL
};
const GATEWAYS: Source<'_> = Source {
    paths: &["/apis/gateway.networking.k8s.io/v1/gateways", "/apis/gateway.networking.k8s.io/v1beta1/gateways"],
    event: "gateways_not_watched",
    ..OPTIONAL
};
const LISTENER_SETS: Source<'_> = Source {
    paths: &["/apis/gateway.networking.k8s.io/v1/listenersets"],
    event: "listener_sets_not_watched",
    ..OPTIONAL
};

/// Tells of GatewayClasses, for ever.
pub async fn follow_gateway_classes(client: &Client, tell: Tell<'_>) -> Infallible {
    let read = |class: &Object<ClassSpec>| Some(class_facts(class));
    let key = |facts: ClassFacts| facts.name;
    follow_kind(client, CLASSES, read, key, |change| tell(GatewayChange::Classes(change))).await
}

/// Tells of Gateways, for ever.
pub async fn follow_gateways(client: &Client, tell: Tell<'_>) -> Infallible {
    let read = |gateway: &Object<GatewaySpec>| Some(gateway_facts(gateway));
    let key = |facts: GatewayFacts| facts.object;
    follow_kind(client, GATEWAYS, read, key, |change| tell(GatewayChange::Gateways(change))).await
}

/// Tells of ListenerSets, for ever.
pub async fn follow_listener_sets(client: &Client, tell: Tell<'_>) -> Infallible {
    let key = |facts: ListenerSetFacts| facts.object;
    follow_kind(client, LISTENER_SETS, listener_set_facts, key, |change| tell(GatewayChange::ListenerSets(change)))
        .await
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ClassSpec {
    controller_name: String,
    parameters_ref: Option<Reference>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct GatewaySpec {
    gateway_class_name: String,
    listeners: Vec<Listener>,
    infrastructure: Infrastructure,
    tls: GatewayTls,
    allowed_listeners: AllowedListeners,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Infrastructure {
    parameters_ref: Option<Reference>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct AllowedListeners {
    namespaces: AllowedNamespaces,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct GatewayTls {
    backend: BackendTls,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct BackendTls {
    client_certificate_ref: Option<Reference>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ListenerSetSpec {
    parent_ref: Reference,
    listeners: Vec<Listener>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Listener {
    name: Box<str>,
    port: u16,
    protocol: String,
    allowed_routes: AllowedRoutes,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct AllowedRoutes {
    namespaces: AllowedNamespaces,
    kinds: Vec<RouteGroupKind>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct AllowedNamespaces {
    from: Option<String>,
    selector: Option<Selector>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct RouteGroupKind {
    group: Option<String>,
    kind: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Selector {
    match_labels: BTreeMap<String, String>,
    match_expressions: Vec<Expression>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Expression {
    key: Box<str>,
    operator: String,
    values: Vec<Box<str>>,
}

fn class_facts(class: &Object<ClassSpec>) -> ClassFacts {
    let parameters = class.spec.parameters_ref.as_ref().filter(|parameters| parameters.is_envoy_proxy());
    ClassFacts {
        name: class.metadata.name.as_str().into(),
        controller: Controller::of(&class.spec.controller_name),
        parameters: parameters.map(|parameters| parameters.object("")),
    }
}

fn gateway_facts(gateway: &Object<GatewaySpec>) -> GatewayFacts {
    let GatewaySpec { gateway_class_name, listeners, infrastructure, tls, allowed_listeners } = &gateway.spec;
    let parameters = infrastructure.parameters_ref.as_ref().filter(|parameters| parameters.is_envoy_proxy());
    GatewayFacts {
        object: gateway.metadata.object(),
        uid: gateway.metadata.uid.clone(),
        class: gateway_class_name.as_str().into(),
        listeners: listeners.iter().map(listener_facts).collect(),
        takes_sets: takes_sets(&allowed_listeners.namespaces),
        parameters: parameters.map(|parameters| parameters.name.as_str().into()),
        client_certificate: tls.backend.client_certificate_ref.is_some(),
    }
}

fn listener_set_facts(set: &Object<ListenerSetSpec>) -> Option<ListenerSetFacts> {
    let parent = &set.spec.parent_ref;
    parent.is(GATEWAY_API, "Gateway", GATEWAY_API, "Gateway").then(|| ListenerSetFacts {
        object: set.metadata.object(),
        gateway: parent.object(&set.metadata.namespace),
        listeners: set.spec.listeners.iter().map(listener_facts).collect(),
    })
}

fn listener_facts(listener: &Listener) -> ListenerFacts {
    let AllowedRoutes { namespaces, kinds } = &listener.allowed_routes;
    let kinds = kinds.iter().map(|kind| (kind.group.as_deref().unwrap_or(GATEWAY_API), kind.kind.as_str()));
    ListenerFacts {
        name: listener.name.clone(),
        port: listener.port,
        routes: RouteKinds::of(&listener.protocol, kinds),
        admits: admits(namespaces),
    }
}

/// None, if nothing is said.
fn takes_sets(namespaces: &AllowedNamespaces) -> Option<Admits> {
    (!matches!(namespaces.from.as_deref(), None | Some("None"))).then(|| admits(namespaces))
}

/// What can't be read admits its own namespace alone, as if nothing was said; the API server lets nothing else be written.
fn admits(namespaces: &AllowedNamespaces) -> Admits {
    match (namespaces.from.as_deref(), &namespaces.selector) {
        (Some("All"), _) => Admits::All,
        (Some("Selector"), Some(selector)) => requirements(selector).map_or(Admits::Same, Admits::Selector),
        _ => Admits::Same,
    }
}

fn requirements(selector: &Selector) -> Option<NamespaceSelector> {
    let requirement = |expression: &Expression| {
        let (key, values) = (expression.key.clone(), expression.values.clone().into());
        match expression.operator.as_str() {
            "In" => Some(Requirement::In(key, values)),
            "NotIn" => Some(Requirement::NotIn(key, values)),
            "Exists" => Some(Requirement::Exists(key)),
            "DoesNotExist" => Some(Requirement::DoesNotExist(key)),
            _ => None,
        }
    };
    Some(NamespaceSelector {
        labels: selector.match_labels.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect(),
        requirements: selector.match_expressions.iter().map(requirement).collect::<Option<_>>()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::policy::ObjectName;

    fn read<S: Default + for<'de> Deserialize<'de>>(json: &str) -> Object<S> {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn a_gateway_is_read_as_the_api_server_writes_it() {
        let facts = gateway_facts(&read(
            r#"{"metadata": {"name": "gw", "namespace": "infra", "resourceVersion": "7"}, "spec": {"gatewayClassName": "eg",
            "infrastructure": {"parametersRef": {"group": "gateway.envoyproxy.io", "kind": "EnvoyProxy", "name": "ep"}},
            "tls": {"backend": {"clientCertificateRef": {"group": "", "kind": "Secret", "name": "c"}}}, "listeners": [
            {"name": "http", "port": 80, "protocol": "HTTP", "allowedRoutes": {"namespaces": {"from": "Selector",
             "selector": {"matchLabels": {"team": "a"}, "matchExpressions": [{"key": "x", "operator": "Exists"}]}}}},
            {"name": "grpc", "port": 81, "protocol": "HTTPS", "allowedRoutes": {"namespaces": {"from": "All"},
             "kinds": [{"group": "gateway.networking.k8s.io", "kind": "GRPCRoute"}]}},
            {"name": "tcp", "port": 82, "protocol": "TCP"}]}, "status": {"conditions": []}}"#,
        ));
        assert_eq!((facts.object, &*facts.class), (ObjectName::new("infra", "gw"), "eg"));
        assert_eq!((facts.parameters.as_deref(), facts.client_certificate), (Some("ep"), true));
        let kinds: Vec<_> = facts.listeners.iter().map(|one| (one.port, one.routes.http, one.routes.grpc)).collect();
        assert_eq!(kinds, [(80, true, true), (81, false, true), (82, false, false)]);
        let selector = NamespaceSelector {
            labels: [("team", "a")].into_iter().collect(),
            requirements: [Requirement::Exists("x".into())].into(),
        };
        let admits: Vec<_> = facts.listeners.iter().map(|one| one.admits.clone()).collect();
        assert_eq!(admits, [Admits::Selector(selector), Admits::All, Admits::Same]);
        assert_eq!(facts.takes_sets, None);
    }

    #[test]
    fn a_gateway_takes_listener_sets_only_where_it_says_so() {
        for (said, expected) in [
            ("{}", None),
            (r#"{"namespaces": {"from": "None"}}"#, None),
            (r#"{"namespaces": {"from": "Same"}}"#, Some(Admits::Same)),
            (r#"{"namespaces": {"from": "All"}}"#, Some(Admits::All)),
        ] {
            let gateway = format!(r#"{{"metadata": {{"name": "g"}}, "spec": {{"allowedListeners": {said}}}}}"#);
            assert_eq!(gateway_facts(&read(&gateway)).takes_sets, expected, "{said}");
        }
    }

    #[test]
    fn a_gateway_that_says_little_and_one_of_another_controller_are_read_too() {
        let facts = gateway_facts(&read(
            r#"{"metadata": {"name": "gw", "namespace": "n"}, "spec": {"gatewayClassName": "k", "listeners": [],
            "infrastructure": {"parametersRef": {"group": "kgateway.dev", "kind": "GatewayParameters", "name": "p"}}}}"#,
        ));
        assert_eq!((facts.parameters, facts.client_certificate), (None, false));
        let class = class_facts(&read(
            r#"{"metadata": {"name": "eg"}, "spec": {"controllerName": "gateway.envoyproxy.io/gatewayclass-controller",
            "parametersRef": {"group": "gateway.envoyproxy.io", "kind": "EnvoyProxy", "name": "ep", "namespace": "e"}}}"#,
        ));
        assert_eq!((class.controller, class.parameters), (Controller::EnvoyGateway, Some(ObjectName::new("e", "ep"))));
    }

    #[test]
    fn a_listener_set_belongs_to_the_gateway_that_it_names() {
        let set = |parent: &str| {
            listener_set_facts(&read(&format!(
                r#"{{"metadata": {{"name": "s", "namespace": "n"}}, "spec": {{"parentRef": {parent}, "listeners": [
                {{"name": "a", "port": 8080, "protocol": "HTTP"}}]}}}}"#,
            )))
        };
        assert_eq!(set(r#"{"name": "gw"}"#).unwrap().gateway, ObjectName::new("n", "gw"));
        assert_eq!(set(r#"{"name": "gw", "namespace": "m"}"#).unwrap().gateway, ObjectName::new("m", "gw"));
        assert!(set(r#"{"name": "gw", "kind": "Other"}"#).is_none());
    }
}
