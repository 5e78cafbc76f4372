//! PeerAuthentications, followed from when Istio's kinds of objects are there.

use std::{collections::BTreeMap, convert::Infallible};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Client;
use serde::Deserialize;

use super::{
    list_watch::{Source, Trimmed, follow},
    policy_watch::tell,
};
use crate::{
    domain::policy::{ClusterChange, ObjectName, PeerAuthenticationFacts, PeerMode},
    service::policy_publisher::PolicyPublisher,
};

const PEER_AUTHENTICATIONS: Source<'_> = Source {
    paths: &["/apis/security.istio.io/v1/peerauthentications", "/apis/security.istio.io/v1beta1/peerauthentications"],
    event: "peer_authentications_not_watched",
    rights: "rbac-policy.yaml",
    is_optional: true,
    ..Source::ANY
};

/// Tells `publisher` of PeerAuthentications, for ever. Needs the right to list and watch them in all namespaces.
pub async fn follow_peer_authentications(client: &Client, publisher: &PolicyPublisher) -> Infallible {
    let tell = |heard| {
        tell(publisher, heard, |facts: PeerAuthenticationFacts| facts.object, ClusterChange::PeerAuthentications);
    };
    follow(client, PEER_AUTHENTICATIONS, |object| Some(facts_of(object)), tell).await
}

#[derive(Clone, Debug, Deserialize)]
struct TrimmedPolicy {
    metadata: Metadata,
    #[serde(default)]
    spec: Spec,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Metadata {
    namespace: String,
    name: String,
    resource_version: String,
    creation_timestamp: Option<Time>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    selector: Option<Selector>,
    mtls: Option<Mtls>,
    port_level_mtls: Option<BTreeMap<String, Mtls>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Selector {
    match_labels: Option<BTreeMap<String, String>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Mtls {
    mode: Option<String>,
}

impl Trimmed for TrimmedPolicy {
    fn version(&self) -> &str {
        &self.metadata.resource_version
    }
}

impl Mtls {
    /// `UNSET`, and what a later version may bring, is what holds anyhow.
    fn mode(&self) -> Option<PeerMode> {
        match self.mode.as_deref() {
            Some("DISABLE") => Some(PeerMode::Disable),
            Some("PERMISSIVE") => Some(PeerMode::Permissive),
            Some("STRICT") => Some(PeerMode::Strict),
            _ => None,
        }
    }
}

fn facts_of(policy: &TrimmedPolicy) -> PeerAuthenticationFacts {
    let TrimmedPolicy { metadata, spec } = policy;
    let labels = spec.selector.iter().filter_map(|selector| selector.match_labels.as_ref()).flatten();
    let ports = spec.port_level_mtls.iter().flatten();
    PeerAuthenticationFacts {
        object: ObjectName::new(&metadata.namespace, &metadata.name),
        created: metadata.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second()),
        selector: labels.map(|(key, value)| (key.as_str(), value.as_str())).collect(),
        mode: spec.mtls.as_ref().and_then(Mtls::mode),
        ports: ports.filter_map(|(port, mtls)| Some((port.parse().ok()?, mtls.mode()))).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(spec: &str) -> PeerAuthenticationFacts {
        let json = format!(
            r#"{{"apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication", "metadata": {{"name": "p", "namespace": "n",
                "resourceVersion": "7", "creationTimestamp": "2027-01-15T08:00:00Z"}}, "spec": {spec}, "status": {{}}}}"#
        );
        facts_of(&serde_json::from_str(&json).unwrap())
    }

    #[test]
    fn a_policy_is_read_as_the_api_server_writes_it() {
        let facts = read(
            r#"{"selector": {"matchLabels": {"app": "a"}}, "mtls": {"mode": "STRICT"},
                "portLevelMtls": {"8080": {"mode": "DISABLE"}, "9000": {"mode": "UNSET"}, "x": {"mode": "STRICT"}}}"#,
        );
        assert_eq!((facts.object, facts.created), (ObjectName::new("n", "p"), 1_800_000_000));
        assert_eq!(facts.selector, [("app", "a")].into_iter().collect());
        assert_eq!(facts.mode, Some(PeerMode::Strict));
        assert_eq!(*facts.ports, [(8080, Some(PeerMode::Disable)), (9000, None)]);
    }

    #[test]
    fn what_says_nothing_is_read_as_that() {
        for spec in ["{}", r#"{"mtls": {}}"#, r#"{"mtls": {"mode": "UNSET"}, "selector": {}}"#, r#"{"mtls": null}"#] {
            let facts = read(spec);
            assert_eq!((facts.mode, facts.selector.is_empty(), facts.ports.len()), (None, true, 0), "{spec}");
        }
    }
}
