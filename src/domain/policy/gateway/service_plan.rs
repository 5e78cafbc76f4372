//! What is to be for one Service.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    Ability, BackendTlsApi, DesiredPolicy, Grants, RouteBackend, RouteFacts, RouteKind, Routes, SdsUrl, ServicePlan,
    Standing, TlsPolicies, Topology, Uptake, Verification, WrittenFacts,
};
use crate::domain::policy::{
    Condition, GatewayApiSafety, GatewayCondition, ObjectName, PeerModes, PortClass, PortPolicy, ServicePolicy,
    UnreadyRequests, Upstream,
};

/// Everything that it depends on, besides the Service's policy.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outlook<'a> {
    pub(super) topology: Topology<'a>,
    pub(super) routes: &'a Routes,
    pub(super) grants: &'a Grants,
    pub(super) tls_policies: &'a TlsPolicies,
    pub(super) api: BackendTlsApi,
    pub(super) istio: &'a GatewayApiSafety,
    /// How Envoy Gateway is told of the agent's socket, if that is known.
    pub(super) sds: Option<SdsUrl>,
}

/// How requests come to a Service by Routes.
#[derive(Debug, Default)]
struct Traffic<'a> {
    gateways: BTreeMap<&'a ObjectName, &'a Standing>,
    /// How many a proxy has, if one Gateway takes all Routes.
    clusters: usize,
    http: Ports,
    grpc: Ports,
}

/// Ports that Routes name.
#[derive(Debug, Default)]
struct Ports {
    all: bool,
    numbers: BTreeSet<u16>,
}

/// Gateways that a policy is for.
type Concerned<'a> = Vec<(&'a ObjectName, &'a Standing)>;

impl<'a> Outlook<'a> {
    /// The plan for a Service of the mesh. `admitting` are the Gateways that would take Routes of its namespace.
    pub(super) fn service(self, policy: &ServicePolicy, admitting: &Arc<[ObjectName]>) -> ServicePlan {
        let upstream = Upstream::Service(policy.service.clone());
        let traffic = self.traffic(&upstream);
        let mut conditions = traffic.unsupported();
        let is_vetoed = traffic.gateways.values().any(|standing| standing.ability.is_none());
        let concerned = self.concerned(&upstream, &traffic, admitting);
        let verification =
            if is_vetoed { None } else { self.verification(policy, &traffic, &concerned, &mut conditions) };
        conditions.extend(traffic.http2_not_explicit(policy));
        if verification.is_some() {
            conditions.extend(traffic.without_istio_alpn(policy, &concerned));
        }
        let may_be_made = self.istio.may_write() && is_some_ready(&concerned);
        let verification = verification.map(|verification| DesiredPolicy {
            service: policy.service.clone(),
            owner: Arc::clone(&policy.uid),
            verification,
            is_routed: !traffic.gateways.is_empty(),
            only_if_there: !may_be_made,
        });
        let uptake = match &verification {
            Some(DesiredPolicy { verification: Verification::Portable(_), .. }) => Some(self.uptake(policy, &traffic)),
            Some(_) | None => None,
        };
        ServicePlan {
            service: policy.service.clone(),
            gateways: traffic.and(admitting),
            routed: traffic.gateways.keys().map(|gateway| (*gateway).clone()).collect(),
            policy: verification,
            overruled: self.overruled(policy, &traffic),
            is_split: traffic.clusters > 1,
            uptake,
            conditions: conditions.into_iter().map(Condition::from).collect(),
        }
    }

    /// Routes that lead to one place, and may.
    pub(super) fn leading_to(self, upstream: &'a Upstream) -> impl Iterator<Item = (RouteKind, &'a RouteFacts)> {
        self.routes.leading_to(upstream).filter(move |(kind, route)| match upstream {
            Upstream::Service(service) => self.grants.allow(*kind, &route.object, service),
            Upstream::EnvoyBackend(_) => true,
        })
    }

    /// Ports at which Gateways go by policies of others.
    fn overruled(self, policy: &ServicePolicy, traffic: &Traffic<'a>) -> Box<[Box<str>]> {
        let upstream = Upstream::Service(policy.service.clone());
        let sections: BTreeSet<&str> =
            self.tls_policies.foreign(&upstream).filter_map(|(_, section)| section).collect();
        let ports = traffic.ports(policy).filter(|port| sections.contains(&*port.facts.name));
        ports.map(|port| port.facts.name.clone()).collect()
    }

    /// How far Gateways are with a policy that says itself whom to accept.
    fn uptake(self, policy: &ServicePolicy, traffic: &Traffic<'a>) -> Uptake {
        let written = self.tls_policies.written(&policy.service);
        let lacks = |gateway: &ObjectName, standing: &Standing| {
            let accepted = written.is_some_and(|written| written.accepted_by.binary_search(gateway).is_ok());
            standing.ability.is_none() || !accepted
        };
        let lacking = traffic.gateways.iter().filter(|(gateway, standing)| lacks(gateway, standing));
        let strict = PeerModes { strict: true, ..PeerModes::default() };
        let mut numbers: Vec<u16> = traffic.ports(policy).map(|port| port.facts.number).collect();
        numbers.sort_unstable();
        Uptake {
            routed: traffic.gateways.len(),
            lacking: lacking.map(|(gateway, _)| (*gateway).clone()).collect(),
            written: written.map(|written| written.identities),
            ports: numbers.into(),
            refuses_plaintext: traffic.ports(policy).all(|port| port.peers == strict),
        }
    }

    fn traffic(self, upstream: &'a Upstream) -> Traffic<'a> {
        let mut traffic = Traffic::default();
        let Upstream::Service(service) = upstream else { return traffic };
        for (kind, route) in self.leading_to(upstream) {
            let mut is_attached = false;
            for (gateway, standing) in self.topology.attached(kind, route) {
                is_attached = true;
                traffic.gateways.insert(gateway, standing);
            }
            let ports = match kind {
                RouteKind::Http => &mut traffic.http,
                RouteKind::Grpc => &mut traffic.grpc,
            };
            let backends = route.backends.iter().filter(|_| is_attached);
            backends.for_each(|backend| match backend {
                RouteBackend::Service(name, port) if name == service => {
                    ports.add(*port);
                    traffic.clusters += 1;
                }
                RouteBackend::Service(..) | RouteBackend::EnvoyBackend(_) => {}
            });
        }
        traffic
    }

    /// Gateways that lead there by a Route, or, if none does yet, all that could, or, if none of these is ready, those that Routes name if
    /// one of them is, or if there are no others: of those that can verify whom they reach.
    fn concerned(self, upstream: &'a Upstream, traffic: &Traffic<'a>, admitting: &[ObjectName]) -> Concerned<'a> {
        let routed = traffic.gateways.iter().map(|(gateway, standing)| (*gateway, *standing));
        let able: Concerned<'a> = routed.filter(|(_, standing)| standing.ability.is_some()).collect();
        if !able.is_empty() {
            return able;
        }
        let admitting = admitting.iter().filter_map(|gateway| self.topology.standings.get_key_value(gateway));
        let admitting: Concerned<'a> = admitting.filter(|(_, standing)| standing.ability.is_some()).collect();
        if is_some_ready(&admitting) {
            return admitting;
        }
        let named = self.leading_to(upstream).flat_map(|(_, route)| self.topology.named(route));
        let named: BTreeMap<_, _> = named.filter(|(_, standing)| standing.ability.is_some()).collect();
        let named: Concerned<'a> = named.into_iter().collect();
        if admitting.is_empty() || is_some_ready(&named) { named } else { admitting }
    }

    /// By what Gateways are to verify whom they reach there; `None`: by nothing of ours.
    fn verification(
        self,
        policy: &ServicePolicy,
        traffic: &Traffic<'_>,
        concerned: &Concerned<'_>,
        conditions: &mut Vec<GatewayCondition>,
    ) -> Option<Verification> {
        // Once it is there it stays, whatever becomes of the Gateways: else plaintext would be sent by who lost its configuration, or is
        // back, or takes Routes again.
        let held = self.tls_policies.held(&policy.service);
        let is_held = held.is_some();
        if concerned.is_empty() && !is_held {
            return None;
        }
        if self.api == BackendTlsApi::TooOld {
            conditions.push(GatewayCondition::GatewayApiTooOld);
            return None;
        }
        let mut is_free = true;
        for (policy, port) in self.tls_policies.foreign(&Upstream::Service(policy.service.clone())) {
            is_free &= port.is_some();
            conditions.push(GatewayCondition::Conflicted { policy: policy.clone(), port: port.map(Into::into) });
        }
        if !is_free {
            return None;
        }
        let ready: Concerned<'_> = concerned.iter().copied().filter(|(_, standing)| standing.is_ready).collect();
        let may_be_there = match self.istio {
            istio if istio.must_remove() => false,
            istio => is_held || (istio.may_write() && !ready.is_empty()),
        };
        conditions.extend(traffic.not_configured(concerned, !ready.is_empty(), may_be_there));
        let verification = match (concerned.is_empty(), ready.is_empty()) {
            (true, _) => self.as_written(held?.written.as_ref()?, policy)?,
            (false, true) => common(concerned, policy),
            (false, false) => common(&ready, policy),
        };
        if let (true, Verification::Portable(accounts)) = (may_be_there, &verification)
            && policy.foremost.is_some()
        {
            let left_out = policy.accounts.iter().filter(|account| !accounts.contains(account)).cloned().collect();
            conditions.push(GatewayCondition::TooManyIdentities { left_out, of: policy.accounts.len() });
        }
        may_be_there.then_some(verification)
    }

    /// What ours that is there verifies by; `None` if it can't be said any more.
    fn as_written(self, written: &WrittenFacts, policy: &ServicePolicy) -> Option<Verification> {
        if written.is_sds { self.sds.map(Verification::Sds) } else { Some(portable(policy)) }
    }
}

fn is_some_ready(gateways: &Concerned<'_>) -> bool {
    gateways.iter().any(|(_, standing)| standing.is_ready)
}

/// What all of them can verify by.
fn common(gateways: &Concerned<'_>, policy: &ServicePolicy) -> Verification {
    let mut abilities = gateways.iter().filter_map(|(_, standing)| standing.ability);
    match abilities.next() {
        Some(Ability::Sds(url)) if abilities.all(|ability| ability != Ability::Portable) => Verification::Sds(url),
        _ => portable(policy),
    }
}

fn portable(policy: &ServicePolicy) -> Verification {
    Verification::Portable(policy.foremost.as_ref().unwrap_or(&policy.accounts).clone())
}

impl Traffic<'_> {
    /// Ports of the Service that Routes lead to.
    fn ports<'p>(&self, policy: &'p ServicePolicy) -> impl Iterator<Item = &'p PortPolicy> {
        policy.ports.iter().filter(|port| self.http.has(port.facts.number) || self.grpc.has(port.facts.number))
    }

    /// What is to be said of Gateways that can't verify whom they reach.
    fn unsupported(&self) -> Vec<GatewayCondition> {
        let unable = self.gateways.iter().filter(|(_, standing)| standing.ability.is_none());
        let gateways: Box<[ObjectName]> = unable.map(|(gateway, _)| (*gateway).clone()).collect();
        let some = (!gateways.is_empty()).then_some(GatewayCondition::RoutedByUnsupported { gateways });
        some.into_iter().collect()
    }

    /// What is to be said of Gateways that are not ready: of all, if none is; beside those that are, of those that Routes lead from.
    fn not_configured(
        &self,
        concerned: &Concerned<'_>,
        is_some_ready: bool,
        is_there: bool,
    ) -> Option<GatewayCondition> {
        let requests = match (is_some_ready, is_there) {
            (true, true) => UnreadyRequests::Beside,
            (true, false) => return None,
            (false, true) => UnreadyRequests::Held,
            (false, false) => UnreadyRequests::Plain,
        };
        let counts = |gateway: &ObjectName| !is_some_ready || self.gateways.contains_key(gateway);
        let unready = concerned.iter().filter(|(gateway, standing)| !standing.is_ready && counts(gateway));
        let gateways: Box<[ObjectName]> = unready.map(|(gateway, _)| (*gateway).clone()).collect();
        (!gateways.is_empty()).then_some(GatewayCondition::GatewayNotConfigured { gateways, requests })
    }

    fn http2_not_explicit(&self, policy: &ServicePolicy) -> Option<GatewayCondition> {
        // a GRPCRoute says it for its own requests alone
        let is_guessed = |port: &&PortPolicy| {
            port.class == PortClass::Http2
                && !matches!(port.facts.app_protocol.as_deref(), Some("kubernetes.io/h2c" | "grpc"))
                && self.http.has(port.facts.number)
        };
        let ports: Box<[u16]> = policy.ports.iter().filter(is_guessed).map(|port| port.facts.number).collect();
        (!ports.is_empty()).then_some(GatewayCondition::Http2NotExplicit { ports })
    }

    fn without_istio_alpn(&self, policy: &ServicePolicy, concerned: &Concerned<'_>) -> Option<GatewayCondition> {
        let without = concerned.iter().filter(|(_, standing)| standing.is_ready && !standing.offers_istio);
        let gateways: Box<[ObjectName]> = without.map(|(gateway, _)| (*gateway).clone()).collect();
        let leads_to = |port: u16| self.gateways.is_empty() || self.http.has(port) || self.grpc.has(port);
        let is_permissive = |port: &&PortPolicy| port.peers.permissive || port.peers == PeerModes::default();
        let permissive = policy.ports.iter().filter(is_permissive).filter(|port| leads_to(port.facts.number));
        let ports: Box<[u16]> = permissive.map(|port| port.facts.number).collect();
        let is_so = !gateways.is_empty() && !ports.is_empty();
        is_so.then_some(GatewayCondition::PermissiveNeedsIstioAlpn { ports, gateways })
    }

    /// All Gateways that requests can come from, in order: shared with other Services where it is the same.
    fn and(&self, admitting: &Arc<[ObjectName]>) -> Arc<[ObjectName]> {
        if self.gateways.keys().all(|gateway| admitting.binary_search(gateway).is_ok()) {
            return Arc::clone(admitting);
        }
        let all: BTreeSet<&ObjectName> = self.gateways.keys().copied().chain(admitting.iter()).collect();
        all.into_iter().cloned().collect()
    }
}

impl Ports {
    fn add(&mut self, port: Option<u16>) {
        match port {
            Some(port) => drop(self.numbers.insert(port)),
            None => self.all = true,
        }
    }

    fn has(&self, port: u16) -> bool {
        self.all || self.numbers.contains(&port)
    }
}
