//! ReferenceGrants.

use std::convert::Infallible;

use kube::Client;
use serde::Deserialize;

use super::{GATEWAY_API, OPTIONAL, Object, Source, Tell, follow_kind};
use crate::domain::policy::{GatewayChange, GrantFacts, RouteKind};

const GRANTS: Source<'_> = Source {
    paths: &[
        "/apis/gateway.networking.k8s.io/v1/referencegrants",
        "/apis/gateway.networking.k8s.io/v1beta1/referencegrants",
    ],
    event: "reference_grants_not_watched",
    ..OPTIONAL
};

/// Tells of ReferenceGrants, for ever.
pub async fn follow_reference_grants(client: &Client, tell: Tell<'_>) -> Infallible {
    let read = |grant: &Object<GrantSpec>| Some(grant_facts(grant));
    let key = |facts: GrantFacts| facts.object;
    follow_kind(client, GRANTS, read, key, |change| tell(GatewayChange::Grants(change))).await
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct GrantSpec {
    from: Vec<From>,
    to: Vec<To>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct From {
    group: String,
    kind: String,
    namespace: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct To {
    group: String,
    kind: String,
    name: Option<Box<str>>,
}

fn grant_facts(grant: &Object<GrantSpec>) -> GrantFacts {
    let from = grant.spec.from.iter().filter(|from| from.group == GATEWAY_API).filter_map(|from| {
        let kind = match from.kind.as_str() {
            "HTTPRoute" => RouteKind::Http,
            "GRPCRoute" => RouteKind::Grpc,
            _ => return None,
        };
        Some((kind, from.namespace.as_str().into()))
    });
    let to = grant.spec.to.iter().filter(|to| to.group.is_empty() && to.kind == "Service");
    let names: Vec<Option<Box<str>>> = to.map(|to| to.name.clone()).collect();
    GrantFacts {
        object: grant.metadata.object(),
        from: from.collect(),
        // one without a name is for all
        services: if names.contains(&None) { None } else { Some(names.into_iter().flatten().collect()) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::policy::ObjectName;

    fn read(spec: &str) -> GrantFacts {
        let grant = format!(r#"{{"metadata": {{"name": "g", "namespace": "app"}}, "spec": {spec}}}"#);
        grant_facts(&serde_json::from_str(&grant).unwrap())
    }

    #[test]
    fn a_grant_is_read_as_far_as_it_is_for_routes_to_services() {
        let facts = read(
            r#"{"from": [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "namespace": "infra"},
            {"group": "gateway.networking.k8s.io", "kind": "GRPCRoute", "namespace": "other"},
            {"group": "gateway.networking.k8s.io", "kind": "TLSRoute", "namespace": "tls"},
            {"group": "example.com", "kind": "HTTPRoute", "namespace": "evil"}],
            "to": [{"group": "", "kind": "Service", "name": "a"}, {"group": "", "kind": "Secret"},
            {"group": "x", "kind": "Service"}]}"#,
        );
        assert_eq!(facts.object, ObjectName::new("app", "g"));
        assert_eq!(*facts.from, [(RouteKind::Http, "infra".into()), (RouteKind::Grpc, "other".into())]);
        assert_eq!(facts.services, Some(["a".into()].into()));
    }

    #[test]
    fn one_without_a_name_is_for_all_services_and_one_for_other_kinds_for_none() {
        let all = r#"{"to": [{"group": "", "kind": "Service"}, {"group": "", "kind": "Service", "name": "a"}]}"#;
        assert_eq!(read(all).services, None);
        assert_eq!(read(r#"{"to": [{"group": "", "kind": "Secret"}]}"#).services, Some([].into()));
    }
}
