//! Those that were lost sight of without a word: cut off, or ended by force. Nobody can tell which.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;

use super::{Follower, who::Who};
use crate::domain::authority::rotation::Reached;

/// How long one counts. Its SVIDs live for a day unless another life was asked for; a replica that hears of nothing for so long
/// could sign for nobody meanwhile, and says so by its readiness.
pub(super) const LOST_FOR: Duration = Duration::from_secs(24 * 3600);
/// Of those that are known by name.
pub(super) const NAMED_AT_MOST: usize = 4096;
/// Of these, of one identity: whatever it does, those of others keep their names.
pub(super) const NAMED_OF_ONE: usize = NAMED_AT_MOST / 4;

#[derive(Debug, Default)]
pub(super) struct Lost {
    named: BTreeMap<Who, Sight>,
    /// Of agents beyond these: the lowest sequence, and the last sight.
    others: Option<Sight>,
    /// When others ceased to be active, who may have lost agents as well.
    by_others: Option<Instant>,
}

/// The last that was seen of it.
#[derive(Clone, Copy, Debug)]
struct Sight {
    in_effect: u64,
    at: Instant,
}

impl Lost {
    /// Nobody yet, by a replica whose term begins after that of another one.
    pub(super) fn by_others_until(now: Instant) -> Self {
        Self { by_others: Some(now), ..Self::default() }
    }

    pub(super) fn lose(&mut self, who: Who, in_effect: u64, at: Instant) {
        if let Who::Agent(Follower { identity, .. }) = &who
            && self.named.len() >= NAMED_OF_ONE
            && self.named.keys().filter(|one| one.is_of(identity)).count() >= NAMED_OF_ONE
        {
            self.forget_name(|one| one.is_of(identity));
        } else if self.named.len() >= NAMED_AT_MOST {
            self.forget_name(|one| matches!(one, Who::Agent(_)));
        }
        self.named.insert(who, Sight { in_effect, at });
    }

    /// The same of an agent that there is no room for by name.
    pub(super) fn lose_unnamed(&mut self, in_effect: u64, at: Instant) {
        let others = self.others.get_or_insert(Sight { in_effect, at });
        (others.in_effect, others.at) = (others.in_effect.min(in_effect), others.at.max(at));
    }

    /// Of the oldest of these.
    fn forget_name(&mut self, of: impl Fn(&Who) -> bool) {
        let oldest = self.named.iter().filter(|(who, _)| of(who)).min_by_key(|(_, sight)| sight.at);
        let oldest = oldest.map(|(who, _)| who.clone());
        if let Some(Sight { in_effect, at }) = oldest.and_then(|who| self.named.remove(&who)) {
            self.lose_unnamed(in_effect, at);
        }
    }

    /// It is there, or has said that it ends.
    pub(super) fn found(&mut self, who: &Who) {
        self.named.remove(who);
    }

    pub(super) fn forget(&mut self) {
        let counts = |sight: &Sight| sight.at.elapsed() < LOST_FOR;
        self.named.retain(|_, sight| counts(sight));
        self.others = self.others.filter(counts);
        self.by_others = self.by_others.filter(|until| until.elapsed() < LOST_FOR);
    }

    pub(super) fn agents(&self) -> Vec<Reached> {
        let others = self.others.map(|sight| sight.reached("one of the agents that were lost before others"));
        self.of(|who| matches!(who, Who::Agent(_))).chain(others).collect()
    }

    pub(super) fn by_others(&self) -> Option<Reached> {
        self.by_others.map(|until| {
            let gone = until.elapsed();
            let (ago, left) = (minutes(gone), minutes(LOST_FOR.saturating_sub(gone)));
            let who = format!(
                "whoever was lost sight of before this replica became active {ago} min ago, which is waited for {left} min longer,"
            );
            Reached { who, sequence: 0 }
        })
    }

    pub(super) fn replicas(&self) -> Vec<Reached> {
        self.of(|who| matches!(who, Who::Replica(_))).collect()
    }

    fn of(&self, counts: impl Fn(&Who) -> bool) -> impl Iterator<Item = Reached> {
        let named = self.named.iter().filter(move |(who, _)| counts(who));
        named.map(|(who, sight)| sight.reached(&who.to_string()))
    }
}

impl Sight {
    fn reached(&self, who: &str) -> Reached {
        let gone = self.at.elapsed();
        let (ago, left) = (minutes(gone), minutes(LOST_FOR.saturating_sub(gone)));
        let who = format!("{who}, lost sight of {ago} min ago and waited for {left} min longer if it stays away,");
        Reached { who, sequence: self.in_effect }
    }
}

const fn minutes(duration: Duration) -> u64 {
    duration.as_secs().div_ceil(60)
}
