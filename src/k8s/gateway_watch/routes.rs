//! HTTPRoutes and GRPCRoutes.

use std::{collections::BTreeSet, convert::Infallible};

use kube::Client;
use serde::Deserialize;

use super::{GATEWAY_API, OPTIONAL, Object, Reference, Source, Tell, follow_kind};
use crate::domain::policy::{GatewayChange, Parent, ParentFacts, RouteFacts};

const HTTP_ROUTES: Source<'_> = Source {
    paths: &["/apis/gateway.networking.k8s.io/v1/httproutes", "/apis/gateway.networking.k8s.io/v1beta1/httproutes"],
    event: "http_routes_not_watched",
    ..OPTIONAL
};
const GRPC_ROUTES: Source<'_> = Source {
    paths: &["/apis/gateway.networking.k8s.io/v1/grpcroutes", "/apis/gateway.networking.k8s.io/v1alpha2/grpcroutes"],
    event: "grpc_routes_not_watched",
    ..OPTIONAL
};

/// Tells of HTTPRoutes, for ever.
pub async fn follow_http_routes(client: &Client, tell: Tell<'_>) -> Infallible {
    let read = |route: &Object<RouteSpec>| Some(route_facts(route));
    let key = |facts: RouteFacts| facts.object;
    follow_kind(client, HTTP_ROUTES, read, key, |change| tell(GatewayChange::HttpRoutes(change))).await
}

/// Tells of GRPCRoutes, for ever.
pub async fn follow_grpc_routes(client: &Client, tell: Tell<'_>) -> Infallible {
    let read = |route: &Object<RouteSpec>| Some(route_facts(route));
    let key = |facts: RouteFacts| facts.object;
    follow_kind(client, GRPC_ROUTES, read, key, |change| tell(GatewayChange::GrpcRoutes(change))).await
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RouteSpec {
    parent_refs: Vec<Reference>,
    rules: Vec<Rule>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Rule {
    backend_refs: Vec<Backend>,
    filters: Vec<Filter>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Backend {
    #[serde(flatten)]
    reference: Reference,
    filters: Vec<Filter>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Filter {
    request_mirror: Option<Mirror>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Mirror {
    backend_ref: Reference,
}

fn route_facts(route: &Object<RouteSpec>) -> RouteFacts {
    let namespace = &route.metadata.namespace;
    let mut backends = Vec::new();
    for rule in &route.spec.rules {
        let of_rule = rule.backend_refs.iter().filter_map(|backend| backend.reference.backend(namespace));
        backends.extend(of_rule.collect::<BTreeSet<_>>());
        let filters = rule.filters.iter().chain(rule.backend_refs.iter().flat_map(|backend| &backend.filters));
        let mirrors = filters.filter_map(|filter| filter.request_mirror.as_ref());
        backends.extend(mirrors.filter_map(|mirror| mirror.backend_ref.backend(namespace)));
    }
    RouteFacts {
        object: route.metadata.object(),
        parents: route.spec.parent_refs.iter().filter_map(|parent| parent_of(parent, namespace)).collect(),
        backends: backends.into(),
    }
}

fn parent_of(reference: &Reference, namespace: &str) -> Option<ParentFacts> {
    let is = |kind| reference.is(GATEWAY_API, kind, GATEWAY_API, "Gateway");
    let object = reference.object(namespace);
    let parent = if is("Gateway") {
        Parent::Gateway(object)
    } else if is("ListenerSet") {
        Parent::ListenerSet(object)
    } else {
        return None;
    };
    Some(ParentFacts { parent, section: reference.section_name.clone(), port: reference.port })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::policy::{ObjectName, RouteBackend};

    #[test]
    fn a_route_is_read_as_the_api_server_writes_it() {
        let json = r#"{"metadata": {"name": "r", "namespace": "n"}, "spec": {"hostnames": ["a.test"], "parentRefs": [
            {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "gw", "namespace": "infra", "sectionName": "http", "port": 80},
            {"name": "own"}, {"kind": "ListenerSet", "name": "set"}, {"group": "", "kind": "Service", "name": "mesh"}],
            "rules": [{"matches": [{"path": {"type": "PathPrefix", "value": "/"}}],
              "backendRefs": [{"group": "", "kind": "Service", "name": "v1", "port": 8080, "weight": 1,
                "filters": [{"type": "RequestMirror", "requestMirror": {"backendRef": {"name": "shadow", "port": 1}}}]},
                {"name": "v1", "port": 8080}, {"name": "far", "namespace": "m", "port": 80}],
              "filters": [{"type": "RequestMirror", "requestMirror": {"backendRef": {"name": "copy", "port": 2}}},
                {"type": "URLRewrite", "urlRewrite": {"hostname": "x"}}]},
              {"backendRefs": [{"group": "gateway.envoyproxy.io", "kind": "Backend", "name": "b"},
                {"group": "other.test", "kind": "Bucket", "name": "s3"}, {"name": "v1", "port": 8080}]}]}}"#;
        let facts = route_facts(&serde_json::from_str(json).unwrap());
        assert_eq!(facts.object, ObjectName::new("n", "r"));
        let parent = |parent| ParentFacts { parent, section: None, port: None };
        let first = ParentFacts {
            parent: Parent::Gateway(ObjectName::new("infra", "gw")),
            section: Some("http".into()),
            port: Some(80),
        };
        let own = parent(Parent::Gateway(ObjectName::new("n", "own")));
        assert_eq!(*facts.parents, [first, own, parent(Parent::ListenerSet(ObjectName::new("n", "set")))]);
        let service = |namespace, name, port| RouteBackend::Service(ObjectName::new(namespace, name), Some(port));
        let expected = [
            service("m", "far", 80),
            service("n", "v1", 8080),
            service("n", "copy", 2),
            service("n", "shadow", 1),
            service("n", "v1", 8080),
            RouteBackend::EnvoyBackend(ObjectName::new("n", "b")),
        ];
        assert_eq!(*facts.backends, expected);
    }

    #[test]
    fn a_route_without_rules_leads_nowhere() {
        let facts = route_facts(&serde_json::from_str(r#"{"metadata": {"name": "r", "namespace": "n"}}"#).unwrap());
        assert!(facts.parents.is_empty() && facts.backends.is_empty());
    }
}
