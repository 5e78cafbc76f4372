//! What is kept of a cluster's objects: only what a policy is worked out from.

use std::{fmt, net::IpAddr, sync::Arc};

use super::{ControlPlanePod, Labels, MeshLabels, PortFacts};
use crate::domain::identity::ServiceAccount;

/// Which object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectName {
    /// Where it is.
    pub namespace: Arc<str>,
    /// Its name there.
    pub name: Arc<str>,
}

impl ObjectName {
    /// From its two parts.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamespaceFacts {
    /// Its name.
    pub name: Arc<str>,
    /// The labels that say whether it is in the mesh.
    pub labels: MeshLabels,
    /// All of them, for listeners that admit Routes by them.
    pub all_labels: Labels,
}

/// A Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceFacts {
    /// Which.
    pub object: ObjectName,
    /// Of two Services of one name, one after the other, each has its own.
    pub uid: Arc<str>,
    /// When it was made, in seconds since 1970.
    pub created: i64,
    /// Who stands behind it.
    pub backing: Backing,
    /// Its TCP ports.
    pub ports: Box<[PortFacts]>,
    /// The value of our annotation.
    pub opt_out: Option<Box<str>>,
    /// If istioctl made it for a revision tag: that.
    pub tag: Option<RevisionTag>,
}

/// Who stands behind a Service. Headless ones, and those with addresses of two families, differ in nothing that counts here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backing {
    /// The pods with these labels; never empty.
    Selector(Labels),
    /// What its EndpointSlices name, which somebody else writes.
    Slices,
    /// A DNS name.
    ExternalName,
}

/// A name for a revision of Istio.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RevisionTag {
    /// The name.
    pub tag: Box<str>,
    /// What it stands for.
    pub revision: Box<str>,
}

/// Ports by their names; pods of one owner share them.
pub type NamedPorts = Arc<[(Box<str>, u16)]>;

/// A pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodFacts {
    /// Which.
    pub object: ObjectName,
    /// Of two pods of one name, one after the other, each has its own.
    pub uid: Box<str>,
    /// Its labels.
    pub labels: Arc<Labels>,
    /// Whom it runs as.
    pub account: ServiceAccount,
    /// Whether it has succeeded or failed: then it serves nothing any more.
    pub finished: bool,
    /// Whether it can speak mutual TLS.
    pub sidecar: Sidecar,
    /// Where it takes connections, while it is ready.
    pub ready_at: Option<IpAddr>,
    /// Its ports that have a name; `None` if there are none.
    pub named_ports: Option<NamedPorts>,
    /// More, if it is part of a control plane, or has a sidecar from one.
    pub control_plane: Option<Box<ControlPlanePod>>,
}

impl PodFacts {
    /// Whether it says itself that it speaks Istio's mutual TLS, as an injected sidecar has it say.
    pub fn shows_mutual_tls(&self) -> bool {
        self.labels.get("security.istio.io/tlsMode") == Some("istio")
    }
}

/// Whether a pod has a sidecar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sidecar {
    /// Istio has put one in.
    Injected,
    /// None; a pod made anew would get one where its namespace asks for it.
    Missing,
    /// None, and a new one would not get one either: it says so itself, or is on its node's network.
    Excluded,
}

/// An EndpointSlice that was not made from a selector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SliceFacts {
    /// Which.
    pub object: ObjectName,
    /// Of which Service, in the same namespace; of none when it has lost its label.
    pub service: Option<Box<str>>,
    /// Whom it names.
    pub endpoints: Box<[SliceEndpoint]>,
}

/// One endpoint.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SliceEndpoint {
    /// A pod of the same namespace.
    Pod {
        /// Its name.
        name: Box<str>,
        /// Its UID, if that is said.
        uid: Option<Box<str>>,
    },
    /// Something that has no identity of the mesh.
    Other,
}
