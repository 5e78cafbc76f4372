//! What is kept of the objects of the Gateway API and of Envoy Gateway: only what a plan is worked out from. Who reads them drops the
//! rest while decoding.

use std::sync::Arc;

use super::{AttachedPolicyFacts, EnvoyProxyFacts, GrantFacts};
use crate::domain::policy::{Change, IdentitySet, Labels, ObjectName};

/// What was seen. Kinds that the cluster does not serve are told as an empty [`Change::Reset`].
#[derive(Clone, Debug)]
pub enum GatewayChange {
    /// Of GatewayClasses.
    Classes(Change<ClassFacts, Arc<str>>),
    /// Of Gateways.
    Gateways(Change<GatewayFacts>),
    /// Of ListenerSets.
    ListenerSets(Change<ListenerSetFacts>),
    /// Of HTTPRoutes.
    HttpRoutes(Change<RouteFacts>),
    /// Of GRPCRoutes.
    GrpcRoutes(Change<RouteFacts>),
    /// Of ReferenceGrants.
    Grants(Change<GrantFacts>),
    /// Of BackendTLSPolicies: everybody's.
    TlsPolicies(Change<TlsPolicyFacts>),
    /// Of EnvoyProxies.
    EnvoyProxies(Change<EnvoyProxyFacts>),
    /// Of Secrets of type `gateway.envoyproxy.io/sds`.
    SdsSecrets(Change<SdsSecretFacts>),
    /// Of Envoy Gateway's Backends.
    EnvoyBackends(Change<EnvoyBackendFacts>),
    /// Of SecurityPolicies.
    SecurityPolicies(Change<AttachedPolicyFacts>),
    /// Of EnvoyExtensionPolicies.
    ExtensionPolicies(Change<AttachedPolicyFacts>),
    /// What Envoy Gateway is set to.
    Settings(EnvoyGatewaySettings),
    /// Which BackendTLSPolicies the API server takes.
    BackendTlsApi(BackendTlsApi),
}

/// A GatewayClass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassFacts {
    /// Its name.
    pub name: Arc<str>,
    /// Who runs its Gateways.
    pub controller: Controller,
    /// The EnvoyProxy that `spec.parametersRef` names, if it is one.
    pub parameters: Option<ObjectName>,
}

/// Who runs the Gateways of a class.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Controller {
    /// Istio itself: its gateways have identities of the mesh already.
    Istio,
    /// Envoy Gateway.
    EnvoyGateway,
    /// kgateway.
    Kgateway,
    /// agentgateway.
    Agentgateway,
    /// Anybody else: nobody of whom it is known that a SPIFFE ID is verified.
    Other(Box<str>),
}

/// A Gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayFacts {
    /// Which.
    pub object: ObjectName,
    /// Its UID.
    pub uid: Box<str>,
    /// `spec.gatewayClassName`.
    pub class: Arc<str>,
    /// Its listeners.
    pub listeners: Box<[ListenerFacts]>,
    /// `spec.allowedListeners`: of which namespaces it takes ListenerSets; `None`: of none, which is the default.
    pub takes_sets: Option<Admits>,
    /// The EnvoyProxy that `spec.infrastructure.parametersRef` names, if it is one; in the Gateway's namespace.
    pub parameters: Option<Box<str>>,
    /// Whether `spec.tls.backend.clientCertificateRef` is there.
    pub client_certificate: bool,
}

/// Listeners that belong to a Gateway but stand in an object of their own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerSetFacts {
    /// Which.
    pub object: ObjectName,
    /// `spec.parentRef`.
    pub gateway: ObjectName,
    /// The listeners.
    pub listeners: Box<[ListenerFacts]>,
}

/// A listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerFacts {
    /// Its name.
    pub name: Box<str>,
    /// Its port.
    pub port: u16,
    /// Which kinds of Routes it takes.
    pub routes: RouteKinds,
    /// From which namespaces.
    pub admits: Admits,
}

/// Kinds of Routes that a listener takes, of those that count here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RouteKinds {
    /// HTTPRoute.
    pub http: bool,
    /// GRPCRoute.
    pub grpc: bool,
}

/// `allowedRoutes.namespaces`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admits {
    /// Its own alone, which is the default.
    Same,
    /// Every one.
    All,
    /// Those with such labels.
    Selector(NamespaceSelector),
}

/// A label selector, with the rules of Kubernetes: an empty one selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamespaceSelector {
    /// `matchLabels`.
    pub labels: Labels,
    /// `matchExpressions`.
    pub requirements: Box<[Requirement]>,
}

/// One of `matchExpressions`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Requirement {
    /// The label has one of these values.
    In(Box<str>, Box<[Box<str>]>),
    /// The label has none of these values, or is not there.
    NotIn(Box<str>, Box<[Box<str>]>),
    /// The label is there.
    Exists(Box<str>),
    /// The label is not there.
    DoesNotExist(Box<str>),
}

/// The kind of a Route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RouteKind {
    /// HTTPRoute.
    Http,
    /// GRPCRoute: its backends are spoken to in HTTP/2.
    Grpc,
}

/// A Route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteFacts {
    /// Which.
    pub object: ObjectName,
    /// `spec.parentRefs`, as far as they name what can be a parent here.
    pub parents: Box<[ParentFacts]>,
    /// The backends of all rules, each once for each rule, and those of filters that mirror.
    pub backends: Box<[RouteBackend]>,
}

/// One of `spec.parentRefs`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParentFacts {
    /// Whose listeners.
    pub parent: Parent,
    /// The listener of this name alone.
    pub section: Option<Box<str>>,
    /// Those of this port alone.
    pub port: Option<u16>,
}

/// What a Route is attached to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parent {
    /// A Gateway.
    Gateway(ObjectName),
    /// A ListenerSet.
    ListenerSet(ObjectName),
}

/// Where a Route sends requests.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RouteBackend {
    /// A Service, at one of its ports.
    Service(ObjectName, Option<u16>),
    /// A Backend of Envoy Gateway.
    EnvoyBackend(ObjectName),
}

/// A BackendTLSPolicy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsPolicyFacts {
    /// Which.
    pub object: ObjectName,
    /// Whether we wrote it: it bears our marks.
    pub ours: bool,
    /// What it is for, in its own namespace.
    pub targets: Box<[PolicyTarget]>,
    /// More of one of ours.
    pub written: Option<WrittenFacts>,
}

/// What is seen of a BackendTLSPolicy that we wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrittenFacts {
    /// Whom it accepts itself.
    pub identities: IdentitySet,
    /// Whether it names an SDS Secret.
    pub is_sds: bool,
    /// Gateways whose controllers say that they have accepted it, as it is now; in order.
    pub accepted_by: Box<[ObjectName]>,
}

/// One of `spec.targetRefs`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyTarget {
    /// What.
    pub target: Target,
    /// `sectionName`: the port of that name alone.
    pub section: Option<Box<str>>,
}

/// What a BackendTLSPolicy is for, by name in its own namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// A Service.
    Service(Box<str>),
    /// A Backend of Envoy Gateway.
    EnvoyBackend(Box<str>),
}

/// A Secret of type `gateway.envoyproxy.io/sds`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SdsSecretFacts {
    /// Which.
    pub object: ObjectName,
    /// Its `secretName`: what is asked for over SDS.
    pub resource: Box<str>,
    /// Its `url`.
    pub url: Box<str>,
}

/// A Backend of Envoy Gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnvoyBackendFacts {
    /// Which.
    pub object: ObjectName,
    /// Whether `spec.tls` is there: requests to it are encrypted, without a policy as well.
    pub is_tls: bool,
    /// Whether `spec.tls.clientCertificateRef` is there: then it never sees that of the Gateway.
    pub has_client_certificate: bool,
}

/// How Envoy Gateway is set up: of its own configuration, not of an object of its API.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EnvoyGatewaySettings {
    /// `extensionApis.enableSDSSecretRef`; `None` if the configuration could never be read. While it can't be read any more, what was
    /// read last is told.
    pub sds_enabled: Option<bool>,
}

/// Which versions of BackendTLSPolicy the API server takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackendTlsApi {
    /// `gateway.networking.k8s.io/v1`.
    V1,
    /// Only older ones, or none.
    TooOld,
}

impl Controller {
    /// By `spec.controllerName`.
    pub fn of(name: &str) -> Self {
        match name {
            "gateway.envoyproxy.io/gatewayclass-controller" => Self::EnvoyGateway,
            "kgateway.dev/kgateway" => Self::Kgateway,
            "agentgateway.dev/agentgateway" => Self::Agentgateway,
            _ if name.starts_with("istio.io/") => Self::Istio,
            _ => Self::Other(name.into()),
        }
    }
}

impl RouteKinds {
    /// What a listener of this `protocol` takes whose `allowedRoutes.kinds` are `allowed`, as groups and kinds; with none it takes
    /// what its protocol has.
    pub fn of<'a>(protocol: &str, allowed: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let (mut kinds, mut any) = (Self::default(), false);
        for (group, kind) in allowed {
            any = true;
            kinds.http |= group == "gateway.networking.k8s.io" && kind == "HTTPRoute";
            kinds.grpc |= group == "gateway.networking.k8s.io" && kind == "GRPCRoute";
        }
        match protocol {
            "HTTP" | "HTTPS" if any => kinds,
            "HTTP" | "HTTPS" => Self { http: true, grpc: true },
            _ => Self::default(),
        }
    }

    /// Whether Routes of this kind are taken.
    pub const fn has(self, kind: RouteKind) -> bool {
        match kind {
            RouteKind::Http => self.http,
            RouteKind::Grpc => self.grpc,
        }
    }
}

impl GatewayFacts {
    /// Whether it depends on labels of a namespace who may attach Routes or ListenerSets.
    pub(super) fn admits_by_labels(&self) -> bool {
        let listeners = self.listeners.iter().map(|listener| &listener.admits);
        listeners.chain(&self.takes_sets).any(|admits| matches!(admits, Admits::Selector(_)))
    }
}

impl ListenerSetFacts {
    /// Whether it depends on labels of a namespace who may attach Routes.
    pub(super) fn admits_by_labels(&self) -> bool {
        self.listeners.iter().any(|listener| matches!(listener.admits, Admits::Selector(_)))
    }
}

impl NamespaceSelector {
    /// Whether a namespace with these labels is selected.
    pub fn selects(&self, labels: &Labels) -> bool {
        (self.labels.is_empty() || self.labels.selects(labels))
            && self.requirements.iter().all(|requirement| requirement.is_met_by(labels))
    }
}

impl Requirement {
    fn is_met_by(&self, labels: &Labels) -> bool {
        let has =
            |key: &str, values: &[Box<str>]| labels.get(key).is_some_and(|has| values.iter().any(|one| **one == *has));
        match self {
            Self::In(key, values) => has(key, values),
            Self::NotIn(key, values) => !has(key, values),
            Self::Exists(key) => labels.get(key).is_some(),
            Self::DoesNotExist(key) => labels.get(key).is_none(),
        }
    }
}
