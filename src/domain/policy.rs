//! Which Services a gateway must speak mutual TLS to, and with which identities: pure, from what a cluster holds. Nothing here
//! knows how that was read, nor who is told.

mod condition;
mod control_planes;
mod gateway;
mod labels;
mod membership;
mod mtls_mode;
mod objects;
mod policy_index;
mod policy_snapshot;
mod port_class;
mod release;
mod service_policy;

pub use self::{
    condition::{Condition, GatewayCondition, Lack, SdsObstacle, Severity, Upstream},
    control_planes::{ControlPlanes, GatewayApiSafety},
    gateway::{
        Admits, BackendTlsApi, CA_CONFIG_MAP, ClassFacts, Controller, DataPlanePod, DesiredObject, DesiredPolicy,
        EnvoyBackendFacts, EnvoyGatewaySettings, EnvoyProxyFacts, GatewayChange, GatewayFacts, GatewayIndex,
        GatewayPlan, GatewayState, ListenerFacts, ListenerSetFacts, NamespacePlan, NamespaceSelector, Parent,
        ParentFacts, PolicyTarget, Requirement, RouteBackend, RouteFacts, RouteKind, RouteKinds, SdsSecretFacts,
        SdsUrl, ServicePlan, Target, TlsPolicyFacts, Verification,
    },
    labels::Labels,
    membership::{Membership, MeshLabels, MeshSight, membership},
    mtls_mode::MtlsMode,
    objects::{
        Backing, NamespaceFacts, ObjectName, PodFacts, RevisionTag, ServiceFacts, Sidecar, SliceEndpoint, SliceFacts,
    },
    policy_index::{Change, ClusterChange, PolicyIndex},
    policy_snapshot::{NamespacePolicy, PolicyChanges, PolicySnapshot},
    port_class::{PortClass, PortFacts},
    release::{NoRelease, Release},
    service_policy::{OPT_OUT_ANNOTATION, PORTABLE_IDENTITIES, ServicePolicy},
};

#[cfg(test)]
mod table_tests;
