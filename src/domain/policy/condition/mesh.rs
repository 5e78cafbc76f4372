//! What the mesh itself is like: the version of Istio, its PeerAuthentications, and membership by what pods show.

use std::fmt;

use super::{Numbers, Severity};
use crate::domain::policy::{ObjectName, Release};

/// Something about the mesh that holds for a namespace or a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MeshCondition {
    /// Of a namespace: an istiod would have sidecars follow policies that are written for gateways.
    UnsafeOnThisIstio {
        /// Which.
        pod: ObjectName,
        /// What it says that it is.
        version: Release,
    },
    /// Of a namespace: an istiod does not say what it is, which counts as unsafe.
    IstioVersionUnknown {
        /// Which.
        pod: ObjectName,
        /// Why it is not known.
        why: Box<str>,
        /// Of its image.
        tag: Option<Box<str>>,
    },
    /// Of a namespace: there are sidecars and no istiod, so that its version is not known.
    IstiodUnseen {
        /// Whose sidecars.
        revision: Box<str>,
        /// The newest of those.
        newest: Option<Release>,
    },
    /// Of a namespace: an istiod is older than what this was tried with.
    IstioTooOld {
        /// Which.
        pod: ObjectName,
        /// What it says that it is.
        version: Release,
    },
    /// Of a namespace: an istiod runs where none is expected, and is not asked.
    IstiodElsewhere {
        /// Which.
        pod: ObjectName,
        /// Where they are expected.
        expected: Box<str>,
        /// Whether there is none, so that no new policies are written.
        decides: bool,
    },
    /// Of a namespace or a Service: plaintext is sent, and the sidecars there take none.
    StrictButNotManaged {
        /// Who says so.
        by: Option<ObjectName>,
    },
    /// Of a Service: sidecars take no mutual TLS.
    PolicyModeDisabled {
        /// Where, by the Service's number.
        ports: Box<[u16]>,
        /// How many pods.
        pods: usize,
        /// Of how many.
        of: usize,
        /// Who says so.
        by: Option<ObjectName>,
    },
    /// Of a Service: a member by its pods alone.
    MemberByPods,
}

impl MeshCondition {
    /// Stable, for programs.
    pub(super) const fn reason(&self) -> &'static str {
        match self {
            Self::UnsafeOnThisIstio { .. } => "UnsafeOnThisIstio",
            Self::IstioVersionUnknown { .. } | Self::IstiodUnseen { .. } => "IstioVersionUnknown",
            Self::IstioTooOld { .. } => "IstioTooOld",
            Self::IstiodElsewhere { .. } => "IstiodElsewhere",
            Self::StrictButNotManaged { .. } => "StrictButNotManaged",
            Self::PolicyModeDisabled { .. } => "PolicyModeDisabled",
            Self::MemberByPods => "MemberByPods",
        }
    }

    /// How much it matters.
    pub(super) const fn severity(&self) -> Severity {
        match self {
            Self::MemberByPods => Severity::Notice,
            Self::UnsafeOnThisIstio { .. }
            | Self::IstioVersionUnknown { .. }
            | Self::IstiodUnseen { .. }
            | Self::IstioTooOld { .. }
            | Self::IstiodElsewhere { .. } => Severity::Warning,
            Self::StrictButNotManaged { .. } | Self::PolicyModeDisabled { .. } => Severity::Error,
        }
    }
}

/// The text for people.
impl fmt::Display for MeshCondition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnsafeOnThisIstio { pod, version } => write!(
                f,
                "istiod {pod} is {version}, which has the mesh's own sidecars follow a BackendTLSPolicy in place of Istio's mutual \
                 TLS: none is written for gateways; upgrade it to 1.30.1 or later, or set PILOT_ENABLE_GATEWAY_API=false on it"
            ),
            Self::IstioVersionUnknown { pod, why, tag } => {
                write!(f, "the version of istiod {pod} is not known ({why}")?;
                if let Some(tag) = tag {
                    write!(f, "; its image is tagged {tag}, which proves nothing")?;
                }
                f.write_str(
                    "), so it counts as one of 1.28.0 to 1.30.0 and no BackendTLSPolicy is written for gateways: let these replicas \
                     reach port http-monitoring of the pod (15014), or set PILOT_ENABLE_GATEWAY_API=false on it",
                )
            }
            Self::IstiodUnseen { revision, newest } => {
                write!(f, "no istiod is seen, but pods have sidecars of revision {revision}, ")?;
                match newest {
                    Some(newest) => write!(f, "{newest} the newest of them")?,
                    None => f.write_str("of which none says its version")?,
                }
                f.write_str(
                    ", so one runs elsewhere and counts as one of 1.28.0 to 1.30.0: no new BackendTLSPolicy is written for gateways; \
                     once it is 1.30.1 or later, restart a pod of that revision, whose sidecar then proves it",
                )
            }
            Self::IstioTooOld { pod, version } => write!(
                f,
                "istiod {pod} is {version}: versions before 1.24 are not supported, what is said here may be wrong; upgrade it"
            ),
            Self::IstiodElsewhere { pod, expected, decides } => elsewhere(f, pod, expected, *decides),
            Self::StrictButNotManaged { by } => write!(
                f,
                "mutual TLS is not required here, so a gateway sends plaintext unless a policy of its own says otherwise, and {} STRICT \
                 refuses it: label the namespace istio-injection: enabled, or make the mode PERMISSIVE",
                By(by.as_ref())
            ),
            Self::PolicyModeDisabled { ports, pods, of, by } => write!(
                f,
                "{} DISABLE holds on port {} at {pods} of {of} pods, where sidecars take plaintext alone: mutual TLS is refused there; \
                 make the mode PERMISSIVE or STRICT, or annotate the Service countersign.io/mtls: disabled",
                By(by.as_ref()),
                Numbers(ports)
            ),
            Self::MemberByPods => f.write_str(
                "no label says that its namespace is in the mesh, but every pod of it carries security.istio.io/tlsMode: istio: mutual \
                 TLS is required (--policy-membership auto)",
            ),
        }
    }
}

fn elsewhere(f: &mut fmt::Formatter<'_>, pod: &ObjectName, expected: &str, decides: bool) -> fmt::Result {
    write!(
        f,
        "pod {pod} is labelled app: istiod, but Istio's namespace is {expected} (--istio-namespace): its version is not looked at"
    )?;
    if !decides {
        return Ok(());
    }
    write!(
        f,
        "; and as that has none, no new BackendTLSPolicy is written for gateways: give --istio-namespace {} if that is where Istio \
         runs, else remove the pod",
        pod.namespace
    )
}

struct By<'a>(Option<&'a ObjectName>);

impl fmt::Display for By<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(by) => write!(f, "PeerAuthentication {by}:"),
            None => f.write_str("mode"),
        }
    }
}
