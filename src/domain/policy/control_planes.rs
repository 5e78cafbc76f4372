//! What the control planes of a cluster are, and what they mean for the objects that are written for gateways.

use std::net::SocketAddr;

use super::{ObjectName, Release};

/// What runs. Worked out anew with each [`PolicySnapshot`](super::PolicySnapshot), which holds it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ControlPlanes {
    /// Whether Istio's own sidecars would leave a BackendTLSPolicy alone that is meant for a gateway.
    pub istio: GatewayApiSafety,
    /// The lowest version of all Envoy Gateways that run; `None` if there is none, or one does not say its version.
    pub envoy_gateway: Option<Release>,
    /// Every unfinished istiod in Istio's namespace, in order.
    pub istiods: Box<[SeenIstiod]>,
}

/// Whether a BackendTLSPolicy may be there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum GatewayApiSafety {
    /// Every istiod leaves it alone, or none is seen and nothing has a sidecar of an older one: it may be written.
    Safe,
    /// An istiod has only just begun to run, or this program has, and it is being asked; or one that was unsafe has left, and the
    /// next is not there or does not run yet. Nothing new is written, and what is there stays: were it taken away, a gateway would
    /// speak plaintext for as long as a pod takes to start.
    #[default]
    Settling,
    /// An istiod would have sidecars follow it instead of Istio's own mutual TLS: none is written, what is there is removed.
    Unsafe {
        /// One of those; of several the one with the lowest version.
        pod: ObjectName,
        /// What it says that it is.
        version: Release,
    },
    /// An istiod does not say what it is. That counts as unsafe.
    Unknown {
        /// One of those.
        pod: ObjectName,
        /// Why it is not known, with the fix.
        why: Box<str>,
        /// What its image is tagged with, which proves nothing.
        tag: Option<Box<str>>,
    },
    /// There is none in Istio's namespace, but a pod elsewhere that says that it is one, and is not asked. Nothing new is written, for it
    /// may be an unsafe one; and what is there stays, for anybody can make such a pod.
    Elsewhere {
        /// Which.
        pod: ObjectName,
    },
    /// None is seen, and yet there are sidecars, so one runs elsewhere, of their version or a later one; and that may be an unsafe one.
    /// Nothing new is written, and what is there stays: it may just as well have been scaled down for a while.
    Unseen {
        /// Whose sidecars.
        revision: Box<str>,
        /// The newest of those; `None` if none says its version.
        newest: Option<Release>,
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

/// What is kept of a pod that is part of a control plane, or has a sidecar from one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControlPlanePod {
    /// By its label an istiod.
    Istiod(IstiodPod),
    /// By its label an Envoy Gateway.
    EnvoyGateway {
        /// By the tag of its image.
        version: Option<Release>,
    },
    /// No part of one: Istio has put a sidecar in.
    Sidecar {
        /// Of the istiod that has put it in, unless that is the default one.
        revision: Option<Box<str>>,
        /// By the tag of the sidecar's image.
        version: Option<Release>,
    },
}

/// What is kept of a pod of istiod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IstiodPod {
    /// Where it says its version, once it runs.
    pub place: Option<SocketAddr>,
    /// Of its container: another one after each restart.
    pub instance: Box<str>,
    /// Of its image.
    pub tag: Option<Box<str>>,
    /// Whether it is told to leave the Gateway API alone: `PILOT_ENABLE_GATEWAY_API=false`.
    pub gateway_api_off: bool,
    /// Whether it may have been told to read what of the Gateway API is not stable: `PILOT_ENABLE_ALPHA_GATEWAY_API`.
    pub alpha_gateway_api: bool,
}

/// An istiod with what it said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenIstiod {
    /// Which.
    pub object: ObjectName,
    /// Of two pods of one name, one after the other, each has its own.
    pub uid: Box<str>,
    /// Of which revision.
    pub revision: Box<str>,
    /// What is seen of it.
    pub pod: IstiodPod,
    /// What it says that it is.
    pub version: IstiodVersion,
}

/// What is known of an istiod's version.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum IstiodVersion {
    /// Nothing yet.
    #[default]
    Asked,
    /// It says so.
    Known(Release),
    /// It does not answer, or not with a version.
    Silent {
        /// What happens instead.
        why: Box<str>,
    },
}

/// What one istiod said, which may have left since.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IstiodReport {
    /// Of its pod.
    pub uid: Box<str>,
    /// What is known now.
    pub version: IstiodVersion,
    /// Whether it counted as unsafe when that was decided last.
    pub is_unsafe: bool,
}
