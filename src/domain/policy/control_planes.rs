//! What the control planes of a cluster mean for the objects that are written for gateways.

use super::{ObjectName, Release};

/// What runs. Worked out anew with each [`PolicySnapshot`](super::PolicySnapshot), which holds it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ControlPlanes {
    /// Whether Istio's own sidecars would leave a BackendTLSPolicy alone that is meant for a gateway.
    pub istio: GatewayApiSafety,
    /// The lowest version of all Envoy Gateways that run; `None` if there is none, or one does not say its version.
    pub envoy_gateway: Option<Release>,
}

/// Whether a BackendTLSPolicy may be there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum GatewayApiSafety {
    /// Every istiod leaves it alone, or none is seen: it may be written.
    Safe,
    /// An istiod has only just begun to run, or this program has, and it is being asked. Nothing new is written, and what is
    /// there stays: were it taken away, a gateway would speak plaintext for as long as a pod takes to start.
    #[default]
    Settling,
    /// An istiod would have sidecars follow it instead of Istio's own mutual TLS: none is written, what is there is removed.
    Unsafe {
        /// One of those; of several the one with the lowest version.
        pod: ObjectName,
        /// What it says that it is.
        version: Release,
    },
    /// An istiod does not say what it is, which counts as unsafe.
    Unknown {
        /// One of those.
        pod: ObjectName,
        /// Why it is not known, with the fix.
        why: Box<str>,
        /// What its image is tagged with, which proves nothing.
        tag: Option<Box<str>>,
    },
}

impl GatewayApiSafety {
    /// Whether objects may be written that are not there yet.
    pub const fn may_write(&self) -> bool {
        matches!(self, Self::Safe)
    }

    /// Whether objects that are there must go.
    pub const fn must_remove(&self) -> bool {
        matches!(self, Self::Unsafe { .. } | Self::Unknown { .. })
    }
}
