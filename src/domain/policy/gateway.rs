//! What of the policies is written into the cluster for gateways of the Gateway API: whom a Gateway reaches, what its controller can
//! verify, and which objects follow from that. Pure, like all of the policy; nothing here reads or writes.

mod facts;
mod plan;

pub use self::{
    facts::{
        Admits, BackendTlsApi, ClassFacts, Controller, DataPlanePod, EnvoyBackendFacts, EnvoyGatewaySettings,
        EnvoyProxyFacts, GatewayChange, GatewayFacts, ListenerFacts, ListenerSetFacts, NamespaceSelector, Parent,
        ParentFacts, PolicyTarget, Requirement, RouteBackend, RouteFacts, RouteKind, RouteKinds, RouteName,
        SdsSecretFacts, Target, TlsPolicyFacts,
    },
    plan::{
        CA_CONFIG_MAP, DesiredObject, DesiredPolicy, GatewayPlan, GatewayState, NamespacePlan, SdsUrl, ServicePlan,
        Verification,
    },
};
