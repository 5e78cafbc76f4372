//! Why a policy that stands in a BackendTLSPolicy is not known to be in force.

use std::{fmt, sync::Arc};

use super::Severity;
use crate::domain::policy::{ObjectName, ProbeFinding};

/// What is lacking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortableShortfall {
    /// No Gateway leads to the Service.
    Unrouted,
    /// Nobody is behind it.
    Nobody,
    /// The policy is not there, or with other identities.
    Unwritten,
    /// Gateways have not said that they have taken it, as it is.
    Untaken {
        /// How many.
        lacking: usize,
        /// Of how many that lead there.
        of: usize,
        /// One of them.
        gateway: ObjectName,
    },
    /// No pod was asked yet.
    Unprobed,
    /// There is none to be asked.
    NoReadyPod {
        /// Of the Service.
        port: u16,
    },
    /// A pod was seen not to speak mutual TLS as it should.
    Found {
        /// Of the Service.
        port: u16,
        /// Which pod.
        pod: Arc<str>,
        /// How.
        finding: ProbeFinding,
    },
    /// It was taken just now.
    Fresh,
}

impl PortableShortfall {
    pub(super) const fn severity(&self) -> Severity {
        match self {
            Self::Unrouted | Self::Nobody | Self::Unprobed | Self::NoReadyPod { .. } | Self::Fresh => Severity::Notice,
            Self::Unwritten | Self::Untaken { .. } => Severity::Warning,
            Self::Found { finding, .. } => finding.severity(),
        }
    }
}

impl fmt::Display for PortableShortfall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unrouted => f.write_str("no Route leads to it from a Gateway: nothing is sent that could be seen"),
            Self::Nobody => f.write_str("nobody is behind it, and nobody is accepted: there is nothing to be seen"),
            Self::Unwritten => f.write_str("the BackendTLSPolicy that is seen is not yet that of now"),
            Self::Untaken { lacking, of, gateway } => {
                write!(
                    f,
                    "{lacking} of {of} Gateways that lead to it do not say that they have accepted its BackendTLSPolicy: "
                )?;
                write!(f, "{gateway}{}", if *lacking > 1 { " and others" } else { "" })
            }
            Self::Unprobed => f.write_str("its pods have not been asked yet whether they speak mutual TLS"),
            Self::NoReadyPod { port } => write!(
                f,
                "port {port} has no ready pod that could be asked whether it speaks mutual TLS; behind a Service without a selector \
                 none is asked"
            ),
            Self::Found { port, pod, finding } => write!(f, "a connection to port {port} of pod {pod} {finding}"),
            Self::Fresh => f.write_str(
                "Gateways have taken its BackendTLSPolicy less than a minute ago: their proxies may not go by it yet",
            ),
        }
    }
}
