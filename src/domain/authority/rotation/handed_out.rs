//! The latest ends of what was handed out: by which authority, and with which bundle.

use std::collections::{BTreeMap, BTreeSet};

use super::AuthorityId;
use crate::domain::clock::Timestamp;

/// High-water marks. They only rise, so that a mark may be reserved ahead and written seldom: one that is too high makes a step
/// wait, one that is too low would break somebody.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HandedOut {
    by_authority: BTreeMap<AuthorityId, Timestamp>,
    /// Of leaves whose answer ended with the bundle of this sequence: their holders go by it until they renew, at the latest at
    /// their end (pilot-agent and ztunnel learn of a root in the answer to their next request alone).
    by_sequence: BTreeMap<u64, Timestamp>,
}

impl HandedOut {
    /// As the marks stand in the state.
    pub fn restored(
        by_authority: impl IntoIterator<Item = (AuthorityId, Timestamp)>,
        by_sequence: impl IntoIterator<Item = (u64, Timestamp)>,
    ) -> Self {
        Self { by_authority: by_authority.into_iter().collect(), by_sequence: by_sequence.into_iter().collect() }
    }

    /// Before a leaf that ends at `end`, signed by `authority`, is handed out with the bundle of `sequence`.
    pub fn record(&mut self, authority: &str, sequence: u64, end: Timestamp) {
        raise(self.by_authority.entry(authority.to_owned()).or_insert(end), end);
        raise(self.by_sequence.entry(sequence).or_insert(end), end);
    }

    /// Whether nothing would have to be written for such a leaf. A mark of an earlier sequence serves as well: whoever goes by a later
    /// bundle is waited for with those of the earlier one.
    pub fn covers(&self, authority: &str, sequence: u64, end: Timestamp) -> bool {
        let is_covered = |mark: Option<&Timestamp>| mark.is_some_and(|mark| *mark >= end);
        let earlier = self.by_sequence.range(..=sequence).next_back();
        is_covered(self.by_authority.get(authority)) && is_covered(earlier.map(|(_, mark)| mark))
    }

    /// When the last leaf of this authority ends; `None` if it never signed one.
    pub fn last_end_of(&self, authority: &str) -> Option<Timestamp> {
        self.by_authority.get(authority).copied()
    }

    /// When the last leaf ends that was handed out with a bundle from before `sequence`.
    pub fn last_end_before_sequence(&self, sequence: u64) -> Option<Timestamp> {
        self.by_sequence.range(..sequence).map(|(_, end)| *end).max()
    }

    /// Forgets what can't matter any more: leaves that have ended.
    pub fn forget_before(&mut self, now: Timestamp) {
        self.by_authority.retain(|_, end| *end >= now);
        self.by_sequence.retain(|_, end| *end >= now);
    }

    /// Puts marks of sequences together between which no authority was published first: there may be as many as partners have news,
    /// and nobody asks for more than what was handed out before `published`.
    pub fn merge_between(&mut self, published: &BTreeSet<u64>) {
        for (sequence, end) in std::mem::take(&mut self.by_sequence) {
            let first = published.range(..=sequence).next_back().copied().unwrap_or_default();
            raise(self.by_sequence.entry(first).or_insert(end), end);
        }
    }

    /// All marks: of authorities, and of sequences.
    pub fn marks(&self) -> (impl Iterator<Item = (&str, Timestamp)>, impl Iterator<Item = (u64, Timestamp)>) {
        let by_authority = self.by_authority.iter().map(|(id, end)| (id.as_str(), *end));
        (by_authority, self.by_sequence.iter().map(|(sequence, end)| (*sequence, *end)))
    }
}

fn raise(mark: &mut Timestamp, end: Timestamp) {
    *mark = end.max(*mark);
}
