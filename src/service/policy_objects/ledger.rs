//! What is wanted and what is seen, and what is to be done about it. Level-triggered: whatever the order of events, the same is
//! written in the end, and nothing is that is right already.
//!
//! Two rules order the writes: a policy is written only while who holds its roots is there, and that is removed only when no
//! policy of ours has named it for a while. So a gateway never finds a policy that it can't use, and a change of flavour adds before
//! it removes.

mod counts;
mod entry;
mod flow;
mod order;
mod places;
mod queue;
mod sight;
mod turns;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

pub(super) use self::entry::{Todo, Trouble};
use self::{
    entry::{Entry, State},
    flow::Flow,
    order::Rank,
    places::Places,
    queue::{Place, Queue},
    turns::Turns,
};
use super::ports::{ObjectKey, Print, Removed, SeenObject, Wanted, WriteError};
use crate::domain::{
    clock::BootInstant,
    object_version::is_older,
    policy::{ObjectKind, ObjectName},
};

/// All objects of ours.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// Each in a place of its own: they are large, and the tree's nodes stand half empty.
    entries: BTreeMap<ObjectKey, Box<Entry>>,
    /// Kinds that were listed, with the newest version that was told of each.
    listed: BTreeMap<ObjectKind, Box<str>>,
    /// Whether it is known what is wanted.
    is_planned: bool,
    /// Whether every policy that is there must go, and at once.
    must_withdraw: bool,
    now: Queue,
    /// How many have failed.
    failures: u64,
    later: BTreeSet<(BootInstant, ObjectKey)>,
    flows: BTreeMap<ObjectKind, Flow>,
    places: Places,
    /// Of policies to which Routes lead.
    pub(super) turns: Turns,
    /// Secrets whose policy has gone while somebody else writes, and since when: that one may die before it has removed them.
    orphans: VecDeque<(BootInstant, ObjectKey)>,
    /// Grows with each change.
    revision: u64,
}

/// So long a Secret is remembered whose policy somebody else has removed: longer than it takes to be active in that one's place.
const ORPHANED_FOR: Duration = Duration::from_secs(600);

/// What came of something that was done.
#[derive(Clone, Debug)]
pub(super) enum Outcome {
    /// It is as it is wanted.
    Applied(SeenObject),
    Removed(Removed),
    Failed(WriteError),
}

impl Ledger {
    /// From now on these are wanted in a namespace, and no others.
    pub(super) fn want(&mut self, namespace: &str, wanted: Vec<(Wanted, Print)>, now: BootInstant) {
        self.revision += 1;
        let mut wanted: BTreeMap<ObjectKey, (Wanted, Print)> =
            wanted.into_iter().map(|(wanted, print)| (wanted.key.clone(), (wanted, print))).collect();
        let known: Vec<ObjectKey> =
            ObjectKind::ALL.iter().flat_map(|kind| self.keys_in(*kind, namespace)).cloned().collect();
        for key in known {
            let wanted = wanted.remove(&key);
            self.set_wanted(&key, wanted, now);
        }
        for (key, wanted) in wanted {
            self.set_wanted(&key, Some(wanted), now);
        }
    }

    /// Whether no policy may be there any longer than it takes to remove it.
    pub(super) fn withdraw(&mut self, must_withdraw: bool, now: BootInstant) {
        if self.must_withdraw != must_withdraw {
            self.must_withdraw = must_withdraw;
            let policies: Vec<ObjectKey> = self.keys_of(ObjectKind::BackendTlsPolicy).cloned().collect();
            policies.iter().for_each(|key| self.attend(key, now));
        }
    }

    /// It is not known any more what is wanted: nothing is written or removed until it is again.
    pub(super) fn forget_plan(&mut self) {
        (self.is_planned, self.must_withdraw) = (false, false);
    }

    /// It is known now what is wanted in all namespaces, those of which nothing was said included: nothing there.
    pub(super) fn planned(&mut self, now: BootInstant) {
        if !self.is_planned {
            self.is_planned = true;
            let keys: Vec<ObjectKey> = self.entries.keys().cloned().collect();
            keys.iter().for_each(|key| self.attend(key, now));
        }
    }

    /// Nothing is written by this replica for now. What it has begun may have come to something or not, and others may write.
    pub(super) fn suspend(&mut self) {
        for (key, entry) in &mut self.entries {
            entry.suspend(key.kind);
        }
        self.entries.retain(|_, entry| !entry.is_empty());
        self.forget_plan();
        self.now = Queue::default();
        self.later.clear();
        self.flows.clear();
        self.places = Places::default();
        self.turns = Turns::default();
    }

    /// What is to be done next; it counts as under way until [`Self::done`].
    pub(super) fn next(&mut self, now: BootInstant) -> Option<Todo> {
        if !self.may_write() {
            return None;
        }
        while self.later.first().is_some_and(|(due, _)| *due <= now) {
            if let Some((_, key)) = self.later.pop_first() {
                self.queue(&key);
            }
        }
        let waiting = self.in_turn();
        let mut kept = Vec::new();
        let mut found = None;
        while let Some((place, key)) = self.now.pop_first() {
            if self.opens_at(&key, waiting, now).is_none_or(|open| open > now) {
                kept.push((place, key));
                continue;
            }
            match self.entries.get(&key).and_then(|entry| entry.due()) {
                Some(due) if due > now => drop(self.later.insert((due, key))),
                _ => {
                    found = self.begin(&key, now);
                    if found.is_some() {
                        break;
                    }
                }
            }
        }
        kept.into_iter().for_each(|(place, key)| self.now.put(&key, place));
        found
    }

    /// When [`Self::next`] is worth asking; `None`: not before something happens.
    pub(super) fn next_wake(&self, now: BootInstant) -> Option<BootInstant> {
        if !self.may_write() {
            return None;
        }
        let waiting = self.in_turn();
        let mut first = self.later.first().map(|(due, _)| *due);
        for key in self.now.keys() {
            let opens = self.opens_at(key, waiting, now);
            if opens.is_some_and(|opens| opens <= now) {
                return opens;
            }
            first = first.into_iter().chain(opens).min();
        }
        first
    }

    /// Something that [`Self::next`] gave has ended.
    pub(super) fn done(&mut self, key: &ObjectKey, outcome: Outcome, now: BootInstant) {
        self.revision += 1;
        let Some(entry) = self.entries.get_mut(key) else { return };
        if entry.has_turn() {
            self.turns.end(matches!(outcome, Outcome::Applied(_) | Outcome::Removed(_)), now);
        } else if entry.routed().is_some() {
            self.turns.passed_by(now);
        }
        self.places.leave(&key.object.namespace);
        let flow = self.flows.entry(key.kind).or_default();
        match &outcome {
            Outcome::Failed(WriteError::Unavailable { why, pause }) => {
                flow.close(&key.object.namespace, why, *pause, now);
                self.failures += 1;
                entry.failed = self.failures;
            }
            Outcome::Applied(_) | Outcome::Removed(_) | Outcome::Failed(_) => flow.end(&key.object.namespace),
        }
        match outcome {
            Outcome::Applied(object) => {
                entry.count_mutation(&object, now);
                // what somebody did right after was seen first
                let is_old = entry.seen_meanwhile().is_some_and(|seen| is_older(&object.version, seen));
                entry.end(Ok(()));
                if !is_old {
                    self.put(key, State::Present(object), now);
                }
            }
            Outcome::Removed(Removed::Gone) => {
                // of a Secret nobody tells
                let is_another_there = key.kind != ObjectKind::SdsSecret && entry.is_removed();
                entry.end(Ok(()));
                if !is_another_there {
                    self.put(key, State::Absent, now);
                }
            }
            Outcome::Removed(Removed::Going) => {
                entry.end(Ok(()));
                entry.is_going();
            }
            Outcome::Failed(error) => {
                // it may have come to something, or somebody else may have: of a Secret nobody tells
                if key.kind == ObjectKind::SdsSecret && !matches!(error, WriteError::Refused(_)) {
                    entry.doubt();
                }
                entry.end(Err(error));
            }
        }
        self.attend(key, now);
        self.attend_related(key, now);
        self.forget_if_empty(key);
    }

    /// From when on this one may be written, of so many that wait; `None`: not before the API server has answered about others.
    fn opens_at(&self, key: &ObjectKey, waiting: usize, now: BootInstant) -> Option<BootInstant> {
        let namespace = &key.object.namespace;
        if !self.places.has_one_for(namespace) {
            return None;
        }
        let flow = self.flows.get(&key.kind);
        let open = flow.map_or(Some(now), |flow| flow.opens_at(namespace, now))?;
        let is_in_turn = self.rank(key).is_some_and(|rank| self.takes_turn(key, rank));
        Some(if is_in_turn { open.max(self.turns.next(waiting, now)) } else { open })
    }

    /// Whether it waits its turn: a policy to which Routes lead.
    fn takes_turn(&self, key: &ObjectKey, rank: Rank) -> bool {
        rank.takes_turn() && self.entries.get(key).is_some_and(|entry| entry.routed().is_some())
    }

    /// How many wait their turn. In a namespace in which something was not taken last, nobody's turn comes: however many these are, the
    /// others are no crowd.
    fn in_turn(&self) -> usize {
        self.now.in_turn_outside(self.flows.values().flat_map(Flow::held))
    }

    fn may_write(&self) -> bool {
        !self.places.is_full()
            && self.is_planned
            && self.listed.contains_key(&ObjectKind::ConfigMap)
            && self.listed.contains_key(&ObjectKind::BackendTlsPolicy)
    }

    fn keys_of(&self, kind: ObjectKind) -> impl Iterator<Item = &ObjectKey> {
        let first = ObjectKey { kind, object: ObjectName::new("", "") };
        self.entries.range(first..).map(|(key, _)| key).take_while(move |key| key.kind == kind)
    }

    fn keys_in<'a>(&'a self, kind: ObjectKind, namespace: &'a str) -> impl Iterator<Item = &'a ObjectKey> {
        let first = ObjectKey { kind, object: ObjectName::new(namespace, "") };
        let is_there = move |key: &&ObjectKey| key.kind == kind && *key.object.namespace == *namespace;
        self.entries.range(first..).map(|(key, _)| key).take_while(is_there)
    }

    fn set_wanted(&mut self, key: &ObjectKey, wanted: Option<(Wanted, Print)>, now: BootInstant) {
        let entry = self
            .entries
            .entry(key.clone())
            .or_insert_with(|| Box::new(Entry::new(self.listed.contains_key(&key.kind))));
        if entry.want(wanted) {
            self.attend(key, now);
            self.attend_related(key, now);
        }
        self.forget_if_empty(key);
    }

    fn begin(&mut self, key: &ObjectKey, now: BootInstant) -> Option<Todo> {
        let takes_turn = self.rank(key).filter(|_| !self.is_blocked(key))?.takes_turn();
        let entry = self.entries.get_mut(key)?;
        match entry.routed().cloned() {
            Some(name) if takes_turn => {
                let service = ObjectName { namespace: Arc::clone(&key.object.namespace), name };
                self.turns.begin(service, entry.will_be_used(), now);
            }
            Some(_) => self.turns.passed_by(now),
            None => {}
        }
        let todo = entry.begin(key, takes_turn && entry.routed().is_some(), now);
        self.places.take(&key.object.namespace);
        self.flows.entry(key.kind).or_default().begin(&key.object.namespace);
        Some(todo)
    }

    /// Those that may have waited for this one.
    fn attend_related(&mut self, key: &ObjectKey, now: BootInstant) {
        let policy = || ObjectKey { kind: ObjectKind::BackendTlsPolicy, object: key.object.clone() };
        let related: Vec<ObjectKey> = match key.kind {
            ObjectKind::SdsSecret => vec![policy()],
            ObjectKind::ConfigMap => {
                self.keys_in(ObjectKind::BackendTlsPolicy, &key.object.namespace).cloned().collect()
            }
            ObjectKind::BackendTlsPolicy => {
                let secret = ObjectKey { kind: ObjectKind::SdsSecret, object: key.object.clone() };
                self.keys_in(ObjectKind::ConfigMap, &key.object.namespace).cloned().chain([secret]).collect()
            }
        };
        related.iter().for_each(|key| self.attend(key, now));
    }

    fn attend(&mut self, key: &ObjectKey, now: BootInstant) {
        match self.entries.get(key).and_then(|entry| entry.due()).filter(|due| *due > now) {
            Some(due) if self.entries.get(key).is_some_and(|entry| entry.is_pending(key.kind)) => {
                self.later.insert((due, key.clone()));
            }
            _ => self.queue(key),
        }
    }

    fn queue(&mut self, key: &ObjectKey) {
        match self.rank(key).zip(self.entries.get(key)) {
            Some((rank, entry)) => {
                let place = Place { rank, failure: entry.failed, is_in_turn: self.takes_turn(key, rank) };
                self.now.put(key, place);
            }
            None => self.now.remove(key),
        }
    }

    /// Who writes removes them instead.
    fn forget_orphans(&mut self, now: BootInstant) {
        while let Some((_, key)) = self.orphans.pop_front_if(|(since, _)| now.since(*since) >= ORPHANED_FOR) {
            if !self.is_planned && !self.is_named(&key) {
                self.entries.remove(&key);
            }
        }
    }

    fn forget_if_empty(&mut self, key: &ObjectKey) {
        if self.entries.get(key).is_some_and(|entry| entry.is_empty()) {
            self.entries.remove(key);
        }
    }
}

#[cfg(test)]
mod tests;
