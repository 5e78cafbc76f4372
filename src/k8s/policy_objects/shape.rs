//! The objects as they are written, and as far as they are read again. What counts is the same in both directions, so that a print
//! of the one equals that of the other exactly if nothing of ours was changed.

mod metadata;

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use self::metadata::Metadata;
use crate::{
    domain::{
        identity::SpiffeId,
        policy::{IdentitySet, ObjectKind, ObjectName, WrittenFacts},
    },
    k8s::root_cert_config_maps::FIELD_MANAGER,
    service::policy_objects::{Content, ObjectKey, Owner, Print, Removed, SeenObject, Wanted},
};

pub(in crate::k8s) const SDS_TYPE: &str = "gateway.envoyproxy.io/sds";
/// Istio from 1.30.1 on leaves such a policy alone.
const IGNORED_BY_ISTIO: &str = "istio.io/ignore-policy-attachment";
/// Argo CD does not take it for something that is to be pruned.
const COMPARE_OPTIONS: &str = "argocd.argoproj.io/compare-options";
const EXTRANEOUS: &str = "IgnoreExtraneous";
const MANAGED_BY: &str = "app.kubernetes.io/managed-by";

/// A ConfigMap with roots.
#[derive(Clone, Debug, Deserialize)]
pub(in crate::k8s) struct RootsObject {
    pub(in crate::k8s) metadata: Metadata,
    #[serde(default)]
    data: Roots,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Roots {
    #[serde(rename = "ca.crt")]
    pem: Option<String>,
}

/// A Secret that stands for something of an SDS server.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct SdsObject {
    metadata: Metadata,
    #[serde(default, rename = "type")]
    kind: String,
    #[serde(default)]
    immutable: bool,
    #[serde(default)]
    data: SdsData,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct SdsData {
    url: Option<ByteString>,
    secret_name: Option<ByteString>,
}

/// A BackendTLSPolicy, everybody's.
#[derive(Clone, Debug, Deserialize)]
pub(in crate::k8s) struct TlsPolicyObject {
    pub(in crate::k8s) metadata: Metadata,
    pub(in crate::k8s) spec: TlsPolicySpec,
    #[serde(default)]
    status: TlsPolicyStatus,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::k8s) struct TlsPolicySpec {
    #[serde(default)]
    pub(in crate::k8s) target_refs: Vec<Reference>,
    #[serde(default)]
    validation: Validation,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::k8s) struct Reference {
    #[serde(default)]
    pub(in crate::k8s) group: String,
    pub(in crate::k8s) kind: String,
    pub(in crate::k8s) name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::k8s) section_name: Option<String>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Validation {
    #[serde(default)]
    hostname: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    subject_alt_names: Vec<AltName>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    ca_certificate_refs: Vec<Reference>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct AltName {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    uri: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hostname: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct TlsPolicyStatus {
    ancestors: Vec<Ancestor>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[serde(rename_all = "camelCase")]
struct Ancestor {
    ancestor_ref: AncestorRef,
    conditions: Vec<Condition>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct AncestorRef {
    kind: Option<String>,
    namespace: Option<String>,
    name: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[serde(rename_all = "camelCase")]
struct Condition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
    reason: String,
    observed_generation: Option<i64>,
}

/// What an answer to a removal says.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Written {
    #[serde(default)]
    metadata: Metadata,
}

/// What is hashed.
#[derive(Serialize)]
struct Printed<'a> {
    managed_by: Option<&'a str>,
    compare_options: Option<&'a str>,
    ignored_by_istio: Option<&'a str>,
    /// Name and UID.
    owners: Vec<(&'a str, &'a str)>,
    content: Value,
}

/// The object for the API server.
pub(super) fn render(wanted: &Wanted, version: Option<&str>) -> Value {
    let ObjectKey { kind, object } = &wanted.key;
    let (api, name, is_ignored) = match kind {
        ObjectKind::ConfigMap => ("v1", "ConfigMap", None),
        ObjectKind::SdsSecret => ("v1", "Secret", None),
        ObjectKind::BackendTlsPolicy => ("gateway.networking.k8s.io/v1", "BackendTLSPolicy", Some("true")),
    };
    let owner = wanted
        .owner
        .as_ref()
        .map(|Owner { name, uid }| json!([{ "apiVersion": "v1", "kind": "Service", "name": &**name, "uid": &**uid }]));
    let metadata = without_nulls(json!({
        "name": &*object.name, "namespace": &*object.namespace, "resourceVersion": version,
        "labels": { MANAGED_BY: FIELD_MANAGER },
        "annotations": without_nulls(json!({ COMPARE_OPTIONS: EXTRANEOUS, IGNORED_BY_ISTIO: is_ignored })),
        "ownerReferences": owner,
    }));
    let mut rendered = json!({ "apiVersion": api, "kind": name, "metadata": metadata });
    if let (Value::Object(rendered), Value::Object(content)) = (&mut rendered, content(&wanted.content)) {
        rendered.extend(content);
    }
    rendered
}

/// What is not there is not written: it would be ours.
fn without_nulls(mut object: Value) -> Value {
    if let Value::Object(fields) = &mut object {
        fields.retain(|_, value| !value.is_null());
    }
    object
}

/// The fields besides metadata.
fn content(content: &Content) -> Value {
    match content {
        Content::Roots { pem } => json!({ "data": { "ca.crt": &**pem } }),
        Content::Sds { url, resource } => {
            let bytes = |text: &str| ByteString(text.as_bytes().to_vec());
            // so nobody can change it unseen
            json!({ "type": SDS_TYPE, "immutable": true, "data": { "url": bytes(&url.text()), "secretName": bytes(resource) } })
        }
        Content::Verification { service, hostname, ids, ca, .. } => {
            let ids = ids.iter().map(|id| json!({ "type": "URI", "uri": id })).collect::<Vec<_>>();
            let validation = without_nulls(json!({
                "hostname": hostname,
                "subjectAltNames": (!ids.is_empty()).then_some(ids),
                "caCertificateRefs": [{ "group": "", "kind": ca.kind.as_str(), "name": &*ca.object.name }],
            }));
            let target = json!({ "group": "", "kind": "Service", "name": &**service });
            json!({ "spec": { "targetRefs": [target], "validation": validation } })
        }
    }
}

/// What the object is seen with once it is as it is wanted.
pub(super) fn print_of(wanted: &Wanted) -> Print {
    let is_policy = wanted.key.kind == ObjectKind::BackendTlsPolicy;
    print(&Printed {
        managed_by: Some(FIELD_MANAGER),
        compare_options: Some(EXTRANEOUS),
        ignored_by_istio: is_policy.then_some("true"),
        owners: wanted.owner.iter().map(|owner| (&*owner.name, &*owner.uid)).collect(),
        content: content(&wanted.content),
    })
}

fn print(printed: &Printed<'_>) -> Print {
    // a value of texts and lists can always be written
    let text = serde_json::to_vec(printed).unwrap_or_default();
    let mut print = [0; 32];
    print.iter_mut().zip(digest(&SHA256, &text).as_ref()).for_each(|(to, from)| *to = *from);
    Print(print)
}

impl RootsObject {
    pub(in crate::k8s) fn seen(&self) -> SeenObject {
        let content = json!({ "data": { "ca.crt": self.data.pem } });
        self.metadata.seen(self.metadata.print(false, content))
    }
}

impl SdsObject {
    pub(super) fn seen(&self) -> SeenObject {
        let SdsData { url, secret_name } = &self.data;
        let content = json!({
            "type": self.kind, "immutable": self.immutable, "data": { "url": url, "secretName": secret_name },
        });
        self.metadata.seen(self.metadata.print(false, content))
    }
}

impl TlsPolicyObject {
    pub(in crate::k8s) fn seen(&self) -> SeenObject {
        let content = json!({ "spec": self.spec });
        let is_unusable = self.status.ancestors.iter().flat_map(|ancestor| &ancestor.conditions).any(|condition| {
            condition.status == "False"
                && ["InvalidCACertificateRef", "NoValidCACertificate"].contains(&&*condition.reason)
        });
        let is_routed = !self.status.ancestors.is_empty();
        let routed = self.spec.target_refs.first().filter(|_| is_routed).map(|target| target.name.as_str().into());
        let seen = self.metadata.seen(self.metadata.print(true, content));
        SeenObject { needs: self.needs(), is_unusable, routed, ..seen }
    }

    /// Whom it accepts by itself, and which Gateways say that they have accepted it.
    pub(in crate::k8s) fn written(&self) -> WrittenFacts {
        let uris = self.spec.validation.subject_alt_names.iter().filter_map(|name| name.uri.as_deref());
        let ids: Vec<SpiffeId> = uris.filter_map(|uri| uri.parse().ok()).collect();
        let mut standing: BTreeMap<ObjectName, bool> = BTreeMap::new();
        for Ancestor { ancestor_ref: gateway, conditions } in &self.status.ancestors {
            if gateway.kind.as_deref().is_some_and(|kind| kind != "Gateway") {
                continue;
            }
            let namespace = gateway.namespace.as_ref().unwrap_or(&self.metadata.namespace);
            let is_accepted = conditions.iter().any(|condition| {
                condition.kind == "Accepted"
                    && condition.status == "True"
                    && condition.observed_generation == Some(self.metadata.generation)
            });
            // one listener of it may have accepted what another has not
            *standing.entry(ObjectName::new(namespace, &gateway.name)).or_insert(true) &= is_accepted;
        }
        let accepted_by = standing.into_iter().filter_map(|(gateway, accepted)| accepted.then_some(gateway));
        let is_sds = self.needs().is_some_and(|needs| needs.kind == ObjectKind::SdsSecret);
        WrittenFacts { identities: IdentitySet::of(&ids), is_sds, accepted_by: accepted_by.collect() }
    }

    fn needs(&self) -> Option<ObjectKey> {
        let [reference] = self.spec.validation.ca_certificate_refs.as_slice() else { return None };
        let kind =
            [ObjectKind::ConfigMap, ObjectKind::SdsSecret].into_iter().find(|kind| kind.as_str() == reference.kind)?;
        Some(ObjectKey { kind, object: ObjectName::new(&self.metadata.namespace, &reference.name) })
    }
}

impl Written {
    /// What is still there after its removal.
    pub(super) fn after_removal(&self) -> Removed {
        if self.metadata.finalizers.is_empty() { Removed::Gone } else { Removed::Going }
    }
}

#[cfg(test)]
mod tests;
