//! The objects of one kind.

use std::{collections::BTreeMap, sync::Arc};

use crate::domain::policy::{Change, ObjectName};

/// What is known of one kind, by name.
#[derive(Debug)]
pub(super) struct Known<K, T> {
    all: BTreeMap<K, T>,
    is_listed: bool,
}

impl<K, T> Default for Known<K, T> {
    fn default() -> Self {
        Self { all: BTreeMap::new(), is_listed: false }
    }
}

impl<K: Clone + Ord, T: PartialEq> Known<K, T> {
    /// Takes up a change. `changed` hears of each object that became another, as it was and as it is.
    pub(super) fn take(
        &mut self,
        change: Change<T, K>,
        name: impl Fn(&T) -> K,
        mut changed: impl FnMut(Option<&T>, Option<&T>),
    ) {
        match change {
            Change::Put(new) => self.put(name(&new), new, &mut changed),
            Change::Gone(name) => self.remove(&name, &mut changed),
            Change::Reset(all) => {
                let all: BTreeMap<K, T> = all.into_iter().map(|object| (name(&object), object)).collect();
                let gone: Vec<K> = self.all.keys().filter(|name| !all.contains_key(name)).cloned().collect();
                gone.iter().for_each(|name| self.remove(name, &mut changed));
                all.into_iter().for_each(|(name, object)| self.put(name, object, &mut changed));
                self.is_listed = true;
            }
        }
    }

    fn put(&mut self, name: K, new: T, changed: &mut impl FnMut(Option<&T>, Option<&T>)) {
        let old = self.all.get(&name);
        if old != Some(&new) {
            changed(old, Some(&new));
            self.all.insert(name, new);
        }
    }

    fn remove(&mut self, name: &K, changed: &mut impl FnMut(Option<&T>, Option<&T>)) {
        if let Some(old) = self.all.remove(name) {
            changed(Some(&old), None);
        }
    }

    pub(super) fn get(&self, name: &K) -> Option<&T> {
        self.all.get(name)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &T> {
        self.all.values()
    }

    /// Whether all of them were told of once.
    pub(super) const fn is_listed(&self) -> bool {
        self.is_listed
    }
}

impl<T> Known<ObjectName, T> {
    /// Those of one namespace.
    pub(super) fn in_namespace(&self, namespace: &Arc<str>) -> impl Iterator<Item = &T> {
        let first = ObjectName { namespace: Arc::clone(namespace), name: "".into() };
        let all = self.all.range(first..).take_while(move |(name, _)| name.namespace == *namespace);
        all.map(|(_, object)| object)
    }
}
