//! What follows for gateways: the objects that are to be there, and what is to be said of each Service and Gateway. What did not change
//! from one plan to the next is shared between them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use super::SdsSecretFacts;
use crate::domain::{
    identity::ServiceAccount,
    policy::{Condition, IdentitySet, ObjectKind, ObjectName},
};

/// The ConfigMap with the roots of the mesh, of that name in each namespace that needs one.
pub const CA_CONFIG_MAP: &str = "countersign-mesh-ca";
/// Before the name of a Service in those of its policy and its SDS Secret. A Service's own has at most 63 characters, so these fit.
const PREFIX: &str = "countersign-";
/// Services whose Secrets would be called as others of ours are that may be in the same namespace: the one by which a gateway has its own
/// certificate, and those of the pair.
const TAKEN: [&str; 3] = ["svid", "authority", "trust"];
/// After such a name. No Service has a dot in its name, so this is no other one's.
const SUFFIX: &str = ".service";
/// Where the agent's socket is in the pods of an Envoy Gateway.
const SOCKET: &str = "/var/run/countersign/workload.sock";
/// Envoy would take none whose path does not fit into `sockaddr_un`, with the byte that ends it.
const _: () = assert!(SOCKET.len() < 108);
/// Before namespace and name of a Service, the name by which the agent serves its identities over SDS.
const RESOURCE: &str = "validation/";

/// The plan. Two with the same content are equal, whatever their revisions.
#[derive(Clone, Debug)]
pub struct GatewayPlan {
    /// Grows by one with each change, from 1, for as long as the index lives.
    pub revision: u64,
    /// Each namespace with Services that a policy holds for.
    pub namespaces: BTreeMap<Arc<str>, Arc<NamespacePlan>>,
    /// Each Gateway but Istio's own.
    pub gateways: BTreeMap<ObjectName, Arc<GatewayState>>,
    /// Whether policies that are there must go at once, as the mesh's own sidecars may follow them. Then none is to be anywhere.
    pub must_withdraw: bool,
}

/// What is to be in a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamespacePlan {
    /// Its name.
    pub name: Arc<str>,
    /// Its Services of the mesh, but for those that are taken out.
    pub services: BTreeMap<Arc<str>, Arc<ServicePlan>>,
}

/// What is to be for a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePlan {
    /// Which.
    pub service: ObjectName,
    /// Gateways that can reach it, in order: a Route leads from them to it, or could, as their listeners take Routes from its namespace.
    pub gateways: Arc<[ObjectName]>,
    /// Those of them that a Route does lead from.
    pub routed: Box<[ObjectName]>,
    /// The policy that is to be there. `None`: none of ours may be.
    pub policy: Option<DesiredPolicy>,
    /// Names of ports that Routes lead to and somebody else's policy is for alone: it comes before ours there.
    pub overruled: Box<[Box<str>]>,
    /// Whether more than one rule of Routes leads there: a proxy has a cluster for each.
    pub is_split: bool,
    /// How far Gateways are with it, if it is a portable one.
    pub uptake: Option<Uptake>,
    /// What is worth knowing.
    pub conditions: Box<[Condition]>,
}

/// A BackendTLSPolicy, with the SDS Secret that it needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredPolicy {
    /// For which Service.
    pub service: ObjectName,
    /// UID of the Service, which owns what is written for it.
    pub owner: Arc<str>,
    /// How a gateway verifies whom it reached.
    pub verification: Verification,
    /// Whether a Route leads to the Service, so that a gateway has something to change when this does.
    pub is_routed: bool,
    /// Whether it is wanted for no other reason than that it is there: it is kept, and not made again.
    pub only_if_there: bool,
}

/// How far Gateways are with a policy that says itself whom to accept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uptake {
    /// From how many Gateways Routes lead to the Service.
    pub routed: usize,
    /// Those of them that do not say that they have accepted the policy as it is now, or could not go by it.
    pub lacking: Box<[ObjectName]>,
    /// Whom the policy that is seen accepts.
    pub written: Option<IdentitySet>,
    /// Ports of the Service that Routes lead to, in order.
    pub ports: Box<[u16]>,
    /// Whether the sidecars behind all of these refuse plaintext.
    pub refuses_plaintext: bool,
}

/// How a gateway verifies whom it reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verification {
    /// Roots and identities come over SDS from the agent beside it: the policy names the SDS Secret and nobody else.
    Sds(SdsUrl),
    /// They stand in the policy: at most five accounts, in order, and the ConfigMap of roots. No account: nobody is accepted.
    Portable(Box<[ServiceAccount]>),
}

/// How Envoy Gateway wants the agent's socket to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SdsUrl {
    /// As a path, up to 1.8.
    Path,
    /// As a URL, from 1.9.
    Unix,
}

/// An object that is to be there. In the order in which they are written: who names another comes after it. What is not to be there any
/// more is removed in the opposite order, after everything else was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DesiredObject {
    /// ConfigMap [`CA_CONFIG_MAP`], with the roots of the mesh under `ca.crt`.
    CaConfigMap {
        /// Where.
        namespace: Arc<str>,
    },
    /// Secret of type `gateway.envoyproxy.io/sds`.
    SdsSecret {
        /// For which Service; it is in the Service's namespace.
        service: ObjectName,
        /// UID of the Service.
        owner: Arc<str>,
        /// How `url` is written.
        url: SdsUrl,
    },
    /// BackendTLSPolicy.
    BackendTlsPolicy(DesiredPolicy),
}

/// What there is to say of a Gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayState {
    /// Which.
    pub gateway: ObjectName,
    /// Its UID.
    pub uid: Box<str>,
    /// Whether it can send requests to Services of the mesh, as far as is seen.
    pub is_ready: bool,
    /// Whom its pods run as, and which run as each.
    pub carriers: BTreeMap<ServiceAccount, BTreeSet<ObjectName>>,
    /// What is worth knowing.
    pub conditions: Box<[Condition]>,
}

impl PartialEq for GatewayPlan {
    fn eq(&self, other: &Self) -> bool {
        self.namespaces == other.namespaces
            && self.gateways == other.gateways
            && self.must_withdraw == other.must_withdraw
    }
}

impl Eq for GatewayPlan {}

impl GatewayPlan {
    /// What is to be for a Service.
    pub fn service(&self, namespace: &str, name: &str) -> Option<&Arc<ServicePlan>> {
        self.namespaces.get(namespace)?.services.get(name)
    }

    /// Services that differ from those of `before`, with what is to be for them; `None` for those that are gone.
    pub fn changed_since(&self, before: Option<&Self>) -> Vec<(ObjectName, Option<Arc<ServicePlan>>)> {
        let mut changed = Vec::new();
        let none = BTreeMap::new();
        let old_namespaces = before.map_or(&none, |before| &before.namespaces);
        for (name, old) in old_namespaces {
            let new = self.namespaces.get(name);
            let is_gone = |service: &&Arc<str>| new.is_none_or(|new| !new.services.contains_key(*service));
            let gone = old.services.keys().filter(is_gone).cloned();
            changed.extend(gone.map(|service| (ObjectName { namespace: Arc::clone(name), name: service }, None)));
        }
        for (name, new) in &self.namespaces {
            let old = old_namespaces.get(name);
            if old.is_some_and(|old| Arc::ptr_eq(old, new)) {
                continue;
            }
            for (service, plan) in &new.services {
                let old = old.and_then(|old| old.services.get(service));
                if !old.is_some_and(|old| Arc::ptr_eq(old, plan)) {
                    changed.push((plan.service.clone(), Some(Arc::clone(plan))));
                }
            }
        }
        changed
    }

    /// Whether requests go by way of the same pods as in another plan.
    pub fn has_carriers_of(&self, other: &Self) -> bool {
        let carriers = |plan: &Self| {
            let states = plan.gateways.values().map(|state| (state.gateway.clone(), state.carriers.clone()));
            states.collect::<Vec<_>>()
        };
        self.gateways.values().zip(other.gateways.values()).all(|(one, other)| Arc::ptr_eq(one, other))
            && self.gateways.len() == other.gateways.len()
            || carriers(self) == carriers(other)
    }

    /// Whether requests come to a Service by way of any pods, as far as is seen: a Route leads there from a Gateway that has some.
    pub fn is_carried(&self, service: &ObjectName) -> bool {
        let routed = self.service(&service.namespace, &service.name).into_iter().flat_map(|plan| &plan.routed);
        routed.filter_map(|gateway| self.gateways.get(gateway)).any(|gateway| !gateway.carriers.is_empty())
    }

    /// Services of the mesh that a Gateway can reach, in order.
    pub fn reachable(&self, gateway: &ObjectName) -> impl Iterator<Item = &Arc<ServicePlan>> {
        let services = self.namespaces.values().flat_map(|namespace| namespace.services.values());
        services.filter(|service| service.is_reached_by(gateway))
    }

    /// Gateways whose pods run as `account`.
    pub fn gateways_of(&self, account: &ServiceAccount) -> impl Iterator<Item = &Arc<GatewayState>> {
        self.gateways.values().filter(|gateway| gateway.carriers.contains_key(account))
    }
}

impl NamespacePlan {
    /// What is to be there, in the order in which it is written.
    pub fn objects(&self) -> Vec<DesiredObject> {
        let policies = || self.services.values().filter_map(|service| service.policy.as_ref());
        let mut objects = Vec::new();
        if policies().any(|policy| matches!(policy.verification, Verification::Portable(_))) {
            objects.push(DesiredObject::CaConfigMap { namespace: Arc::clone(&self.name) });
        }
        objects.extend(policies().filter_map(DesiredPolicy::sds_secret));
        objects.extend(policies().cloned().map(DesiredObject::BackendTlsPolicy));
        objects
    }
}

impl ServicePlan {
    /// Gateways that Routes lead from while none of ours is to tell them to speak mutual TLS.
    pub fn bare(&self) -> &[ObjectName] {
        if self.policy.is_none() { &self.routed } else { &[] }
    }

    /// Gateways that Routes lead from while ours is to tell them to ask for identities over SDS.
    pub fn bound(&self) -> &[ObjectName] {
        let is_sds = |policy: &DesiredPolicy| matches!(policy.verification, Verification::Sds(_));
        if self.policy.as_ref().is_some_and(is_sds) { &self.routed } else { &[] }
    }

    /// Whether requests of a Gateway can come here.
    pub fn is_reached_by(&self, gateway: &ObjectName) -> bool {
        self.gateways.binary_search(gateway).is_ok()
    }
}

impl DesiredPolicy {
    /// The SDS Secret that it names, if it does.
    pub fn sds_secret(&self) -> Option<DesiredObject> {
        let Verification::Sds(url) = self.verification else { return None };
        Some(DesiredObject::SdsSecret { service: self.service.clone(), owner: Arc::clone(&self.owner), url })
    }
}

impl DesiredObject {
    /// The value of `secretName` in the SDS Secret for a Service.
    pub fn sds_resource(service: &ObjectName) -> String {
        format!("{RESOURCE}{service}")
    }

    /// For which Service the policy of this name is.
    pub fn service_of_policy(policy: &ObjectName) -> Option<ObjectName> {
        let name = policy.name.strip_prefix(PREFIX)?;
        let taken = name.strip_suffix(SUFFIX).filter(|service| TAKEN.contains(service));
        Some(ObjectName { namespace: Arc::clone(&policy.namespace), name: taken.unwrap_or(name).into() })
    }

    /// What the policy for a Service is called, and its Secret.
    pub(super) fn policy_of_service(service: &ObjectName) -> ObjectName {
        let suffix = if TAKEN.contains(&&*service.name) { SUFFIX } else { "" };
        let name = format!("{PREFIX}{}{suffix}", service.name).into();
        ObjectName { namespace: Arc::clone(&service.namespace), name }
    }

    /// Where it is, and its name there: that of a policy is that of its Secret.
    pub fn object(&self) -> ObjectName {
        match self {
            Self::CaConfigMap { namespace } => {
                ObjectName { namespace: Arc::clone(namespace), name: CA_CONFIG_MAP.into() }
            }
            Self::SdsSecret { service, .. } | Self::BackendTlsPolicy(DesiredPolicy { service, .. }) => {
                Self::policy_of_service(service)
            }
        }
    }
}

impl fmt::Display for DesiredObject {
    /// As in `BackendTLSPolicy NAMESPACE/NAME`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self {
            Self::CaConfigMap { .. } => ObjectKind::ConfigMap,
            Self::SdsSecret { .. } => ObjectKind::SdsSecret,
            Self::BackendTlsPolicy(_) => ObjectKind::BackendTlsPolicy,
        };
        write!(f, "{} {}", kind.as_str(), self.object())
    }
}

impl SdsSecretFacts {
    /// How the agent's socket is written in it, if it names that.
    pub(super) fn socket_url(&self) -> Option<SdsUrl> {
        [SdsUrl::Path, SdsUrl::Unix].into_iter().find(|url| *self.url == *url.text())
    }
}

impl SdsUrl {
    /// The value of `url`.
    pub fn text(self) -> String {
        match self {
            Self::Path => SOCKET.to_owned(),
            Self::Unix => format!("unix://{SOCKET}"),
        }
    }

    /// What every value begins with that is written so.
    pub(super) const fn prefix(self) -> &'static str {
        match self {
            Self::Path => "/",
            Self::Unix => "unix:///",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_secret_of_a_service_is_called_as_one_of_a_gateway_or_of_the_pair() {
        for (service, expected) in [
            ("web", "countersign-web"),
            ("svid", "countersign-svid.service"),
            ("authority", "countersign-authority.service"),
            ("trust", "countersign-trust.service"),
        ] {
            let service = ObjectName::new("gw", service);
            let secret = DesiredObject::SdsSecret { service: service.clone(), owner: "u".into(), url: SdsUrl::Unix };
            assert_eq!(secret.object(), ObjectName::new("gw", expected));
            let policy = DesiredPolicy {
                service: service.clone(),
                owner: "u".into(),
                verification: Verification::Sds(SdsUrl::Unix),
                is_routed: false,
                only_if_there: false,
            };
            assert_eq!(policy.sds_secret().map(|secret| secret.object()), Some(secret.object()));
            let named = DesiredObject::BackendTlsPolicy(policy).object();
            assert_eq!(named, secret.object(), "a policy's Secret is found by its name");
            assert_eq!(DesiredObject::service_of_policy(&named), Some(service));
        }
    }
}
