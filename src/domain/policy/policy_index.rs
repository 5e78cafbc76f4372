//! The index: what is seen of a cluster goes in, policies come out. Level-triggered: whatever was seen in whatever order,
//! what comes out depends on what is there in the end alone. What nothing has touched is not worked out again.

mod contents;
mod control_plane_pods;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use self::{
    contents::{By, Contents},
    control_plane_pods::ControlPlanePods,
};
use super::{
    ControlPlanes, IstiodReport, MeshLabels, MeshSight, NamespaceFacts, NamespacePolicy, ObjectName,
    PeerAuthenticationFacts, PodFacts, PolicySnapshot, ProbeTarget, ServiceFacts, SliceFacts,
};

/// What was seen of objects of one kind, `K` being what they are called by.
#[derive(Clone, Debug)]
pub enum Change<T, K = ObjectName> {
    /// These there are, and no others.
    Reset(Vec<T>),
    /// One is there, or was changed.
    Put(T),
    /// One is gone.
    Gone(K),
}

/// What was seen.
#[derive(Clone, Debug)]
pub enum ClusterChange {
    /// Of namespaces.
    Namespaces(Change<NamespaceFacts, Arc<str>>),
    /// Of Services.
    Services(Change<ServiceFacts>),
    /// Of pods.
    Pods(Change<PodFacts>),
    /// Of EndpointSlices that were not made from a selector.
    Slices(Change<SliceFacts>),
    /// Of PeerAuthentications.
    PeerAuthentications(Change<PeerAuthenticationFacts>),
    /// All that was heard from istiods.
    Istiods(Vec<IstiodReport>),
}

/// What policies are worked out by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicySettings {
    /// Where istiod runs, and where PeerAuthentications speak for the whole mesh.
    pub istio_namespace: Box<str>,
    /// Where Envoy Gateway runs.
    pub envoy_gateway_namespace: Box<str>,
    /// Whether a Service of a namespace whose labels say nothing is a member when all its pods show that they are.
    pub by_pods: bool,
}

impl Default for PolicySettings {
    fn default() -> Self {
        Self {
            istio_namespace: "istio-system".into(),
            envoy_gateway_namespace: "envoy-gateway-system".into(),
            by_pods: false,
        }
    }
}

/// Everything that policies are worked out from, and the newest of them.
#[derive(Debug, Default)]
pub struct PolicyIndex {
    settings: PolicySettings,
    namespaces: BTreeMap<Arc<str>, Contents>,
    /// Which kinds have been listed.
    listed: Listed,
    tags: Counts,
    control_planes: ControlPlanePods,
    /// Namespaces in which something may have changed.
    touched: BTreeSet<Arc<str>>,
    /// What `current` was worked out with.
    sight: MeshSight,
    current: Option<Arc<PolicySnapshot>>,
    /// Services that were worked out again.
    stirred: BTreeSet<ObjectName>,
}

#[derive(Debug, Default)]
struct Listed {
    namespaces: bool,
    services: bool,
    pods: bool,
    slices: bool,
    /// They need not be there, and nothing waits for them.
    peers: bool,
}

/// How often each name was seen.
#[derive(Debug, Default)]
struct Counts(BTreeMap<Box<str>, usize>);

impl PolicyIndex {
    /// Of a cluster in which these hold. Nothing is known yet.
    pub fn new(settings: PolicySettings) -> Self {
        Self { settings, ..Self::default() }
    }

    /// Takes up what was seen. Cheap: policies are worked out by [`snapshot`](Self::snapshot).
    pub fn apply(&mut self, change: ClusterChange) {
        match change {
            ClusterChange::Namespaces(Change::Reset(all)) => self.reset_namespaces(all),
            ClusterChange::Namespaces(Change::Put(facts)) => self.set_labels(facts.name, Some(facts.labels)),
            ClusterChange::Namespaces(Change::Gone(name)) => self.set_labels(name, None),
            ClusterChange::Services(Change::Reset(all)) => self.reset_services(all),
            ClusterChange::Services(Change::Put(facts)) => self.put_service(facts),
            ClusterChange::Services(Change::Gone(object)) => self.remove_service(&object),
            ClusterChange::Pods(Change::Reset(all)) => self.reset_pods(all),
            ClusterChange::Pods(Change::Put(facts)) => self.put_pod(facts),
            ClusterChange::Pods(Change::Gone(object)) => self.remove_pod(&object),
            ClusterChange::Slices(Change::Reset(all)) => self.reset_slices(all),
            ClusterChange::Slices(Change::Put(facts)) => self.put_slice(facts),
            ClusterChange::Slices(Change::Gone(object)) => self.remove_slice(&object),
            ClusterChange::PeerAuthentications(Change::Reset(all)) => self.reset_peers(all),
            ClusterChange::PeerAuthentications(Change::Put(facts)) => self.put_peers(facts),
            ClusterChange::PeerAuthentications(Change::Gone(object)) => self.remove_peers(&object),
            ClusterChange::Istiods(reports) => self.control_planes.hear(reports),
        }
    }

    /// The policies as of now: the very one that was given before, if nothing has changed. `None` until every kind of object
    /// has been listed once.
    pub fn snapshot(&mut self) -> Option<Arc<PolicySnapshot>> {
        if !(self.listed.namespaces && self.listed.services && self.listed.pods && self.listed.slices) {
            return None;
        }
        let (control_planes, sight) = self.look();
        let mut touched = std::mem::take(&mut self.touched);
        let is_new = self.current.is_none() || sight != self.sight;
        if is_new {
            touched = self.namespaces.keys().cloned().collect();
        }
        let current = self.current.take().unwrap_or_else(|| {
            // of which the first one to be given out is a change, even if there is nothing
            Arc::new(PolicySnapshot { revision: 0, namespaces: BTreeMap::new(), control_planes: Arc::default() })
        });
        let mut changed = Vec::new();
        let by = By { settings: &self.settings, sight: &sight, is_new };
        for name in touched {
            let old = current.namespaces.get(&name);
            let new = self.namespaces.get_mut(&name).and_then(|contents| contents.policy(&name, &by, old));
            let stirred = self.namespaces.get_mut(&name).map(Contents::take_stirred).unwrap_or_default();
            let stirred = stirred.into_iter().map(|service| ObjectName { namespace: Arc::clone(&name), name: service });
            self.stirred.extend(stirred);
            if self.namespaces.get(&name).is_some_and(Contents::is_empty) {
                self.namespaces.remove(&name);
            }
            match (old, new) {
                (None, None) => {}
                (Some(old), Some(new)) if Arc::ptr_eq(old, &new) => {}
                (_, new) => changed.push((name, new)),
            }
        }
        self.sight = sight;
        let is_same = changed.is_empty() && *current.control_planes == control_planes;
        let newest =
            if is_same && current.revision > 0 { current } else { changed_by(&current, changed, control_planes) };
        self.current = Some(Arc::clone(&newest));
        Some(newest)
    }

    /// Services that [`snapshot`](Self::snapshot) has worked out again since this was asked last, whether anything came of it or not:
    /// of their pods something has changed, or may have.
    pub fn take_stirred(&mut self) -> BTreeSet<ObjectName> {
        std::mem::take(&mut self.stirred)
    }

    /// Ready pods behind these ports of a Service.
    pub fn probe_targets(&self, service: &ObjectName, ports: &[u16]) -> Vec<ProbeTarget> {
        self.namespaces
            .get(&service.namespace)
            .map(|contents| contents.probe_targets(&service.name, ports))
            .unwrap_or_default()
    }

    /// Whether requests to a Service can get anywhere, as far as is seen.
    pub fn has_ready_pods(&self, service: &ObjectName) -> bool {
        self.namespaces.get(&service.namespace).is_some_and(|contents| contents.has_ready_pods(&service.name))
    }

    /// What would hold in a namespace if it had these labels; `None` if there is no such namespace.
    pub fn preview(&self, namespace: &str, labels: MeshLabels) -> Option<NamespacePolicy> {
        let (name, contents) = self.namespaces.get_key_value(namespace)?;
        contents.labels.as_ref()?;
        let by = By { settings: &self.settings, sight: &self.sight, is_new: false };
        Some(contents.policy_by(name, &labels, &by, None))
    }

    /// What is seen of Istio.
    fn look(&self) -> (ControlPlanes, MeshSight) {
        let root = self.namespaces.get(&*self.settings.istio_namespace);
        let peers = self.listed.peers.then(|| root.and_then(Contents::mesh_ruling).unwrap_or_default());
        let control_planes = self.control_planes.seen(&self.settings);
        let sight = MeshSight {
            revisions: self.control_planes.revisions(),
            tags: self.tags.names(),
            control_plane: self.control_planes.conditions(&control_planes, &self.settings.istio_namespace),
            peers,
        };
        (control_planes, sight)
    }

    /// The labels of a namespace.
    pub fn labels(&self, namespace: &str) -> Option<&MeshLabels> {
        self.namespaces.get(namespace)?.labels.as_ref()
    }

    fn reset_namespaces(&mut self, all: Vec<NamespaceFacts>) {
        let names: BTreeSet<Arc<str>> = all.iter().map(|facts| Arc::clone(&facts.name)).collect();
        let known = self.namespaces.iter().filter(|(_, contents)| contents.labels.is_some());
        let gone: Vec<Arc<str>> =
            known.map(|(name, _)| Arc::clone(name)).filter(|name| !names.contains(name)).collect();
        gone.into_iter().for_each(|name| self.set_labels(name, None));
        all.into_iter().for_each(|facts| self.set_labels(facts.name, Some(facts.labels)));
        self.listed.namespaces = true;
    }

    fn set_labels(&mut self, name: Arc<str>, labels: Option<MeshLabels>) {
        let contents = self.namespaces.entry(Arc::clone(&name)).or_default();
        if contents.labels != labels {
            contents.set_labels(labels);
            self.touched.insert(name);
        }
    }

    fn reset_services(&mut self, all: Vec<ServiceFacts>) {
        let gone = self.missing(all.iter().map(|facts| &facts.object), |contents| contents.services.keys());
        gone.iter().for_each(|object| self.remove_service(object));
        all.into_iter().for_each(|facts| self.put_service(facts));
        self.listed.services = true;
    }

    fn put_service(&mut self, mut facts: ServiceFacts) {
        let (new, contents) = (facts.tag.clone(), contents_of(&mut self.namespaces, &mut facts.object));
        if contents.services.get(&facts.object.name).is_some_and(|known| **known == facts) {
            return;
        }
        let (object, old) = (facts.object.clone(), contents.put_service(facts));
        self.tags.replace(old.and_then(|old| old.tag).map(|tag| tag.tag), new.map(|tag| tag.tag));
        self.touched.insert(object.namespace);
    }

    fn remove_service(&mut self, object: &ObjectName) {
        let Some(contents) = self.namespaces.get_mut(&object.namespace) else { return };
        if let Some(old) = contents.remove_service(&object.name) {
            self.tags.replace(old.tag.map(|tag| tag.tag), None);
            self.touched.insert(Arc::clone(&object.namespace));
        }
    }

    fn reset_pods(&mut self, all: Vec<PodFacts>) {
        let gone = self.missing(all.iter().map(|facts| &facts.object), |contents| contents.pods.keys());
        gone.iter().for_each(|object| self.remove_pod(object));
        all.into_iter().for_each(|facts| self.put_pod(facts));
        self.listed.pods = true;
    }

    fn put_pod(&mut self, mut facts: PodFacts) {
        let contents = contents_of(&mut self.namespaces, &mut facts.object);
        if contents.pods.get(&facts.object.name) == Some(&facts) {
            return;
        }
        self.control_planes.put(&facts);
        self.touched.insert(Arc::clone(&facts.object.namespace));
        contents.put_pod(facts);
    }

    fn remove_pod(&mut self, object: &ObjectName) {
        let Some(contents) = self.namespaces.get_mut(&object.namespace) else { return };
        if contents.remove_pod(&object.name) {
            self.control_planes.remove(object);
            self.touched.insert(Arc::clone(&object.namespace));
        }
    }

    fn reset_slices(&mut self, all: Vec<SliceFacts>) {
        let gone = self.missing(all.iter().map(|facts| &facts.object), |contents| contents.slices.keys());
        gone.iter().for_each(|object| self.remove_slice(object));
        all.into_iter().for_each(|facts| self.put_slice(facts));
        self.listed.slices = true;
    }

    fn put_slice(&mut self, mut facts: SliceFacts) {
        let contents = contents_of(&mut self.namespaces, &mut facts.object);
        if contents.slices.get(&facts.object.name) != Some(&facts) {
            self.touched.insert(Arc::clone(&facts.object.namespace));
            contents.put_slice(facts);
        }
    }

    fn remove_slice(&mut self, object: &ObjectName) {
        let Some(contents) = self.namespaces.get_mut(&object.namespace) else { return };
        if contents.remove_slice(&object.name) {
            self.touched.insert(Arc::clone(&object.namespace));
        }
    }

    fn reset_peers(&mut self, all: Vec<PeerAuthenticationFacts>) {
        let gone = self.missing(all.iter().map(|facts| &facts.object), |contents| contents.peers.keys());
        gone.iter().for_each(|object| self.remove_peers(object));
        all.into_iter().for_each(|facts| self.put_peers(facts));
        self.listed.peers = true;
    }

    fn put_peers(&mut self, mut facts: PeerAuthenticationFacts) {
        let contents = contents_of(&mut self.namespaces, &mut facts.object);
        if contents.peers.get(&facts.object.name) != Some(&facts) {
            self.touched.insert(Arc::clone(&facts.object.namespace));
            contents.put_peers(facts);
        }
    }

    fn remove_peers(&mut self, object: &ObjectName) {
        let Some(contents) = self.namespaces.get_mut(&object.namespace) else { return };
        if contents.remove_peers(&object.name) {
            self.touched.insert(Arc::clone(&object.namespace));
        }
    }

    /// The objects of one kind that are known but not among `all`.
    fn missing<'a, 's, K: Iterator<Item = &'s Arc<str>>>(
        &'s self,
        all: impl Iterator<Item = &'a ObjectName>,
        known: impl Fn(&'s Contents) -> K,
    ) -> Vec<ObjectName> {
        let all: BTreeSet<&ObjectName> = all.collect();
        let known = self.namespaces.iter().flat_map(|(namespace, contents)| {
            known(contents)
                .map(|name| ObjectName { namespace: Arc::clone(namespace), name: Arc::clone(name) })
                .collect::<Vec<_>>()
        });
        known.filter(|object| !all.contains(object)).collect()
    }
}

/// The namespace's contents; the object shares its name with them from now on.
fn contents_of<'a>(namespaces: &'a mut BTreeMap<Arc<str>, Contents>, object: &mut ObjectName) -> &'a mut Contents {
    if let Some((known, _)) = namespaces.get_key_value(&object.namespace) {
        object.namespace = Arc::clone(known);
    }
    namespaces.entry(Arc::clone(&object.namespace)).or_default()
}

fn changed_by(
    before: &PolicySnapshot,
    changed: Vec<(Arc<str>, Option<Arc<NamespacePolicy>>)>,
    control_planes: ControlPlanes,
) -> Arc<PolicySnapshot> {
    let mut namespaces = before.namespaces.clone();
    for (name, policy) in changed {
        match policy {
            Some(policy) => namespaces.insert(name, policy),
            None => namespaces.remove(&name),
        };
    }
    let same = *before.control_planes == control_planes;
    let control_planes = if same { Arc::clone(&before.control_planes) } else { Arc::new(control_planes) };
    Arc::new(PolicySnapshot { revision: before.revision + 1, namespaces, control_planes })
}

impl Counts {
    fn replace(&mut self, old: Option<Box<str>>, new: Option<Box<str>>) {
        if let Some(new) = new {
            *self.0.entry(new).or_default() += 1;
        }
        if let Some(old) = old
            && let Some(count) = self.0.get_mut(&old)
        {
            *count -= 1;
            if *count == 0 {
                self.0.remove(&old);
            }
        }
    }

    fn names(&self) -> BTreeSet<Box<str>> {
        self.0.keys().cloned().collect()
    }
}

#[cfg(test)]
mod tests;
