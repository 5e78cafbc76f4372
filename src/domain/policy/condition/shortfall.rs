//! Why it is not known that a Service's policy is in force.

use std::fmt;

use super::{PortableShortfall, Severity};
use crate::domain::{identity::SpiffeId, policy::ObjectName};

/// What is lacking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shortfall {
    /// Routes lead there, and there is no policy that Gateways would go by.
    NoPolicy {
        /// From which Gateways.
        gateways: Box<[ObjectName]>,
    },
    /// Routes lead there, and the policy that is to be there is not, or not yet.
    Unwritten {
        /// From which Gateways.
        gateways: Box<[ObjectName]>,
    },
    /// Which Gateways lead there is not known yet.
    Unplanned,
    /// No gateway has asked for the Service's identities.
    Unasked,
    /// Of what Gateways do that go by a BackendTLSPolicy alone.
    Portable(PortableShortfall),
    /// Gateways go by other identities than those of now, or by none yet.
    Outdated {
        /// How many.
        lacking: usize,
        /// Of how many that have asked.
        of: usize,
        /// One of them.
        gateway: SpiffeId,
    },
    /// Pods of a Gateway from which a Route leads there do not ask for its identities.
    Unheard {
        /// Whom they run as.
        gateway: SpiffeId,
        /// How many do.
        asking: usize,
        /// Of how many.
        pods: usize,
    },
    /// Its BackendTLSPolicy was away a moment ago, or said something else, and proxies may still follow that.
    Remade,
    /// A gateway does not take them.
    Refused {
        /// Which.
        gateway: SpiffeId,
        /// What its proxy says: others' text.
        message: Box<str>,
    },
}

impl Shortfall {
    pub(super) const fn severity(&self) -> Severity {
        match self {
            Self::Unplanned | Self::Unasked | Self::Remade => Severity::Notice,
            Self::Portable(lacking) => lacking.severity(),
            Self::Outdated { .. } | Self::Unheard { .. } | Self::Unwritten { .. } => Severity::Warning,
            Self::Refused { .. } | Self::NoPolicy { .. } => Severity::Error,
        }
    }
}

impl fmt::Display for Shortfall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unplanned => f.write_str("which Gateways lead to it is not known yet (`policy gateways` says what is not)"),
            Self::Unasked => f.write_str(
                "no gateway is known to ask for its identities: whether requests to it go by mutual TLS is not known; a gateway \
                 asks for them on its agent's socket (--policy-address), as validation/NAMESPACE/SERVICE",
            ),
            Self::Portable(lacking) => lacking.fmt(f),
            Self::Remade => f.write_str(
                "its BackendTLSPolicy was away or changed less than a minute ago: Gateways' proxies may still follow that, and send \
                 plaintext until they follow the one of now as well",
            ),
            Self::Outdated { lacking, of, gateway } => {
                write!(f, "{lacking} of {of} gateways that ask for its identities have not accepted those of now yet: ")?;
                write!(f, "{gateway}{}", if *lacking > 1 { " and others" } else { "" })
            }
            Self::Unheard { gateway, asking, pods } => write!(
                f,
                "{asking} of {pods} pods of {gateway} ask for its identities: what the others send goes by what they were told before"
            ),
            Self::NoPolicy { gateways } => {
                f.write_str("no policy of ours tells Gateways that lead there to speak mutual TLS, so they send plaintext, or what somebody \
                             else's policy says, whatever others have accepted: ")?;
                name(gateways, f)
            }
            Self::Unwritten { gateways } => {
                f.write_str("its BackendTLSPolicy is not there yet, so Gateways that lead there send plaintext, whatever others have \
                             accepted (/readyz and the log of the active replica say what keeps it from being written): ")?;
                name(gateways, f)
            }
            Self::Refused { gateway, message } => write!(
                f,
                "the proxy of {gateway} refuses its identities and goes by what it had before, its log says more: {message:?}"
            ),
        }
    }
}

fn name(gateways: &[ObjectName], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let (first, more) = (gateways.first(), gateways.len().saturating_sub(1));
    first.map_or(Ok(()), |gateway| write!(f, "{gateway}"))?;
    if more > 0 { write!(f, " and {more} more") } else { Ok(()) }
}
