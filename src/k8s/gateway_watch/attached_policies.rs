//! Policies of Envoy Gateway by which its proxies ask others than backends of Routes.

use std::{collections::BTreeSet, convert::Infallible};

use kube::Client;
use serde::Deserialize;
use serde_json::Value;

use super::{GATEWAY_API, OPTIONAL, Object, Reference, Source, Tell, follow_kind};
use crate::domain::policy::{
    AttachedKind, AttachedPolicyFacts, Attachment, GatewayChange, RouteBackend, RouteKind, Upstream,
};

const SECURITY: Source<'_> = Source {
    paths: &["/apis/gateway.envoyproxy.io/v1alpha1/securitypolicies"],
    event: "security_policies_not_watched",
    ..OPTIONAL
};
const EXTENSION: Source<'_> = Source {
    paths: &["/apis/gateway.envoyproxy.io/v1alpha1/envoyextensionpolicies"],
    event: "extension_policies_not_watched",
    ..OPTIONAL
};

/// Tells of SecurityPolicies, for ever.
pub async fn follow_security_policies(client: &Client, tell: Tell<'_>) -> Infallible {
    let read = |policy: &Object<Spec>| Some(policy_facts(policy));
    let key = |facts: AttachedPolicyFacts| facts.object;
    follow_kind(client, SECURITY, read, key, |change| tell(GatewayChange::SecurityPolicies(change))).await
}

/// Tells of EnvoyExtensionPolicies, for ever.
pub async fn follow_extension_policies(client: &Client, tell: Tell<'_>) -> Infallible {
    let read = |policy: &Object<Spec>| Some(policy_facts(policy));
    let key = |facts: AttachedPolicyFacts| facts.object;
    follow_kind(client, EXTENSION, read, key, |change| tell(GatewayChange::ExtensionPolicies(change))).await
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    target_ref: Option<Reference>,
    target_refs: Vec<Reference>,
    target_selectors: Vec<Selector>,
    #[serde(flatten)]
    rest: Value,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Selector {
    group: Option<String>,
    kind: String,
    namespaces: Option<Namespaces>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Namespaces {
    from: String,
}

fn policy_facts(policy: &Object<Spec>) -> AttachedPolicyFacts {
    let Spec { target_ref, target_refs, target_selectors, rest } = &policy.spec;
    let named = target_refs.iter().chain(target_ref).filter_map(|target| {
        Some(Attachment::One(kind_of(target.group.as_deref(), target.kind.as_deref()?)?, target.name.as_str().into()))
    });
    let labelled = target_selectors.iter().filter_map(|selector| {
        let anywhere = selector.namespaces.as_ref().is_some_and(|namespaces| namespaces.from != "Same");
        Some(Attachment::Labelled { kind: kind_of(selector.group.as_deref(), &selector.kind)?, anywhere })
    });
    AttachedPolicyFacts {
        object: policy.metadata.object(),
        attachments: named.chain(labelled).collect(),
        upstreams: upstreams(rest, &policy.metadata.namespace),
    }
}

fn kind_of(group: Option<&str>, kind: &str) -> Option<AttachedKind> {
    match (group.unwrap_or(GATEWAY_API), kind) {
        (GATEWAY_API, "Gateway") => Some(AttachedKind::Gateway),
        (GATEWAY_API, "ListenerSet") => Some(AttachedKind::ListenerSet),
        (GATEWAY_API, "HTTPRoute") => Some(AttachedKind::Route(RouteKind::Http)),
        (GATEWAY_API, "GRPCRoute") => Some(AttachedKind::Route(RouteKind::Grpc)),
        _ => None,
    }
}

/// Whom a part of an object of Envoy Gateway names as backends. Wherever it has one, the fields are the same: newer versions, in which
/// there are more such places, need nothing new here.
pub(super) fn upstreams(part: &Value, namespace: &str) -> Box<[Upstream]> {
    let mut found = BTreeSet::new();
    collect(part, namespace, &mut found);
    found.into_iter().collect()
}

fn collect(part: &Value, namespace: &str, found: &mut BTreeSet<Upstream>) {
    match part {
        Value::Object(fields) => fields.iter().for_each(|(name, value)| match (name.as_str(), value) {
            ("backendRef", one) => found.extend(upstream(one, namespace)),
            ("backendRefs", Value::Array(all)) => found.extend(all.iter().filter_map(|one| upstream(one, namespace))),
            _ => collect(value, namespace, found),
        }),
        Value::Array(items) => items.iter().for_each(|item| collect(item, namespace, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn upstream(reference: &Value, namespace: &str) -> Option<Upstream> {
    match Reference::deserialize(reference).ok()?.backend(namespace)? {
        RouteBackend::Service(service, _) => Some(Upstream::Service(service)),
        RouteBackend::EnvoyBackend(object) => Some(Upstream::EnvoyBackend(object)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::policy::ObjectName;

    fn facts(spec: &str) -> AttachedPolicyFacts {
        let json = format!(r#"{{"metadata": {{"name": "p", "namespace": "n"}}, "spec": {spec}}}"#);
        policy_facts(&serde_json::from_str(&json).unwrap())
    }

    #[test]
    fn whoever_a_security_policy_has_asked_is_read_as_the_api_server_writes_it() {
        let facts = facts(
            r#"{"targetRefs": [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "name": "r"},
                {"group": "gateway.networking.k8s.io", "kind": "TCPRoute", "name": "t"}],
            "extAuth": {"grpc": {"backendRefs": [{"name": "authz", "port": 9000}]}, "failOpen": false, "headersToExtAuth": ["x"]},
            "jwt": {"providers": [{"name": "a", "remoteJWKS": {"uri": "https://keys.test/", "backendRefs":
                [{"group": "gateway.envoyproxy.io", "kind": "Backend", "name": "keys", "port": 443}]}}]},
            "oidc": {"provider": {"issuer": "https://sso.test", "backendRefs": [{"name": "sso", "namespace": "m", "port": 443}]}}}"#,
        );
        let service = |namespace, name| Upstream::Service(ObjectName::new(namespace, name));
        let keys = Upstream::EnvoyBackend(ObjectName::new("n", "keys"));
        assert_eq!(*facts.upstreams, [service("m", "sso"), service("n", "authz"), keys]);
        assert_eq!(*facts.attachments, [Attachment::One(AttachedKind::Route(RouteKind::Http), "r".into())]);
    }

    #[test]
    fn targets_are_named_or_chosen_by_their_labels() {
        let facts = facts(
            r#"{"targetRef": {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "gw", "sectionName": "https"},
            "targetSelectors": [{"kind": "GRPCRoute", "matchLabels": {"a": "b"}},
                {"kind": "ListenerSet", "namespaces": {"from": "All"}}, {"kind": "Gateway", "namespaces": {"from": "Same"}}],
            "extProc": [{"backendRef": {"name": "old", "port": 1}}, {"backendRefs": [{"name": "new", "port": 2}]}, {}]}"#,
        );
        let labelled = |kind, anywhere| Attachment::Labelled { kind, anywhere };
        assert_eq!(
            *facts.attachments,
            [
                Attachment::One(AttachedKind::Gateway, "gw".into()),
                labelled(AttachedKind::Route(RouteKind::Grpc), false),
                labelled(AttachedKind::ListenerSet, true),
                labelled(AttachedKind::Gateway, false),
            ]
        );
        let service = |name| Upstream::Service(ObjectName::new("n", name));
        assert_eq!(*facts.upstreams, [service("new"), service("old")]);
    }

    #[test]
    fn a_policy_that_asks_nobody_is_none_of_an_upstream() {
        let facts =
            facts(r#"{"targetRefs": [], "cors": {"allowOrigins": ["https://a.test"]}, "jwt": {"providers": []}}"#);
        assert!(facts.attachments.is_empty() && facts.upstreams.is_empty());
    }
}
