//! What is worth knowing about a namespace or Service: stable reasons, with texts that name the fix.

mod gateway;
mod gateway_lack;
mod mesh;
mod portable_shortfall;
mod shortfall;

use std::fmt;

pub use self::{
    gateway::{GatewayCondition, UnreadyRequests, Upstream},
    gateway_lack::{Lack, SdsObstacle},
    mesh::MeshCondition,
    portable_shortfall::PortableShortfall,
    shortfall::Shortfall,
};
use super::ObjectName;

/// How much a condition matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// As asked for, but easily overlooked.
    Notice,
    /// Requests may fail, or something is not what it seems.
    Warning,
    /// Requests will fail.
    Error,
}

/// Something that holds for a namespace or a Service. Each has a stable reason; texts may change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Of a namespace: ambient's ztunnel is not what a gateway reaches by mutual TLS.
    AmbientUnsupported {
        /// Whether its other labels ask for sidecars.
        has_sidecars: bool,
    },
    /// Of a namespace: `istio.io/dataplane-mode` is none that Istio knows.
    DataplaneModeUnknown {
        /// What it is.
        value: Box<str>,
    },
    /// Of a namespace: `istio-injection: disabled`.
    InjectionDisabled {
        /// `istio.io/rev`, which counts for nothing then.
        revision: Option<Box<str>>,
    },
    /// Of a namespace: `istio-injection` is neither `enabled` nor `disabled`.
    InjectionValueUnknown {
        /// What it is.
        value: Box<str>,
    },
    /// Of a namespace: it has both labels, and `istio-injection` comes first.
    RevisionIgnored {
        /// `istio.io/rev`.
        revision: Box<str>,
    },
    /// Of a namespace: `istio.io/rev` names none.
    RevisionEmpty,
    /// Of a namespace: Istio leaves it alone.
    NamespaceNeverInjected,
    /// Of a namespace: no istiod is seen in this cluster.
    IstioNotDetected,
    /// Of a namespace: the revision or tag that it names is not seen.
    RevisionNotDetected {
        /// Which.
        revision: Box<str>,
    },
    /// Of a Service: our annotation takes it out.
    OptedOut,
    /// Of a Service: our annotation has a value that means nothing.
    OptOutUnknown {
        /// Which.
        value: Box<str>,
    },
    /// Of a Service: it stands for a name outside.
    ExternalName,
    /// Of a Service: nobody is behind it.
    NoPods,
    /// Of a Service: some of its endpoints are no pods.
    EndpointsNotPods {
        /// How many.
        endpoints: usize,
    },
    /// Of a Service: pods were made before the label was.
    SidecarMissing {
        /// How many.
        pods: usize,
        /// Of how many.
        of: usize,
        /// Where, for the command.
        namespace: Box<str>,
    },
    /// Of a Service: pods will not get a sidecar.
    SidecarExcluded {
        /// How many.
        pods: usize,
        /// Of how many.
        of: usize,
    },
    /// Of a Service: what its ports speak is not said.
    PortProtocolUndeclared {
        /// Their numbers.
        ports: Box<[u16]>,
    },
    /// Of a Service: sidecars take ports for something else than it says, because another one leads there too.
    PortProtocolConflict {
        /// Their numbers.
        ports: Box<[u16]>,
        /// Which Service; `None` if it is another port of the same.
        by: Option<ObjectName>,
    },
    /// Of a Service: pods speak TLS of their own on these ports.
    PortSpeaksTls {
        /// Their numbers.
        ports: Box<[u16]>,
    },
    /// Of either: what the mesh itself is like.
    Mesh(MeshCondition),
    /// Of a Service or a Gateway: what is between them.
    Gateway(GatewayCondition),
    /// Of a Service: the proxies of all gateways that ask for its identities have accepted those of now; and where Gateways go by a
    /// BackendTLSPolicy alone, they have taken it, and its pods were seen to speak mutual TLS.
    Enforced {
        /// How many agents say so.
        gateways: usize,
        /// How many Gateways go by the BackendTLSPolicy alone.
        portable: usize,
    },
    /// Of a Service: they have not, as far as it is known.
    NotEnforced(Shortfall),
}

impl Condition {
    /// Stable, for programs.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::AmbientUnsupported { .. } => "AmbientUnsupported",
            Self::DataplaneModeUnknown { .. } => "DataplaneModeUnknown",
            Self::InjectionDisabled { .. } => "InjectionDisabled",
            Self::InjectionValueUnknown { .. } => "InjectionValueUnknown",
            Self::RevisionIgnored { .. } => "RevisionIgnored",
            Self::RevisionEmpty => "RevisionEmpty",
            Self::NamespaceNeverInjected => "NamespaceNeverInjected",
            Self::IstioNotDetected => "IstioNotDetected",
            Self::RevisionNotDetected { .. } => "RevisionNotDetected",
            Self::OptedOut => "OptedOut",
            Self::OptOutUnknown { .. } => "OptOutUnknown",
            Self::ExternalName => "ExternalName",
            Self::NoPods => "NoPods",
            Self::EndpointsNotPods { .. } => "EndpointsNotPods",
            Self::SidecarMissing { .. } => "SidecarMissing",
            Self::SidecarExcluded { .. } => "SidecarExcluded",
            Self::PortProtocolUndeclared { .. } => "PortProtocolUndeclared",
            Self::PortProtocolConflict { .. } => "PortProtocolConflict",
            Self::PortSpeaksTls { .. } => "PortSpeaksTls",
            Self::Mesh(condition) => condition.reason(),
            Self::Gateway(condition) => condition.reason(),
            Self::Enforced { .. } => "Enforced",
            Self::NotEnforced(_) => "NotEnforced",
        }
    }

    /// How much it matters.
    pub const fn severity(&self) -> Severity {
        match self {
            Self::InjectionDisabled { .. }
            | Self::RevisionIgnored { .. }
            | Self::OptedOut
            | Self::NoPods
            | Self::Enforced { .. } => Severity::Notice,
            Self::NotEnforced(shortfall) => shortfall.severity(),
            Self::InjectionValueUnknown { .. }
            | Self::AmbientUnsupported { .. }
            | Self::DataplaneModeUnknown { .. }
            | Self::RevisionEmpty
            | Self::NamespaceNeverInjected
            | Self::IstioNotDetected
            | Self::RevisionNotDetected { .. }
            | Self::OptOutUnknown { .. }
            | Self::PortProtocolUndeclared { .. }
            | Self::PortProtocolConflict { .. } => Severity::Warning,
            Self::ExternalName
            | Self::EndpointsNotPods { .. }
            | Self::SidecarMissing { .. }
            | Self::SidecarExcluded { .. }
            | Self::PortSpeaksTls { .. } => Severity::Error,
            Self::Mesh(condition) => condition.severity(),
            Self::Gateway(condition) => condition.severity(),
        }
    }
}

impl Severity {
    /// As it is written in lists and messages.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Notice => "notice",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// The text for people.
impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AmbientUnsupported { .. }
            | Self::DataplaneModeUnknown { .. }
            | Self::InjectionDisabled { .. }
            | Self::InjectionValueUnknown { .. }
            | Self::RevisionIgnored { .. }
            | Self::RevisionEmpty
            | Self::NamespaceNeverInjected
            | Self::IstioNotDetected
            | Self::RevisionNotDetected { .. } => self.of_namespace(f),
            Self::OptedOut => f.write_str("annotation countersign.io/mtls: disabled takes this Service out"),
            Self::OptOutUnknown { value } => {
                write!(f, "annotation countersign.io/mtls is {value:?}, which means nothing: write disabled, or remove it")
            }
            Self::ExternalName => f.write_str(
                "it stands for a name outside, and nobody there has an identity of the mesh: no connection is accepted; \
                 annotate it countersign.io/mtls: disabled if it is to be reached otherwise",
            ),
            Self::NoPods => f.write_str("no unfinished pod is behind it: nobody is accepted until there is one"),
            Self::EndpointsNotPods { endpoints } => write!(
                f,
                "{endpoints} of its endpoints are no pods of its namespace and have no identity of the mesh: they are not accepted"
            ),
            Self::SidecarMissing { pods, of, namespace } => write!(
                f,
                "{pods} of {of} pods have no sidecar and can't speak mutual TLS, they were made before the label was: kubectl \
                 rollout restart deployment,statefulset,daemonset --namespace {namespace}"
            ),
            Self::SidecarExcluded { pods, of } => write!(
                f,
                "{pods} of {of} pods never get a sidecar (sidecar.istio.io/inject: \"false\", or hostNetwork): annotate the \
                 Service countersign.io/mtls: disabled, or have them injected"
            ),
            Self::PortProtocolUndeclared { ports } => write!(
                f,
                "port {} does not say what it speaks, so the sidecar guesses: set appProtocol, or name it http-…, grpc-… or tcp-…",
                Numbers(ports)
            ),
            Self::PortProtocolConflict { ports, by } => {
                write!(f, "port {} leads to where ", Numbers(ports))?;
                match by {
                    Some(by) => write!(f, "Service {by} leads, which was made earlier")?,
                    None => f.write_str("another port of this Service leads, which comes earlier")?,
                }
                f.write_str(" and says something else of what is spoken there: sidecars go by that; have both say the same")
            }
            Self::PortSpeaksTls { ports } => write!(
                f,
                "port {} is declared as TLS of the pod itself, which HTTP over mutual TLS of the mesh does not reach: name a port \
                 of plain HTTP",
                Numbers(ports)
            ),
            Self::Mesh(condition) => condition.fmt(f),
            Self::Gateway(condition) => condition.fmt(f),
            Self::Enforced { gateways, portable } => enforced(f, *gateways, *portable),
            Self::NotEnforced(shortfall) => shortfall.fmt(f),
        }
    }
}

fn enforced(f: &mut fmt::Formatter<'_>, gateways: usize, portable: usize) -> fmt::Result {
    if portable > 0 {
        write!(
            f,
            "all Gateways that lead to it ({portable}) have accepted its BackendTLSPolicy, and its pods were seen to speak mutual TLS \
             as one of its identities"
        )?;
    }
    if gateways > 0 {
        let between = if portable > 0 { "; " } else { "" };
        write!(
            f,
            "{between}all gateways that ask for its identities ({gateways}) have accepted those of now: nobody else is spoken to"
        )?;
    }
    Ok(())
}

impl From<MeshCondition> for Condition {
    fn from(condition: MeshCondition) -> Self {
        Self::Mesh(condition)
    }
}

impl From<GatewayCondition> for Condition {
    fn from(condition: GatewayCondition) -> Self {
        Self::Gateway(condition)
    }
}

impl Condition {
    fn of_namespace(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AmbientUnsupported { has_sidecars: true } => f.write_str(
                "istio.io/dataplane-mode: ambient beside a label for sidecars: only pods with a sidecar can be reached",
            ),
            Self::AmbientUnsupported { has_sidecars: false } => f.write_str(
                "istio.io/dataplane-mode: ambient is not supported: no mutual TLS is required; label the namespace \
                 istio-injection: enabled to use sidecars",
            ),
            Self::DataplaneModeUnknown { value } => write!(
                f,
                "istio.io/dataplane-mode is {value:?}, which Istio passes over: the other labels alone count; write none or ambient, \
                 or remove it"
            ),
            Self::InjectionDisabled { revision: None } => f.write_str("istio-injection: disabled keeps it out of the mesh"),
            Self::InjectionDisabled { revision: Some(revision) } => {
                write!(f, "istio-injection: disabled keeps it out of the mesh, whatever istio.io/rev: {revision} says")
            }
            Self::InjectionValueUnknown { value } => write!(
                f,
                "istio-injection is {value:?}, with which Istio injects nothing; mutual TLS is required all the same: write enabled \
                 or disabled"
            ),
            Self::RevisionIgnored { revision } => {
                write!(f, "istio-injection comes before istio.io/rev: {revision}, so the default revision injects")
            }
            Self::RevisionEmpty => f.write_str("istio.io/rev is empty and counts for nothing: name a revision, or remove it"),
            Self::NamespaceNeverInjected => {
                f.write_str("Istio injects nothing into this namespace, whatever its labels say: no pod can be reached")
            }
            Self::IstioNotDetected => f.write_str(
                "no pod labelled app: istiod is seen in this cluster: new pods get a sidecar only if an istiod elsewhere injects it",
            ),
            Self::RevisionNotDetected { revision } => write!(
                f,
                "no istiod of revision {revision} is seen, nor a Service of a tag of that name: new pods get no sidecar unless a \
                 webhook knows the name"
            ),
            Self::OptedOut
            | Self::OptOutUnknown { .. }
            | Self::ExternalName
            | Self::NoPods
            | Self::EndpointsNotPods { .. }
            | Self::SidecarMissing { .. }
            | Self::SidecarExcluded { .. }
            | Self::PortProtocolUndeclared { .. }
            | Self::PortProtocolConflict { .. }
            | Self::PortSpeaksTls { .. }
            | Self::Gateway(_)
            | Self::Mesh(_)
            | Self::Enforced { .. }
            | Self::NotEnforced(_) => Ok(()),
        }
    }
}

/// With commas between them.
struct Numbers<'a>(&'a [u16]);

impl fmt::Display for Numbers<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().enumerate().try_for_each(|(at, number)| write!(f, "{}{number}", if at > 0 { ", " } else { "" }))
    }
}
