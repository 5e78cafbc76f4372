//! What a gateway must know of one Service.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Backing, Condition, MtlsMode, ObjectName, PodFacts, PortClass, PortFacts, ServiceFacts, Sidecar, SliceEndpoint,
    SliceFacts,
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
    pub uid: Box<str>,
    /// How it is spoken to.
    pub mode: MtlsMode,
    /// Whom its pods run as, in order, each once. Empty: nobody is accepted.
    pub accounts: Box<[ServiceAccount]>,
    /// Where these are more than [`PORTABLE_IDENTITIES`]: as many of them, those that most pods run as, in order.
    pub foremost: Option<Box<[ServiceAccount]>>,
    /// Its TCP ports with what a sidecar takes them for.
    pub ports: Box<[(PortFacts, PortClass)]>,
    /// What is worth knowing.
    pub conditions: Box<[Condition]>,
}

impl ServicePolicy {
    /// From the Service, and the pods and EndpointSlices of its namespace.
    pub(super) fn of<'a>(
        service: &'a ServiceFacts,
        pods: impl Fn(&str) -> Option<&'a PodFacts>,
        all_pods: impl Iterator<Item = &'a PodFacts>,
        slices: impl Iterator<Item = &'a SliceFacts>,
    ) -> Self {
        let mut conditions = Vec::new();
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
        let mut others = 0;
        let behind: Vec<&PodFacts> = match &service.backing {
            Backing::Selector(selector) => {
                all_pods.filter(|pod| !pod.finished && selector.selects(&pod.labels)).collect()
            }
            Backing::Slices => {
                let own = slices.filter(|slice| slice.service.as_deref() == Some(&*service.object.name));
                let endpoints: BTreeSet<&SliceEndpoint> = own
                    .flat_map(|slice| slice.endpoints.iter())
                    .inspect(|endpoint| others += usize::from(matches!(endpoint, SliceEndpoint::Other)))
                    .collect();
                endpoints.into_iter().filter_map(|endpoint| pod_of(endpoint, &pods)).collect()
            }
            Backing::ExternalName => Vec::new(),
        };
        if mode == MtlsMode::Required {
            conditions.extend(of_backing(service, &behind, others));
            conditions.extend(of_ports(&service.ports));
        }
        let mut accounts: BTreeMap<&ServiceAccount, usize> = BTreeMap::new();
        behind.iter().for_each(|pod| *accounts.entry(&pod.account).or_default() += 1);
        Self {
            service: service.object.clone(),
            uid: service.uid.clone(),
            mode,
            foremost: foremost(&accounts),
            accounts: accounts.into_keys().cloned().collect(),
            ports: service.ports.iter().map(|port| (port.clone(), port.class())).collect(),
            conditions: conditions.into(),
        }
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

/// The pod that an endpoint names, if it is still that one and has not finished.
fn pod_of<'a>(endpoint: &SliceEndpoint, pods: &impl Fn(&str) -> Option<&'a PodFacts>) -> Option<&'a PodFacts> {
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

fn of_ports(ports: &[PortFacts]) -> Vec<Condition> {
    let numbers = |wanted: fn(&PortFacts) -> bool| -> Box<[u16]> {
        ports.iter().filter(|port| wanted(port)).map(|port| port.number).collect()
    };
    let undeclared = numbers(|port| port.class() == PortClass::Sniffed);
    let tls = numbers(PortFacts::is_tls_of_the_pod);
    let mut conditions = Vec::new();
    if !undeclared.is_empty() {
        conditions.push(Condition::PortProtocolUndeclared { ports: undeclared });
    }
    if !tls.is_empty() {
        conditions.push(Condition::PortSpeaksTls { ports: tls });
    }
    conditions
}
