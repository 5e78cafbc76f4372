//! All policies of a cluster at one moment. What did not change from one to the next is shared between them.

use std::{collections::BTreeMap, sync::Arc};

use super::{ControlPlanes, Membership, MtlsMode, ObjectName, ServicePolicy};

/// The policies. Two with the same content are equal, whatever their revisions.
#[derive(Clone, Debug)]
pub struct PolicySnapshot {
    /// Grows by one with each change, from 1, for as long as the index lives.
    pub revision: u64,
    /// Each namespace there is.
    pub namespaces: BTreeMap<Arc<str>, Arc<NamespacePolicy>>,
    /// What runs besides.
    pub control_planes: Arc<ControlPlanes>,
}

/// What holds in a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamespacePolicy {
    /// Its name.
    pub name: Arc<str>,
    /// What its labels say.
    pub membership: Membership,
    /// Its Services, if mutual TLS is required; else none.
    pub services: BTreeMap<Arc<str>, Arc<ServicePolicy>>,
}

/// What differs between two snapshots.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicyChanges {
    /// New ones, and those of which more has changed than their Services.
    pub namespaces: Vec<Arc<NamespacePolicy>>,
    /// Those that are gone.
    pub namespaces_gone: Vec<Arc<str>>,
    /// New and changed ones.
    pub services: Vec<Arc<ServicePolicy>>,
    /// Those that no policy holds for any more.
    pub services_gone: Vec<ObjectName>,
    /// Of these, those that do not exist any more, as far as that is known: of a namespace that is still a member.
    pub services_deleted: Vec<ObjectName>,
}

impl PartialEq for PolicySnapshot {
    fn eq(&self, other: &Self) -> bool {
        self.namespaces == other.namespaces && self.control_planes == other.control_planes
    }
}

impl Eq for PolicySnapshot {}

impl PolicySnapshot {
    /// The policy of a Service.
    pub fn service(&self, namespace: &str, name: &str) -> Option<&Arc<ServicePolicy>> {
        self.namespaces.get(namespace)?.services.get(name)
    }

    /// All Services that a policy holds for, in order.
    pub fn services(&self) -> impl Iterator<Item = &Arc<ServicePolicy>> {
        self.namespaces.values().flat_map(|namespace| namespace.services.values())
    }

    /// Whether there is no such Service, as far as that is known: of a namespace that is not there, or a member.
    pub fn lacks(&self, service: &ObjectName) -> bool {
        let namespace = self.namespaces.get(&service.namespace);
        namespace.is_none_or(|namespace| namespace.is_member() && !namespace.services.contains_key(&service.name))
    }

    /// What a reader of `before` has to change.
    pub fn changes_since(&self, before: &Self) -> PolicyChanges {
        let mut changes = PolicyChanges::default();
        for (name, old) in &before.namespaces {
            if !self.namespaces.contains_key(name) {
                changes.namespaces_gone.push(Arc::clone(name));
                changes.services_gone.extend(old.services.values().map(|policy| policy.service.clone()));
                changes.services_deleted.extend(old.services.values().map(|policy| policy.service.clone()));
            }
        }
        for (name, new) in &self.namespaces {
            match before.namespaces.get(name) {
                Some(old) if Arc::ptr_eq(old, new) => {}
                Some(old) => {
                    if old.membership != new.membership {
                        changes.namespaces.push(Arc::clone(new));
                    }
                    changes.add_services(old, new);
                }
                None => {
                    changes.namespaces.push(Arc::clone(new));
                    changes.services.extend(new.services.values().cloned());
                }
            }
        }
        changes
    }
}

impl PolicyChanges {
    fn add_services(&mut self, old: &NamespacePolicy, new: &NamespacePolicy) {
        let gone = old.services.iter().filter(|(name, _)| !new.services.contains_key(*name));
        let gone: Vec<ObjectName> = gone.map(|(_, policy)| policy.service.clone()).collect();
        if new.is_member() {
            self.services_deleted.extend(gone.iter().cloned());
        }
        self.services_gone.extend(gone);
        let is_as_before =
            |name: &Arc<str>, policy: &Arc<ServicePolicy>| old.services.get(name).is_some_and(|old| old == policy);
        let changed = new.services.iter().filter(|(name, policy)| !is_as_before(name, policy));
        self.services.extend(changed.map(|(_, policy)| Arc::clone(policy)));
    }
}

impl NamespacePolicy {
    /// Whether its labels ask for mutual TLS.
    pub fn is_member(&self) -> bool {
        self.membership.mode == MtlsMode::Required
    }
}
