//! BackendTLSPolicies, everybody's and ours, and our ConfigMaps of roots.

use std::convert::Infallible;

use kube::Client;

use super::{ENVOY_GATEWAY, OPTIONAL, RIGHTS, Source, Tell};
use crate::{
    domain::policy::{
        BackendTlsApi, Change, GatewayChange, ObjectKind, ObjectName, PolicyTarget, Target, TlsPolicyFacts,
    },
    k8s::{
        list_watch::{Heard, Trimmed, follow},
        policy_objects::{RootsObject, TlsPolicyObject},
    },
    service::policy_objects::{ObjectKey, PolicyObjects, Seen, SeenObject},
};

const POLICIES: Source<'_> = Source {
    paths: &[
        "/apis/gateway.networking.k8s.io/v1/backendtlspolicies",
        "/apis/gateway.networking.k8s.io/v1alpha3/backendtlspolicies",
    ],
    event: "backend_tls_policies_not_watched",
    ..OPTIONAL
};
/// `domain::policy::CA_CONFIG_MAP`.
const ROOT_CONFIG_MAPS: Source<'_> = Source {
    paths: &["/api/v1/configmaps"],
    fields: "metadata.name=countersign-mesh-ca",
    event: "root_config_maps_not_watched",
    rights: RIGHTS,
    ..Source::ANY
};
/// Before the names of ours.
const PREFIX: &str = "countersign-";

/// What is told of a policy: to the one, and to the other.
struct Told {
    facts: TlsPolicyFacts,
    /// Of ours, and of one that has the name of ours.
    seen: Option<SeenObject>,
}

/// Tells of BackendTLSPolicies, for ever: `objects` of ours, and only in the version that they are written in.
pub async fn follow_tls_policies(client: &Client, objects: &PolicyObjects, tell: Tell<'_>) -> Infallible {
    let mut is_current = false;
    follow(
        client,
        POLICIES,
        |policy| Some(told(policy)),
        |heard| match heard {
            Heard::Alive | Heard::Trouble(_) => {}
            Heard::Served(version) => {
                is_current = version == 0;
                tell(GatewayChange::BackendTlsApi(if is_current { BackendTlsApi::V1 } else { BackendTlsApi::TooOld }));
            }
            Heard::NotServed => {
                tell(GatewayChange::BackendTlsApi(BackendTlsApi::TooOld));
                tell(GatewayChange::TlsPolicies(Change::Reset(Vec::new())));
                objects.see(listed(Box::default(), Vec::new()));
            }
            Heard::Listed(all, version) => {
                let (facts, seen): (Vec<_>, Vec<_>) = all.into_iter().map(|told| (told.facts, told.seen)).unzip();
                let seen = facts.iter().map(|facts| facts.object.clone()).zip(seen);
                let seen = seen.filter_map(|(object, seen)| Some((object, seen.filter(|_| is_current)?))).collect();
                objects.see(listed(if is_current { version.into() } else { Box::default() }, seen));
                tell(GatewayChange::TlsPolicies(Change::Reset(facts)));
            }
            Heard::Put(told) => {
                if let Some(seen) = told.seen.filter(|_| is_current) {
                    objects.see(Seen::Put(key_of(&told.facts), seen));
                }
                tell(GatewayChange::TlsPolicies(Change::Put(told.facts)));
            }
            Heard::Gone(told) => {
                if let Some(seen) = told.seen.filter(|_| is_current) {
                    objects.see(Seen::Gone(key_of(&told.facts), seen.version));
                }
                tell(GatewayChange::TlsPolicies(Change::Gone(told.facts.object)));
            }
        },
    )
    .await
}

/// Tells `objects` of the ConfigMaps with roots, for ever.
pub async fn follow_root_config_maps(client: &Client, objects: &PolicyObjects) -> Infallible {
    let kind = ObjectKind::ConfigMap;
    let read = |found: &RootsObject| Some((found.metadata.object(), found.seen()));
    let hear = |heard| match heard {
        Heard::Served(_) | Heard::NotServed | Heard::Alive | Heard::Trouble(_) => {}
        Heard::Listed(all, version) => objects.see(Seen::Listed { kind, version: version.into(), objects: all }),
        Heard::Put((object, seen)) => objects.see(Seen::Put(ObjectKey { kind, object }, seen)),
        Heard::Gone((object, seen)) => objects.see(Seen::Gone(ObjectKey { kind, object }, seen.version)),
    };
    follow(client, ROOT_CONFIG_MAPS, read, hear).await
}

fn told(policy: &TlsPolicyObject) -> Told {
    let ours = policy.metadata.is_ours();
    let targets = policy.spec.target_refs.iter().filter_map(|reference| {
        let target = match (reference.group.as_str(), reference.kind.as_str()) {
            ("" | "core", "Service") => Target::Service(reference.name.as_str().into()),
            (ENVOY_GATEWAY, "Backend") => Target::EnvoyBackend(reference.name.as_str().into()),
            _ => return None,
        };
        Some(PolicyTarget { target, section: reference.section_name.as_deref().map(Into::into) })
    });
    Told {
        facts: TlsPolicyFacts {
            object: policy.metadata.object(),
            ours,
            targets: targets.collect(),
            written: ours.then(|| policy.written()),
        },
        seen: (ours || policy.metadata.name.starts_with(PREFIX)).then(|| policy.seen()),
    }
}

/// Without a version there are none, whatever is known.
fn listed(version: Box<str>, objects: Vec<(ObjectName, SeenObject)>) -> Seen {
    Seen::Listed { kind: ObjectKind::BackendTlsPolicy, version, objects }
}

fn key_of(facts: &TlsPolicyFacts) -> ObjectKey {
    ObjectKey { kind: ObjectKind::BackendTlsPolicy, object: facts.object.clone() }
}

impl Trimmed for TlsPolicyObject {
    fn version(&self) -> &str {
        &self.metadata.resource_version
    }
}

impl Trimmed for RootsObject {
    fn version(&self) -> &str {
        &self.metadata.resource_version
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::policy::CA_CONFIG_MAP;

    #[test]
    fn a_policy_of_somebody_else_is_told_with_its_targets_and_kept_apart_from_ours() {
        let read = |name: &str, manager: &str| {
            let json = format!(
                r#"{{"metadata": {{"name": "{name}", "namespace": "n", "uid": "u", "resourceVersion": "7",
                "managedFields": [{{"manager": "{manager}", "operation": "Apply", "fieldsV1": {{"f:spec": {{}}}}}}]}},
                "spec": {{"targetRefs": [{{"group": "", "kind": "Service", "name": "a", "sectionName": "http"}},
                {{"group": "gateway.envoyproxy.io", "kind": "Backend", "name": "b"}}, {{"group": "x", "kind": "Y", "name": "c"}}],
                "validation": {{"hostname": "a.test", "wellKnownCACertificates": "System"}}}}}}"#
            );
            told(&serde_json::from_str(&json).unwrap())
        };
        let theirs = read("mine", "kubectl");
        let target = |target, section: Option<&str>| PolicyTarget { target, section: section.map(Into::into) };
        assert_eq!(
            *theirs.facts.targets,
            [target(Target::Service("a".into()), Some("http")), target(Target::EnvoyBackend("b".into()), None)]
        );
        assert_eq!(theirs.facts.object, ObjectName::new("n", "mine"));
        assert!(!theirs.facts.ours && theirs.seen.is_none());
        assert!(!read("countersign-a", "kubectl").seen.unwrap().ours);
        let ours = read("countersign-a", "countersign");
        assert!(ours.facts.ours && ours.seen.unwrap().ours);
        assert!(ROOT_CONFIG_MAPS.fields.ends_with(CA_CONFIG_MAP));
    }
}
