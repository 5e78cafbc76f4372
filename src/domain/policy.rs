//! Which Services a gateway must speak mutual TLS to, and with which identities: pure, from what a cluster holds. Nothing here
//! knows how that was read, nor who is told.

mod condition;
mod control_planes;
mod enforcement;
mod gateway;
mod identity_set;
mod istio_version;
mod labels;
mod membership;
mod mtls_mode;
mod object_kind;
mod objects;
mod peer_authentication;
mod policy_index;
mod policy_snapshot;
mod port_class;
mod port_decider;
mod probe;
mod reach;
mod release;
mod service_policy;

#[cfg(test)]
pub(crate) use self::gateway::nothing_there;
pub use self::{
    condition::{
        Condition, GatewayCondition, Lack, MeshCondition, PortableShortfall, SdsObstacle, Severity, Shortfall,
        UnreadyRequests, Upstream,
    },
    control_planes::{
        ControlPlanePod, ControlPlanes, GatewayApiSafety, IstiodPod, IstiodReport, IstiodVersion, SeenIstiod,
    },
    enforcement::{
        Carriers, ContextReport, Enforcement, EnforcementIndex, PolicySight, Report, ReportChange, Reporter,
    },
    gateway::{
        Admits, AttachedKind, AttachedPolicyFacts, Attachment, BackendTlsApi, CA_CONFIG_MAP, Carries, ClassFacts,
        Controller, DataPlanePod, DesiredObject, DesiredPolicy, EnvoyBackendFacts, EnvoyGatewaySettings,
        EnvoyProxyFacts, EnvoyWorkload, GatewayChange, GatewayFacts, GatewayIndex, GatewayPlan, GatewayState,
        GrantFacts, ListenerFacts, ListenerSetFacts, NamespacePlan, NamespaceSelector, Parent, ParentFacts,
        PolicyTarget, ProxyMerge, Requirement, RouteBackend, RouteFacts, RouteKind, RouteKinds, SdsSecretFacts, SdsUrl,
        ServicePlan, Target, TlsPolicyFacts, Uptake, Verification, WrittenFacts,
    },
    identity_set::IdentitySet,
    labels::Labels,
    membership::{Membership, MeshLabels, MeshSight, membership},
    mtls_mode::MtlsMode,
    object_kind::ObjectKind,
    objects::{
        Backing, NamedPorts, NamespaceFacts, ObjectName, PodFacts, RevisionTag, ServiceFacts, Sidecar, SliceEndpoint,
        SliceFacts,
    },
    peer_authentication::{PeerAuthenticationFacts, PeerMode, PeerModes, PeerRuling},
    policy_index::{Change, ClusterChange, PolicyIndex, PolicySettings},
    policy_snapshot::{NamespacePolicy, PolicyChanges, PolicySnapshot},
    port_class::{PortClass, PortFacts, TargetPort},
    probe::{PROBE_ALPN, PortSight, ProbeFinding, ProbeSight, ProbeTarget},
    reach::Reach,
    release::{NoRelease, Release},
    service_policy::{OPT_OUT_ANNOTATION, PORTABLE_IDENTITIES, PortPolicy, ServicePolicy},
};

#[cfg(test)]
mod mesh_table_tests;
#[cfg(test)]
mod table_tests;
