//! What every object of ours says of itself, as far as it is read.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::Deserialize;
use serde_json::Value;

use super::{Printed, print};
use crate::{
    domain::{clock::Timestamp, policy::ObjectName},
    k8s::root_cert_config_maps::FIELD_MANAGER,
    service::policy_objects::{Print, SeenObject},
};

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(in crate::k8s) struct Metadata {
    pub(in crate::k8s) namespace: String,
    pub(in crate::k8s) name: String,
    uid: Box<str>,
    pub(super) generation: i64,
    pub(in crate::k8s) resource_version: Box<str>,
    creation_timestamp: Option<Time>,
    deletion_timestamp: Option<Time>,
    pub(super) finalizers: Vec<String>,
    labels: Labels,
    annotations: Annotations,
    owner_references: Vec<OwnerReference>,
    managed_fields: Vec<ManagedFields>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Labels {
    #[serde(rename = "app.kubernetes.io/managed-by")]
    managed_by: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Annotations {
    #[serde(rename = "istio.io/ignore-policy-attachment")]
    ignored_by_istio: Option<String>,
    #[serde(rename = "argocd.argoproj.io/compare-options")]
    compare_options: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct OwnerReference {
    kind: String,
    name: String,
    uid: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct ManagedFields {
    manager: String,
    operation: String,
    subresource: String,
    time: Option<Time>,
}

impl Metadata {
    pub(in crate::k8s) fn object(&self) -> ObjectName {
        ObjectName::new(&self.namespace, &self.name)
    }

    /// Whether our field manager has applied it.
    pub(in crate::k8s) fn is_ours(&self) -> bool {
        self.managed_fields.iter().any(|fields| fields.manager == FIELD_MANAGER && fields.operation == "Apply")
    }

    pub(super) fn print(&self, is_policy: bool, content: Value) -> Print {
        let owners = self.owner_references.iter().filter(|owner| owner.kind == "Service");
        print(&Printed {
            managed_by: self.labels.managed_by.as_deref(),
            compare_options: self.annotations.compare_options.as_deref(),
            ignored_by_istio: self.annotations.ignored_by_istio.as_deref().filter(|_| is_policy),
            owners: owners.map(|owner| (owner.name.as_str(), owner.uid.as_str())).collect(),
            content,
        })
    }

    /// Statuses apart. What nobody dates has been there for ever.
    fn changed_at(&self) -> Timestamp {
        let changes = self.managed_fields.iter().filter(|fields| fields.subresource.is_empty());
        let times = changes.filter_map(|fields| fields.time.as_ref()).chain(&self.creation_timestamp);
        Timestamp::from_seconds(times.map(|time| time.0.as_second()).max().unwrap_or_default())
    }

    fn going(&self) -> Option<Box<str>> {
        self.deletion_timestamp.as_ref().map(|_since| self.finalizers.join(", ").into())
    }

    pub(super) fn seen(&self, print: Print) -> SeenObject {
        SeenObject {
            version: self.resource_version.clone(),
            uid: (*self.uid).into(),
            generation: self.generation,
            changed_at: self.changed_at(),
            print,
            ours: self.is_ours(),
            going: self.going(),
            needs: None,
            is_unusable: false,
            routed: None,
        }
    }
}
