//! What is known of one namespace.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::domain::policy::{
    Backing, MeshLabels, MeshSight, MtlsMode, NamespacePolicy, PodFacts, ServiceFacts, ServicePolicy, SliceEndpoint,
    SliceFacts, membership,
};

/// The objects of a namespace, of which it need not be known that it exists.
#[derive(Debug, Default)]
pub(super) struct Contents {
    /// `None` as long as there is no such namespace.
    pub(super) labels: Option<MeshLabels>,
    pub(super) services: BTreeMap<Arc<str>, ServiceFacts>,
    pub(super) pods: BTreeMap<Arc<str>, PodFacts>,
    pub(super) slices: BTreeMap<Arc<str>, SliceFacts>,
    /// Services whose policy may have changed.
    touched: BTreeSet<Arc<str>>,
}

impl Contents {
    pub(super) fn is_empty(&self) -> bool {
        self.labels.is_none() && self.services.is_empty() && self.pods.is_empty() && self.slices.is_empty()
    }

    pub(super) fn put_service(&mut self, facts: ServiceFacts) -> Option<ServiceFacts> {
        self.touched.insert(Arc::clone(&facts.object.name));
        self.services.insert(Arc::clone(&facts.object.name), facts)
    }

    pub(super) fn remove_service(&mut self, name: &str) -> Option<ServiceFacts> {
        let (name, old) = self.services.remove_entry(name)?;
        self.touched.insert(name);
        Some(old)
    }

    pub(super) fn put_pod(&mut self, mut facts: PodFacts) -> Option<PodFacts> {
        self.share(&mut facts);
        self.touch_services_of(&facts);
        let old = self.pods.insert(Arc::clone(&facts.object.name), facts);
        if let Some(old) = &old {
            self.touch_services_of(old);
        }
        old
    }

    pub(super) fn remove_pod(&mut self, name: &str) -> Option<PodFacts> {
        let old = self.pods.remove(name)?;
        self.touch_services_of(&old);
        Some(old)
    }

    pub(super) fn put_slice(&mut self, facts: SliceFacts) {
        self.touched.extend(facts.service.as_deref().map(Arc::from));
        let old = self.slices.insert(Arc::clone(&facts.object.name), facts);
        self.touched.extend(old.and_then(|old| old.service).map(Arc::from));
    }

    pub(super) fn remove_slice(&mut self, name: &str) -> bool {
        let Some(old) = self.slices.remove(name) else { return false };
        self.touched.extend(old.service.map(Arc::from));
        true
    }

    /// Pods of one owner stand side by side and have their labels and account in common: these are in memory once.
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
        self.touched.extend(services.map(|(name, _)| Arc::clone(name)));
        let slices = self.slices.values().filter(|slice| is_named(slice));
        self.touched.extend(slices.filter_map(|slice| slice.service.as_deref()).map(Arc::from));
    }

    /// What holds here now: `old` itself if nothing has changed, `None` if there is no such namespace.
    pub(super) fn policy(
        &mut self,
        name: &Arc<str>,
        sight: &MeshSight,
        old: Option<&Arc<NamespacePolicy>>,
    ) -> Option<Arc<NamespacePolicy>> {
        let touched = std::mem::take(&mut self.touched);
        let labels = self.labels.as_ref()?;
        let membership = membership(name, labels, sight);
        let services = match (membership.mode, old) {
            (MtlsMode::NotManaged, _) => BTreeMap::new(),
            (MtlsMode::Required, Some(old)) if old.is_member() => {
                let mut services = old.services.clone();
                for service in touched {
                    match self.services.get(&service).map(|facts| self.service_policy(facts)) {
                        None => drop(services.remove(&service)),
                        Some(new) if services.get(&service).is_some_and(|old| **old == new) => {}
                        Some(new) => drop(services.insert(service, Arc::new(new))),
                    }
                }
                services
            }
            (MtlsMode::Required, _) => self.all_services(),
        };
        let new = NamespacePolicy { name: Arc::clone(name), membership, services };
        Some(match old {
            Some(old) if **old == new => Arc::clone(old),
            _ => Arc::new(new),
        })
    }

    /// What would hold here with these labels.
    pub(super) fn policy_by(&self, name: &Arc<str>, labels: &MeshLabels, sight: &MeshSight) -> NamespacePolicy {
        let membership = membership(name, labels, sight);
        let services = match membership.mode {
            MtlsMode::Required => self.all_services(),
            MtlsMode::NotManaged => BTreeMap::new(),
        };
        NamespacePolicy { name: Arc::clone(name), membership, services }
    }

    fn all_services(&self) -> BTreeMap<Arc<str>, Arc<ServicePolicy>> {
        let all = self.services.iter();
        all.map(|(name, facts)| (Arc::clone(name), Arc::new(self.service_policy(facts)))).collect()
    }

    fn service_policy(&self, facts: &ServiceFacts) -> ServicePolicy {
        ServicePolicy::of(facts, |name| self.pods.get(name), self.pods.values(), self.slices.values())
    }
}
