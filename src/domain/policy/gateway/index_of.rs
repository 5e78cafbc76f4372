//! Which objects concern a place where requests go.

use std::collections::{BTreeMap, BTreeSet};

use crate::domain::policy::Upstream;

/// Names of objects by what they concern.
#[derive(Debug)]
pub(super) struct IndexOf<N>(BTreeMap<Upstream, BTreeSet<N>>);

impl<N> Default for IndexOf<N> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<N: Clone + Ord> IndexOf<N> {
    /// `name` concerned `old` and concerns `new`. `touched` hears of both.
    pub(super) fn replace(
        &mut self,
        name: &N,
        old: impl IntoIterator<Item = Upstream>,
        new: impl IntoIterator<Item = Upstream>,
        mut touched: impl FnMut(Upstream),
    ) {
        for upstream in old {
            if let Some(names) = self.0.get_mut(&upstream) {
                names.remove(name);
                if names.is_empty() {
                    self.0.remove(&upstream);
                }
            }
            touched(upstream);
        }
        for upstream in new {
            self.0.entry(upstream.clone()).or_default().insert(name.clone());
            touched(upstream);
        }
    }

    pub(super) fn get(&self, upstream: &Upstream) -> impl Iterator<Item = &N> {
        self.0.get(upstream).into_iter().flatten()
    }

    pub(super) fn upstreams(&self) -> impl DoubleEndedIterator<Item = &Upstream> {
        self.0.keys()
    }
}
