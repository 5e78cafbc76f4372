//! Pods that carry requests of Gateways.

use std::sync::Arc;

use crate::domain::{
    identity::ServiceAccount,
    policy::{ObjectName, PodFacts, Sidecar},
};

/// A pod that carries the requests of a Gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataPlanePod {
    /// Which.
    pub pod: ObjectName,
    /// Of which Gateways.
    pub carries: Carries,
    /// Whom it runs as.
    pub account: ServiceAccount,
    /// Whether Istio has put a sidecar in.
    pub is_injected: bool,
}

/// Whose requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Carries {
    /// One Gateway's.
    Gateway(ObjectName),
    /// Those of all Gateways of a class, which Envoy Gateway's `mergeGateways` has carried together.
    Class(Arc<str>),
}

impl DataPlanePod {
    /// What a pod is to a Gateway, by the labels that controllers put on what they deploy; `None` of all other pods, and of those
    /// that have finished.
    pub fn of(pod: &PodFacts) -> Option<Self> {
        const OWNING: [&str; 2] =
            ["gateway.envoyproxy.io/owning-gateway-namespace", "gateway.envoyproxy.io/owning-gateway-name"];
        if pod.finished {
            return None;
        }
        let of_gateway = match OWNING.map(|key| pod.labels.get(key)) {
            [Some(namespace), Some(name)] => Some(ObjectName::new(namespace, name)),
            _ => pod
                .labels
                .get("gateway.networking.k8s.io/gateway-name")
                .map(|name| ObjectName { namespace: Arc::clone(&pod.object.namespace), name: name.into() }),
        };
        let of_class =
            || pod.labels.get("gateway.envoyproxy.io/owning-gatewayclass").map(|name| Carries::Class(name.into()));
        let carries = of_gateway.map(Carries::Gateway).or_else(of_class)?;
        let is_injected = pod.sidecar == Sidecar::Injected;
        Some(Self { pod: pod.object.clone(), carries, account: pod.account.clone(), is_injected })
    }
}
