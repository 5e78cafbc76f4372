//! Why it is not known that a Service's policy is in force.

use std::fmt;

use super::{PortableShortfall, Severity};
use crate::domain::identity::SpiffeId;

/// What is lacking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shortfall {
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
            Self::Unasked => Severity::Notice,
            Self::Portable(lacking) => lacking.severity(),
            Self::Outdated { .. } => Severity::Warning,
            Self::Refused { .. } => Severity::Error,
        }
    }
}

impl fmt::Display for Shortfall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unasked => f.write_str(
                "no gateway is known to ask for its identities: whether requests to it go by mutual TLS is not known; a gateway \
                 asks for them on its agent's socket (--policy-address), as validation/NAMESPACE/SERVICE",
            ),
            Self::Portable(lacking) => lacking.fmt(f),
            Self::Outdated { lacking, of, gateway } => {
                write!(f, "{lacking} of {of} gateways that ask for its identities have not accepted those of now yet: ")?;
                write!(f, "{gateway}{}", if *lacking > 1 { " and others" } else { "" })
            }
            Self::Refused { gateway, message } => write!(
                f,
                "the proxy of {gateway} refuses its identities and goes by what it had before, its log says more: {message:?}"
            ),
        }
    }
}
