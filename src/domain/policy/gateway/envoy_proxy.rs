//! EnvoyProxies, and what holds for a Gateway that names one itself where its class names another.

use std::{borrow::Cow, collections::BTreeSet};

use crate::domain::policy::{Lack, ObjectName, Upstream};

/// An EnvoyProxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnvoyProxyFacts {
    /// Which.
    pub object: ObjectName,
    /// The Secret that `spec.backendTLS.clientCertificateRef` names, in the same namespace.
    pub client_certificate: Option<Box<str>>,
    /// `spec.backendTLS.alpnProtocols`; empty if there is none, which is the same on the wire.
    pub alpn: Box<[Box<str>]>,
    /// `envoyDeployment`.
    pub deployment: Option<EnvoyWorkload>,
    /// `envoyDaemonSet`.
    pub daemon_set: Option<EnvoyWorkload>,
    /// To whom it has logs, traces and metrics sent, each once.
    pub telemetry: Box<[Upstream]>,
    /// `spec.mergeType`: how it is laid over the EnvoyProxy of the GatewayClass; `None`: it takes its place.
    pub merge: Option<ProxyMerge>,
}

/// What an EnvoyProxy makes of Envoy's Deployment or DaemonSet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EnvoyWorkload {
    /// Whether `container.volumeMounts` lets Envoy see the agent's socket; `None` if there is no such list.
    pub mounts: Option<bool>,
    /// The same of the containers in `patch.value`.
    pub patched: Option<bool>,
    /// Fields of `patch.value` that are objects themselves.
    pub parts: BTreeSet<Box<str>>,
}

/// How one EnvoyProxy is laid over another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyMerge {
    /// `StrategicMerge`: of lists those that have a merge key are joined, as mounts are, and ALPN names not.
    Strategic,
    /// `JSONMerge`: a list takes the other one's place.
    Json,
}

impl EnvoyProxyFacts {
    /// Whether every Envoy sees the agent's socket.
    pub(super) fn has_agent(&self) -> bool {
        let mut workloads = self.deployment.iter().chain(&self.daemon_set).peekable();
        workloads.peek().is_some() && workloads.all(EnvoyWorkload::sees_socket)
    }

    /// Whether what it does not say is that of the GatewayClass.
    pub(super) const fn is_merged(&self) -> bool {
        self.merge.is_some()
    }

    /// What holds for a Gateway that names this one, while its class names `base`.
    ///
    /// # Errors
    ///
    /// What it lacks, if Envoy Gateway can't merge them: then neither holds.
    pub(super) fn over<'a>(&'a self, base: Option<&'a Self>) -> Result<Cow<'a, Self>, Lack> {
        let (Some(merge), Some(base)) = (self.merge, base) else { return Ok(Cow::Borrowed(self)) };
        let workload = |own: &Option<EnvoyWorkload>, base: &Option<EnvoyWorkload>| match (own, base) {
            (Some(own), Some(base)) => own.over(base, merge).map(Some),
            (own, base) => Some(own.as_ref().or(base.as_ref()).cloned()),
        };
        let deployment = workload(&self.deployment, &base.deployment);
        let daemon_set = workload(&self.daemon_set, &base.daemon_set);
        let (Some(deployment), Some(daemon_set)) = (deployment, daemon_set) else {
            return Err(Lack::Merge { own: self.object.clone(), base: base.object.clone() });
        };
        // which is looked up where the merged one is, as this one is called
        let inherited = base.client_certificate.as_ref().filter(|_| base.object.namespace == self.object.namespace);
        Ok(Cow::Owned(Self {
            client_certificate: self.client_certificate.as_ref().or(inherited).cloned(),
            alpn: if self.alpn.is_empty() { base.alpn.clone() } else { self.alpn.clone() },
            deployment,
            daemon_set,
            ..self.clone()
        }))
    }
}

impl EnvoyWorkload {
    fn sees_socket(&self) -> bool {
        self.mounts == Some(true) || self.patched == Some(true)
    }

    /// `None` if they can't be merged: strategically Envoy Gateway merges no two objects within patches.
    fn over(&self, base: &Self, merge: ProxyMerge) -> Option<Self> {
        let parts = || self.parts.union(&base.parts).cloned().collect();
        let patched = self.patched.or(base.patched);
        match merge {
            ProxyMerge::Strategic if !self.parts.is_disjoint(&base.parts) => None,
            ProxyMerge::Strategic => Some(Self { mounts: self.mounts.max(base.mounts), patched, parts: parts() }),
            ProxyMerge::Json => Some(Self { mounts: self.mounts.or(base.mounts), patched, parts: parts() }),
        }
    }
}
