//! What of the policies is written into the cluster for gateways of the Gateway API: whom a Gateway reaches, what its controller can
//! verify, and which objects follow from that. Pure, like all of the policy; nothing here reads or writes.

mod attached_policies;
mod data_plane;
mod envoy_proxy;
mod facts;
mod gateway_index;
mod gateway_state;
mod grants;
mod index_of;
mod known;
mod plan;
mod routes;
mod service_plan;
mod standing;
mod tls_policies;
mod topology;

use self::{
    attached_policies::AttachedPolicies,
    grants::Grants,
    index_of::IndexOf,
    known::Known,
    routes::Routes,
    service_plan::Outlook,
    standing::{Ability, Standing, Surroundings},
    tls_policies::TlsPolicies,
    topology::{LabelledNamespace, Topology},
};

pub use self::{
    attached_policies::{AttachedKind, AttachedPolicyFacts, Attachment},
    data_plane::{Carries, DataPlanePod},
    envoy_proxy::{EnvoyProxyFacts, EnvoyWorkload, ProxyMerge},
    facts::{
        Admits, BackendTlsApi, ClassFacts, Controller, EnvoyBackendFacts, EnvoyGatewaySettings, GatewayChange,
        GatewayFacts, ListenerFacts, ListenerSetFacts, NamespaceSelector, Parent, ParentFacts, PolicyTarget,
        Requirement, RouteBackend, RouteFacts, RouteKind, RouteKinds, SdsSecretFacts, Target, TlsPolicyFacts,
        WrittenFacts,
    },
    gateway_index::GatewayIndex,
    grants::GrantFacts,
    plan::{
        CA_CONFIG_MAP, DesiredObject, DesiredPolicy, GatewayPlan, GatewayState, NamespacePlan, SdsUrl, ServicePlan,
        Uptake, Verification,
    },
};

#[cfg(test)]
mod table_tests;
#[cfg(test)]
mod testing;

#[cfg(test)]
pub(crate) use self::testing::nothing_there;
