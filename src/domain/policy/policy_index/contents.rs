//! What is known of one namespace.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::domain::policy::{
    Backing, Membership, MeshLabels, MeshSight, MtlsMode, NamespacePolicy, PeerAuthenticationFacts, PeerRuling,
    PodFacts, PolicySettings, ProbeTarget, ServiceFacts, ServicePolicy, SliceEndpoint, SliceFacts, membership,
    peer_authentication::{NamespacePeers, widest},
    port_decider::may_share_pods,
    service_policy::{Beside, has_ready_pods, probe_targets, refuses_plaintext},
};

/// The objects of a namespace, of which it need not be known that it exists.
#[derive(Debug, Default)]
pub(super) struct Contents {
    /// `None` as long as there is no such namespace.
    pub(super) labels: Option<MeshLabels>,
    pub(super) services: BTreeMap<Arc<str>, Box<ServiceFacts>>,
    pub(super) pods: BTreeMap<Arc<str>, PodFacts>,
    pub(super) slices: BTreeMap<Arc<str>, SliceFacts>,
    pub(super) peers: BTreeMap<Arc<str>, PeerAuthenticationFacts>,
    touched: Touched,
    /// Services that were worked out again, whether anything came of it or not.
    stirred: BTreeSet<Arc<str>>,
}

/// What may have changed.
#[derive(Debug, Default)]
struct Touched {
    /// Something that concerns all Services.
    everything: bool,
    services: BTreeSet<Arc<str>>,
}

/// What policies are worked out by, besides a namespace's contents.
pub(super) struct By<'a> {
    pub(super) settings: &'a PolicySettings,
    pub(super) sight: &'a MeshSight,
    /// Whether it is another one than last time.
    pub(super) is_new: bool,
}

impl Contents {
    pub(super) fn is_empty(&self) -> bool {
        self.labels.is_none()
            && self.services.is_empty()
            && self.pods.is_empty()
            && self.slices.is_empty()
            && self.peers.is_empty()
    }

    pub(super) fn set_labels(&mut self, labels: Option<MeshLabels>) {
        self.touched.everything = true;
        self.labels = labels;
    }

    pub(super) fn put_peers(&mut self, facts: PeerAuthenticationFacts) {
        self.touched.everything = true;
        self.peers.insert(Arc::clone(&facts.object.name), facts);
    }

    pub(super) fn remove_peers(&mut self, name: &str) -> bool {
        let is_gone = self.peers.remove(name).is_some();
        self.touched.everything |= is_gone;
        is_gone
    }

    /// What this says for the whole mesh, as that of its root.
    pub(super) fn mesh_ruling(&self) -> Option<PeerRuling> {
        widest(self.peers.values())
    }

    pub(super) fn put_service(&mut self, facts: ServiceFacts) -> Option<ServiceFacts> {
        self.touch_neighbours_of(&facts);
        let name = Arc::clone(&facts.object.name);
        self.touched.services.insert(Arc::clone(&name));
        let old = self.services.insert(name, Box::new(facts)).map(|old| *old);
        if let Some(old) = &old {
            self.touch_neighbours_of(old);
        }
        old
    }

    pub(super) fn remove_service(&mut self, name: &str) -> Option<ServiceFacts> {
        let (name, old) = self.services.remove_entry(name)?;
        self.touched.services.insert(name);
        self.touch_neighbours_of(&old);
        Some(*old)
    }

    pub(super) fn put_pod(&mut self, mut facts: PodFacts) {
        self.share(&mut facts);
        self.touch_services_of(&facts);
        let old = self.pods.insert(Arc::clone(&facts.object.name), facts);
        if let Some(old) = &old {
            self.touch_services_of(old);
        }
    }

    pub(super) fn remove_pod(&mut self, name: &str) -> bool {
        let Some(old) = self.pods.remove(name) else { return false };
        self.touch_services_of(&old);
        true
    }

    pub(super) fn put_slice(&mut self, facts: SliceFacts) {
        self.touched.services.extend(facts.service.as_deref().map(Arc::from));
        let old = self.slices.insert(Arc::clone(&facts.object.name), facts);
        self.touched.services.extend(old.and_then(|old| old.service).map(Arc::from));
    }

    pub(super) fn remove_slice(&mut self, name: &str) -> bool {
        let Some(old) = self.slices.remove(name) else { return false };
        self.touched.services.extend(old.service.map(Arc::from));
        true
    }

    /// Pods of one owner stand side by side and have their labels, account and ports in common: these are in memory once.
    fn share(&self, facts: &mut PodFacts) {
        let name = Arc::clone(&facts.object.name);
        let (before, after) = (self.pods.range(..Arc::clone(&name)).next_back(), self.pods.range(name..).next());
        for (_, neighbour) in [before, after].into_iter().flatten() {
            if neighbour.labels == facts.labels {
                facts.labels = Arc::clone(&neighbour.labels);
            }
            if neighbour.account == facts.account {
                facts.account = neighbour.account.clone();
            }
            if neighbour.named_ports == facts.named_ports {
                facts.named_ports.clone_from(&neighbour.named_ports);
            }
        }
    }

    /// One that leads to the same pods may have a say in what their ports are.
    fn touch_neighbours_of(&mut self, service: &ServiceFacts) {
        if !self.touched.everything {
            let neighbours = self.services.iter().filter(|(_, other)| may_share_pods(other, service));
            self.touched.services.extend(neighbours.map(|(name, _)| Arc::clone(name)));
        }
    }

    fn touch_services_of(&mut self, pod: &PodFacts) {
        let is_named = |slice: &SliceFacts| {
            let names_it = |endpoint: &SliceEndpoint| match endpoint {
                SliceEndpoint::Pod { name, .. } => **name == *pod.object.name,
                SliceEndpoint::Other => false,
            };
            slice.endpoints.iter().any(names_it)
        };
        let services = self.services.iter().filter(|(_, service)| match &service.backing {
            Backing::Selector(selector) => selector.selects(&pod.labels),
            Backing::Slices | Backing::ExternalName => false,
        });
        self.touched.services.extend(services.map(|(name, _)| Arc::clone(name)));
        let slices = self.slices.values().filter(|slice| is_named(slice));
        self.touched.services.extend(slices.filter_map(|slice| slice.service.as_deref()).map(Arc::from));
    }

    /// What holds here now: `old` itself if nothing has changed, `None` if there is no such namespace.
    pub(super) fn policy(
        &mut self,
        name: &Arc<str>,
        by: &By<'_>,
        old: Option<&Arc<NamespacePolicy>>,
    ) -> Option<Arc<NamespacePolicy>> {
        let touched = std::mem::take(&mut self.touched);
        let labels = self.labels.as_ref()?;
        if touched.everything || by.is_new {
            self.stirred.extend(self.services.keys().cloned());
        } else {
            self.stirred.extend(touched.services.iter().cloned());
        }
        let new = match old {
            Some(old) if !touched.everything && !by.is_new => {
                let peers = self.namespace_peers(name, by);
                let membership = self.membership(name, labels, by, peers.as_ref());
                let mut services = old.services.clone();
                for service in touched.services {
                    let facts = self.services.get(&service);
                    match facts.and_then(|facts| self.service_policy(facts, labels, &membership, by, peers.as_ref())) {
                        None => drop(services.remove(&service)),
                        Some(new) if services.get(&service).is_some_and(|old| **old == new) => {}
                        Some(new) => drop(services.insert(service, Arc::new(new))),
                    }
                }
                NamespacePolicy { name: Arc::clone(name), membership, services }
            }
            old => self.policy_by(name, labels, by, old),
        };
        Some(match old {
            Some(old) if **old == new => Arc::clone(old),
            _ => Arc::new(new),
        })
    }

    /// Services that were worked out again since this was asked last.
    pub(super) fn take_stirred(&mut self) -> BTreeSet<Arc<str>> {
        std::mem::take(&mut self.stirred)
    }

    /// Ready pods behind these ports of a Service.
    pub(super) fn probe_targets(&self, service: &str, ports: &[u16]) -> Vec<ProbeTarget> {
        let Some(service) = self.services.get(service) else { return Vec::new() };
        probe_targets(service, ports, self.pods.values())
    }

    pub(super) fn has_ready_pods(&self, service: &str) -> bool {
        self.services.get(service).is_some_and(|service| has_ready_pods(service, self.pods.values()))
    }

    /// What would hold here with these labels. What is as in `old` is that.
    pub(super) fn policy_by(
        &self,
        name: &Arc<str>,
        labels: &MeshLabels,
        by: &By<'_>,
        old: Option<&Arc<NamespacePolicy>>,
    ) -> NamespacePolicy {
        let peers = self.namespace_peers(name, by);
        let membership = self.membership(name, labels, by, peers.as_ref());
        let policy = |(name, facts): (&Arc<str>, _)| {
            let new = self.service_policy(facts, labels, &membership, by, peers.as_ref())?;
            let known = old.and_then(|old| old.services.get(name)).filter(|old| ***old == new);
            Some((Arc::clone(name), known.map_or_else(|| Arc::new(new), Arc::clone)))
        };
        let services = self.services.iter().map(|(name, facts)| (name, &**facts)).filter_map(policy).collect();
        NamespacePolicy { name: Arc::clone(name), membership, services }
    }

    fn namespace_peers(&self, name: &str, by: &By<'_>) -> Option<NamespacePeers<'_>> {
        let mesh = by.sight.peers.as_ref()?;
        Some(NamespacePeers::new(self.peers.values(), mesh, *name == *by.settings.istio_namespace))
    }

    fn membership(
        &self,
        name: &str,
        labels: &MeshLabels,
        by: &By<'_>,
        peers: Option<&NamespacePeers<'_>>,
    ) -> Membership {
        let mut membership = membership(name, labels, by.sight);
        let is_left_alone = membership.mode == MtlsMode::NotManaged && !is_by_pods(labels, by);
        if let Some(peers) = peers.filter(|peers| is_left_alone && !peers.is_never_strict()) {
            let refused = self.pods.values().find_map(|pod| refuses_plaintext(pod, peers));
            membership.conditions.extend(refused.map(Into::into));
        }
        membership
    }

    /// `None` if it is no member.
    fn service_policy(
        &self,
        facts: &ServiceFacts,
        labels: &MeshLabels,
        membership: &Membership,
        by: &By<'_>,
        peers: Option<&NamespacePeers<'_>>,
    ) -> Option<ServicePolicy> {
        let by_pods = membership.mode == MtlsMode::NotManaged;
        if by_pods && !is_by_pods(labels, by) {
            return None;
        }
        let beside = Beside {
            pod: &|name| self.pods.get(name),
            pods: self.pods.values(),
            services: self.services.values().map(|service| &**service),
            slices: self.slices.values(),
            peers,
            by_pods,
        };
        ServicePolicy::of(facts, beside)
    }
}

/// Whether Services there are members by what their pods show.
fn is_by_pods(labels: &MeshLabels, by: &By<'_>) -> bool {
    by.settings.by_pods && labels.say_nothing()
}
