//! What may have to be done now.

use std::collections::{BTreeMap, BTreeSet};

use super::order::Rank;
use crate::service::policy_objects::ports::ObjectKey;

/// Each in one place.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// Those last that failed last, by the number of the failure among all of them; and after all others, whether these have failed or
    /// not, those that are as they should be as far as anybody knows.
    places: BTreeSet<(bool, u64, Rank, ObjectKey)>,
    of: BTreeMap<ObjectKey, (u64, Rank)>,
    in_turn: usize,
}

impl Queue {
    /// What is there already comes to another place if it has another rank by now.
    pub(super) fn put(&mut self, key: &ObjectKey, failure: u64, rank: Rank) {
        self.remove(key);
        self.of.insert(key.clone(), (failure, rank));
        self.places.insert((rank == Rank::Reassure, failure, rank, key.clone()));
        self.in_turn += usize::from(rank.takes_turn());
    }

    pub(super) fn remove(&mut self, key: &ObjectKey) {
        if let Some((failure, rank)) = self.of.remove(key) {
            self.places.remove(&(rank == Rank::Reassure, failure, rank, key.clone()));
            self.in_turn -= usize::from(rank.takes_turn());
        }
    }

    pub(super) fn pop_first(&mut self) -> Option<(u64, Rank, ObjectKey)> {
        let (_, failure, rank, key) = self.places.pop_first()?;
        self.of.remove(&key);
        self.in_turn -= usize::from(rank.takes_turn());
        Some((failure, rank, key))
    }

    /// How many wait their turn, if Routes lead there.
    pub(super) const fn in_turn(&self) -> usize {
        self.in_turn
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &ObjectKey> {
        self.places.iter().map(|(_, _, _, key)| key)
    }
}
