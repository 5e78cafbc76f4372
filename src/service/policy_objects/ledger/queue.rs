//! What may have to be done now.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::order::Rank;
use crate::service::policy_objects::ports::ObjectKey;

/// Each in one place.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// Those last that failed last, by the number of the failure among all of them; and after all others, whether these have failed or
    /// not, those that are as they should be as far as anybody knows.
    places: BTreeSet<(bool, u64, Rank, ObjectKey)>,
    of: BTreeMap<ObjectKey, Place>,
    /// How many wait their turn, by namespace.
    in_turn: BTreeMap<Arc<str>, usize>,
}

/// Where one is in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) rank: Rank,
    /// The number of its failure.
    pub(super) failure: u64,
    /// Whether it waits its turn.
    pub(super) is_in_turn: bool,
}

impl Queue {
    /// What is there already comes to another place if it has another rank by now.
    pub(super) fn put(&mut self, key: &ObjectKey, place: Place) {
        self.remove(key);
        self.of.insert(key.clone(), place);
        self.places.insert((place.rank == Rank::Reassure, place.failure, place.rank, key.clone()));
        if place.is_in_turn {
            *self.in_turn.entry(Arc::clone(&key.object.namespace)).or_default() += 1;
        }
    }

    pub(super) fn remove(&mut self, key: &ObjectKey) {
        if let Some(Place { rank, failure, .. }) = self.leave(key) {
            self.places.remove(&(rank == Rank::Reassure, failure, rank, key.clone()));
        }
    }

    pub(super) fn pop_first(&mut self) -> Option<(Place, ObjectKey)> {
        let (_, _, _, key) = self.places.pop_first()?;
        Some((self.leave(&key)?, key))
    }

    /// How many wait their turn, but for those of some namespaces.
    pub(super) fn in_turn_outside<'a>(&self, namespaces: impl IntoIterator<Item = &'a Arc<str>>) -> usize {
        let namespaces: BTreeSet<&Arc<str>> = namespaces.into_iter().collect();
        self.in_turn.iter().filter(|(namespace, _)| !namespaces.contains(namespace)).map(|(_, count)| count).sum()
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &ObjectKey> {
        self.places.iter().map(|(_, _, _, key)| key)
    }

    fn leave(&mut self, key: &ObjectKey) -> Option<Place> {
        let place = self.of.remove(key)?;
        let namespace = &key.object.namespace;
        match self.in_turn.get_mut(namespace).filter(|_| place.is_in_turn) {
            None => {}
            Some(1) => drop(self.in_turn.remove(namespace)),
            Some(count) => *count -= 1,
        }
        Some(place)
    }
}
