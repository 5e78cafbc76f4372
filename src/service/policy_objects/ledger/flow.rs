//! How much of a kind is under way, and whether the API server takes more.
//!
//! A failure that has nothing to do with the object itself may be everybody's, as when the API server is away, or that of one
//! namespace, as with a webhook that fails for it. So the namespace waits, ever longer, and everything of the kind waits shortly, until
//! one of another namespace has shown what it is; the more namespaces have failed one after the other, the longer. Who asks for a longer
//! pause gets it where he has a say: the API server everywhere, a webhook in the namespace.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use crate::{domain::clock::BootInstant, service::policy_objects::ports::Pause};

/// What is under way of a kind, and whether the API server takes more.
#[derive(Debug, Default)]
pub(super) struct Flow {
    /// By namespace.
    under_way: BTreeMap<Arc<str>, usize>,
    /// Namespaces in which the last one failed.
    held: BTreeMap<Arc<str>, Held>,
    closed: Option<Closed>,
}

#[derive(Debug)]
struct Held {
    until: BootInstant,
    failures: u32,
}

/// Since nothing has been taken anywhere.
#[derive(Debug)]
struct Closed {
    until: BootInstant,
    /// In which one failed, but no more than make a difference.
    namespaces: BTreeSet<Arc<str>>,
    why: String,
}

/// After a first failure; doubled from one to the next.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(8);
/// With so many namespaces the pause is the longest.
const MOST_NAMESPACES: usize = 5;
/// Who asks for more does not get it.
const LONGEST_ASKED: Duration = Duration::from_secs(60);
/// A namespace in which nothing was tried for so long is as any other.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(600);

impl Flow {
    pub(super) fn begin(&mut self, namespace: &Arc<str>) {
        *self.under_way.entry(Arc::clone(namespace)).or_default() += 1;
    }

    /// One has ended, with an answer about the object.
    pub(super) fn end(&mut self, namespace: &str) {
        self.count_end(namespace);
        self.held.remove(namespace);
        self.closed = None;
    }

    /// One has ended in a way that others would: they are left for later, for as long as is `asked` at least.
    pub(super) fn close(&mut self, namespace: &Arc<str>, why: &str, asked: Option<Pause>, now: BootInstant) {
        let (of_namespace, of_all) = match asked {
            None => (Duration::ZERO, None),
            Some(Pause::Namespace(pause)) => (pause.min(LONGEST_ASKED), None),
            Some(Pause::Everywhere(pause)) => (Duration::ZERO, Some(pause.min(LONGEST_ASKED))),
        };
        self.count_end(namespace);
        self.held.retain(|_, held| now.since(held.until) < FORGOTTEN_AFTER);
        let is_known = self.held.contains_key(namespace);
        let held = self.held.entry(Arc::clone(namespace)).or_insert(Held { until: now, failures: 0 });
        // of those that were under way together the first counts
        if held.failures == 0 || held.until <= now {
            held.until = now.plus(pause(held.failures));
            held.failures = held.failures.saturating_add(1);
        }
        held.until = held.until.max(now.plus(of_namespace));
        // of a namespace where it is known to go wrong, one more says nothing of the others
        if is_known && self.closed.is_none() && of_all.is_none() {
            return;
        }
        let closed =
            self.closed.get_or_insert_with(|| Closed { until: now, namespaces: BTreeSet::new(), why: String::new() });
        if closed.until <= now {
            if closed.namespaces.len() < MOST_NAMESPACES {
                closed.namespaces.insert(Arc::clone(namespace));
            }
            let others = closed.namespaces.len().saturating_sub(1);
            closed.until = now.plus(pause(u32::try_from(others).unwrap_or(u32::MAX)));
        }
        closed.until = closed.until.max(now.plus(of_all.unwrap_or_default()));
        why.clone_into(&mut closed.why);
    }

    /// From when on the API server may be asked for another one of the namespace; `None`: not before it has answered.
    pub(super) fn opens_at(&self, namespace: &str, now: BootInstant) -> Option<BootInstant> {
        let held = self.held.get(namespace);
        // one is enough to find out
        if held.is_some() && self.under_way.contains_key(namespace) {
            return None;
        }
        let is_asked = self.closed.as_ref().is_some_and(|closed| {
            let mut under_way = self.under_way.keys();
            // what is under way where it went wrong before need not be waited for elsewhere
            under_way.any(|name| closed.namespaces.contains(namespace) || !self.held.contains_key(name))
        });
        let until = [held.map(|held| held.until), self.closed.as_ref().map(|closed| closed.until)];
        (!is_asked).then(|| until.into_iter().flatten().fold(now, BootInstant::max))
    }

    /// Namespaces in which the last one failed.
    pub(super) fn held(&self) -> impl Iterator<Item = &Arc<str>> {
        self.held.keys()
    }

    /// Why nothing is taken.
    pub(super) fn closed(&self) -> Option<&str> {
        self.closed.as_ref().map(|closed| closed.why.as_str())
    }

    fn count_end(&mut self, namespace: &str) {
        if let Some(count) = self.under_way.get_mut(namespace) {
            *count -= 1;
            if *count == 0 {
                self.under_way.remove(namespace);
            }
        }
    }
}

fn pause(before: u32) -> Duration {
    FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(before)).min(LONGEST_PAUSE)
}
