//! Policies as they are told: plain texts, for messages between processes and for lists.

use serde::Serialize;

/// A namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NamespaceView {
    /// Its name.
    pub name: String,
    /// `mutual-tls` or `not-managed`.
    pub mode: String,
    /// Revision or tag of Istio whose injector puts sidecars in; empty if none does.
    pub revision: String,
    /// What is worth knowing.
    pub conditions: Vec<ConditionView>,
}

/// A Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceView {
    /// Where it is.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// `mutual-tls` or `not-managed`.
    pub mode: String,
    /// SPIFFE IDs of its pods.
    pub identities: Vec<String>,
    /// Its TCP ports.
    pub ports: Vec<PortView>,
    /// What is worth knowing.
    pub conditions: Vec<ConditionView>,
}

/// A port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PortView {
    /// Of the Service.
    pub number: u32,
    /// Empty if it has none.
    pub name: String,
    /// `http/1`, `http/2`, `sniffed` or `tcp`.
    pub class: String,
    /// What a gateway offers there, in this order.
    pub alpn: Vec<String>,
    /// What the sidecars behind it take: `strict`, `permissive`, `disable`, with `/` between those of different pods, or `unknown`.
    pub peer_mode: String,
}

/// A condition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ConditionView {
    /// Stable.
    pub reason: String,
    /// `notice`, `warning` or `error`.
    pub severity: String,
    /// For people.
    pub message: String,
}

/// A Gateway of the Gateway API.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GatewayView {
    /// Where it is.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Whether it can send requests to Services of the mesh, as far as is seen.
    pub ready: bool,
    /// SPIFFE IDs that its pods run as.
    pub identities: Vec<String>,
    /// What is worth knowing.
    pub conditions: Vec<ConditionView>,
}

/// A namespace with its Services.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NamespaceListing {
    /// The namespace.
    #[serde(flatten)]
    pub namespace: NamespaceView,
    /// Its Services, if it is of the mesh.
    pub services: Vec<ServiceView>,
}

/// A namespace as it is, or would be with another label.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NamespacePreview {
    /// The namespace with its Services.
    #[serde(flatten)]
    pub listing: NamespaceListing,
    /// Objects for gateways, as KIND NAMESPACE/NAME.
    pub objects: Vec<String>,
}

/// What a reader has to change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyUpdate {
    /// Whether everything that was known before is to be forgotten.
    pub reset: bool,
    /// What was reached with this; empty if more belongs to it.
    pub version: String,
    /// New and changed ones.
    pub namespaces: Vec<NamespaceView>,
    /// Those that are gone.
    pub namespaces_gone: Vec<String>,
    /// New and changed ones.
    pub services: Vec<ServiceView>,
    /// NAMESPACE/NAME of those for which no policy holds any more.
    pub services_gone: Vec<String>,
    /// Of these, those that do not exist any more.
    pub services_deleted: Vec<String>,
    /// New and changed ones.
    pub gateways: Vec<GatewayView>,
    /// NAMESPACE/NAME of those that are gone.
    pub gateways_gone: Vec<String>,
}
