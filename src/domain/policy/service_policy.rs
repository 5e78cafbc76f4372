//! What a gateway must know of one Service.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
};

use super::{
    Backing, Condition, MeshCondition, MtlsMode, ObjectName, PeerMode, PeerModes, PeerRuling, PodFacts, PortClass,
    PortFacts, ProbeTarget, ServiceFacts, Sidecar, SliceEndpoint, SliceFacts,
    peer_authentication::{NamespacePeers, PodPeers},
    port_decider::{Decision, PortDeciders},
};
use crate::domain::identity::ServiceAccount;

/// On a Service, with the value `disabled`: no mutual TLS is required for it.
pub const OPT_OUT_ANNOTATION: &str = "countersign.io/mtls";

/// A BackendTLSPolicy has room for no more.
pub const PORTABLE_IDENTITIES: usize = 5;

/// The policy of a Service in a namespace of the mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePolicy {
    /// Which Service.
    pub service: ObjectName,
    /// Its UID.
    pub uid: Arc<str>,
    /// How it is spoken to.
    pub mode: MtlsMode,
    /// Whom its pods run as, in order, each once. Empty: nobody is accepted.
    pub accounts: Box<[ServiceAccount]>,
    /// Where these are more than [`PORTABLE_IDENTITIES`]: as many of them, those that most pods run as, in order.
    pub foremost: Option<Box<[ServiceAccount]>>,
    /// Its TCP ports.
    pub ports: Box<[PortPolicy]>,
    /// What is worth knowing.
    pub conditions: Box<[Condition]>,
}

/// A TCP port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortPolicy {
    /// As the Service says it.
    pub facts: PortFacts,
    /// What a sidecar takes it for.
    pub class: PortClass,
    /// What sidecars ask of connections there.
    pub peers: PeerModes,
}

/// What a policy is worked out from, besides the Service: objects of its namespace.
pub(super) struct Beside<'a, Pods, Services, Slices> {
    /// By name.
    pub(super) pod: &'a dyn Fn(&str) -> Option<&'a PodFacts>,
    pub(super) pods: Pods,
    pub(super) services: Services,
    pub(super) slices: Slices,
    /// `None` while it is not known.
    pub(super) peers: Option<&'a NamespacePeers<'a>>,
    /// Whether the labels of the namespace say nothing, and a Service is a member by its pods or not at all.
    pub(super) by_pods: bool,
}

impl ServicePolicy {
    /// `None` if the Service is no member.
    pub(super) fn of<'a>(
        service: &'a ServiceFacts,
        beside: Beside<
            'a,
            impl Iterator<Item = &'a PodFacts>,
            impl Iterator<Item = &'a ServiceFacts>,
            impl Iterator<Item = &'a SliceFacts>,
        >,
    ) -> Option<Self> {
        let (behind, others) = behind(service, beside.pod, beside.pods, beside.slices);
        let shows = |pod: &&PodFacts| pod.shows_mutual_tls();
        if beside.by_pods && (behind.is_empty() || others > 0 || !behind.iter().all(shows)) {
            return None;
        }
        let mut conditions = Vec::new();
        if beside.by_pods {
            conditions.push(MeshCondition::MemberByPods.into());
        }
        let mode = match service.opt_out.as_deref() {
            Some("disabled") => {
                conditions.push(Condition::OptedOut);
                MtlsMode::NotManaged
            }
            Some(odd) => {
                conditions.push(Condition::OptOutUnknown { value: odd.into() });
                MtlsMode::Required
            }
            None => MtlsMode::Required,
        };
        let deciders = PortDeciders::of(service, beside.services);
        let decisions: Vec<Decision> = service.ports.iter().map(|port| deciders.decide(port, &behind)).collect();
        let ports = ports(service, &decisions, &behind, beside.peers);
        if mode == MtlsMode::Required {
            conditions.extend(of_backing(service, &behind, others));
            conditions.extend(of_ports(&ports));
            conditions.extend(conflicts(&service.ports, &decisions));
        }
        if let Some(peers) = beside.peers {
            conditions.extend(match mode {
                MtlsMode::Required => disabled(service, &behind, peers),
                MtlsMode::NotManaged => strict(&behind, peers),
            });
        }
        let mut accounts: BTreeMap<&ServiceAccount, usize> = BTreeMap::new();
        behind.iter().for_each(|pod| *accounts.entry(&pod.account).or_default() += 1);
        Some(Self {
            service: service.object.clone(),
            uid: Arc::clone(&service.uid),
            mode,
            foremost: foremost(&accounts),
            accounts: accounts.into_keys().cloned().collect(),
            ports,
            conditions: conditions.into(),
        })
    }
}

/// Those that most pods run as, of too many; ties by name.
fn foremost(accounts: &BTreeMap<&ServiceAccount, usize>) -> Option<Box<[ServiceAccount]>> {
    if accounts.len() <= PORTABLE_IDENTITIES {
        return None;
    }
    let mut by_pods: Vec<(&ServiceAccount, usize)> = accounts.iter().map(|(account, pods)| (*account, *pods)).collect();
    by_pods.sort_by(|(one, few), (other, many)| many.cmp(few).then_with(|| one.cmp(other)));
    by_pods.truncate(PORTABLE_IDENTITIES);
    by_pods.sort_by_key(|(account, _)| *account);
    Some(by_pods.into_iter().map(|(account, _)| account.clone()).collect())
}

/// The unfinished pods behind a Service, and how many of its endpoints are none.
fn behind<'a>(
    service: &ServiceFacts,
    pod: &dyn Fn(&str) -> Option<&'a PodFacts>,
    pods: impl Iterator<Item = &'a PodFacts>,
    slices: impl Iterator<Item = &'a SliceFacts>,
) -> (Vec<&'a PodFacts>, usize) {
    let mut others = 0;
    let behind = match &service.backing {
        Backing::Selector(selector) => pods.filter(|pod| !pod.finished && selector.selects(&pod.labels)).collect(),
        Backing::Slices => {
            let own = slices.filter(|slice| slice.service.as_deref() == Some(&*service.object.name));
            let endpoints: BTreeSet<&SliceEndpoint> = own
                .flat_map(|slice| slice.endpoints.iter())
                .inspect(|endpoint| others += usize::from(matches!(endpoint, SliceEndpoint::Other)))
                .collect();
            endpoints.into_iter().filter_map(|endpoint| pod_of(endpoint, pod)).collect()
        }
        Backing::ExternalName => Vec::new(),
    };
    (behind, others)
}

/// Whether requests to a Service can get anywhere, as far as is seen: endpoints that somebody else writes may be there.
pub(super) fn has_ready_pods<'a>(service: &ServiceFacts, mut pods: impl Iterator<Item = &'a PodFacts>) -> bool {
    match &service.backing {
        Backing::Selector(selector) => pods.any(|pod| is_ready(pod) && selector.selects(&pod.labels)),
        Backing::Slices => true,
        Backing::ExternalName => false,
    }
}

fn is_ready(pod: &PodFacts) -> bool {
    !pod.finished && pod.ready_at.is_some()
}

/// Ready pods behind these ports of a Service. None behind one without a selector: what its EndpointSlices name need not take
/// connections where the Service says.
pub(super) fn probe_targets<'a>(
    service: &'a ServiceFacts,
    ports: &[u16],
    pods: impl Iterator<Item = &'a PodFacts>,
) -> Vec<ProbeTarget> {
    let Backing::Selector(selector) = &service.backing else { return Vec::new() };
    let ready = pods.filter(|pod| is_ready(pod) && selector.selects(&pod.labels));
    let asked = |port: &&PortFacts| ports.contains(&port.number);
    let targets = ready.flat_map(|pod| {
        service.ports.iter().filter(asked).filter_map(|port| {
            let at = SocketAddr::new(pod.ready_at?, port.target.at(pod)?);
            Some(ProbeTarget { port: port.number, pod: Arc::clone(&pod.object.name), at })
        })
    });
    targets.collect()
}

/// With the modes of each; where there is no pod, that which pods would have.
fn ports(
    service: &ServiceFacts,
    decisions: &[Decision],
    behind: &[&PodFacts],
    peers: Option<&NamespacePeers<'_>>,
) -> Box<[PortPolicy]> {
    let of_pods: Vec<(&PodFacts, PodPeers<'_>)> = each_with(behind, peers);
    let policy = |(facts, decision): (&PortFacts, &Decision)| {
        let mut modes = PeerModes::default();
        of_pods.iter().for_each(|(pod, of)| modes.add(of.at(pod, facts).mode));
        if let (true, Some(peers)) = (behind.is_empty(), peers) {
            modes.add(peers.of_nobody().mode);
        }
        PortPolicy { facts: facts.clone(), class: decision.class, peers: modes }
    };
    service.ports.iter().zip(decisions).map(policy).collect()
}

fn each_with<'a, 'p>(behind: &[&'a PodFacts], peers: Option<&NamespacePeers<'p>>) -> Vec<(&'a PodFacts, PodPeers<'p>)> {
    peers.map(|peers| behind.iter().map(|pod| (*pod, peers.of(&pod.labels))).collect()).unwrap_or_default()
}

/// One for each PeerAuthentication that keeps mutual TLS away.
fn disabled(service: &ServiceFacts, behind: &[&PodFacts], peers: &NamespacePeers<'_>) -> Vec<Condition> {
    let of_pods = each_with(behind, Some(peers));
    let mut found: BTreeMap<Option<ObjectName>, (BTreeSet<u16>, BTreeSet<&str>)> = BTreeMap::new();
    for (port, (pod, of)) in service.ports.iter().flat_map(|port| of_pods.iter().map(move |each| (port, each))) {
        if let PeerRuling { mode: PeerMode::Disable, by } = of.at(pod, port) {
            let (ports, pods) = found.entry(by).or_default();
            ports.insert(port.number);
            pods.insert(&pod.object.name);
        }
    }
    let condition = |(by, (ports, pods)): (_, (BTreeSet<u16>, BTreeSet<&str>))| {
        let (ports, pods, of) = (ports.into_iter().collect(), pods.len(), behind.len());
        MeshCondition::PolicyModeDisabled { ports, pods, of, by }.into()
    };
    found.into_iter().map(condition).collect()
}

/// Whether sidecars refuse the plaintext that is sent to them.
fn strict(behind: &[&PodFacts], peers: &NamespacePeers<'_>) -> Vec<Condition> {
    behind.iter().find_map(|pod| refuses_plaintext(pod, peers)).into_iter().map(Condition::from).collect()
}

/// Whether the sidecar of a pod refuses plaintext.
pub(super) fn refuses_plaintext(pod: &PodFacts, peers: &NamespacePeers<'_>) -> Option<MeshCondition> {
    if pod.finished || !pod.shows_mutual_tls() {
        return None;
    }
    let PeerRuling { mode, by } = peers.of(&pod.labels).wide().clone();
    (mode == PeerMode::Strict).then_some(MeshCondition::StrictButNotManaged { by })
}

/// The pod that an endpoint names, if it is still that one and has not finished.
fn pod_of<'a>(endpoint: &SliceEndpoint, pods: &dyn Fn(&str) -> Option<&'a PodFacts>) -> Option<&'a PodFacts> {
    let SliceEndpoint::Pod { name, uid } = endpoint else { return None };
    pods(name).filter(|pod| !pod.finished && uid.as_ref().is_none_or(|uid| *uid == pod.uid))
}

fn of_backing(service: &ServiceFacts, behind: &[&PodFacts], others: usize) -> Vec<Condition> {
    if service.backing == Backing::ExternalName {
        return vec![Condition::ExternalName];
    }
    let mut conditions = Vec::new();
    if others > 0 {
        conditions.push(Condition::EndpointsNotPods { endpoints: others });
    } else if behind.is_empty() {
        conditions.push(Condition::NoPods);
    }
    let (of, count) = (behind.len(), |sidecar| behind.iter().filter(|pod| pod.sidecar == sidecar).count());
    match count(Sidecar::Missing) {
        0 => {}
        pods => {
            let namespace = service.object.namespace.as_ref().into();
            conditions.push(Condition::SidecarMissing { pods, of, namespace });
        }
    }
    match count(Sidecar::Excluded) {
        0 => {}
        pods => conditions.push(Condition::SidecarExcluded { pods, of }),
    }
    conditions
}

fn of_ports(ports: &[PortPolicy]) -> Vec<Condition> {
    let numbers = |wanted: fn(&PortPolicy) -> bool| -> Box<[u16]> {
        ports.iter().filter(|port| wanted(port)).map(|port| port.facts.number).collect()
    };
    let undeclared = numbers(|port| port.class == PortClass::Sniffed);
    let tls = numbers(|port| port.facts.is_tls_of_the_pod());
    let mut conditions = Vec::new();
    if !undeclared.is_empty() {
        conditions.push(Condition::PortProtocolUndeclared { ports: undeclared });
    }
    if !tls.is_empty() {
        conditions.push(Condition::PortSpeaksTls { ports: tls });
    }
    conditions
}

/// One for each Service that decides otherwise.
fn conflicts(ports: &[PortFacts], decisions: &[Decision]) -> Vec<Condition> {
    let mut found: BTreeMap<Option<&ObjectName>, Vec<u16>> = BTreeMap::new();
    for (port, decision) in ports.iter().zip(decisions) {
        decision.others.iter().for_each(|by| found.entry(by.as_ref()).or_default().push(port.number));
    }
    let condition = |(by, ports): (Option<&ObjectName>, Vec<u16>)| {
        let (ports, by) = (ports.into(), by.cloned());
        Condition::PortProtocolConflict { ports, by }
    };
    found.into_iter().map(condition).collect()
}
