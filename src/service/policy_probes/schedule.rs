//! When which Service is probed: at once when something of it changes, else every few minutes; after failures ever later.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::domain::{
    clock::BootInstant,
    identity::ServiceAccount,
    policy::{ObjectName, ProbeSight},
};

/// Pods come and go in bursts.
const DEBOUNCE: Duration = Duration::from_millis(500);
/// Between two probes of a Service, whatever happens to its pods.
const APART: Duration = Duration::from_secs(5);
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// Where nothing changes, and between failures in the end.
const STEADY: Duration = Duration::from_secs(300);

/// What is to be seen of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wish {
    /// Whom its pods may be.
    pub(super) accounts: Box<[ServiceAccount]>,
    /// Of the Service.
    pub(super) ports: Box<[u16]>,
}

/// A Service that is to be probed now.
#[derive(Debug)]
pub(super) struct Turn {
    pub(super) service: ObjectName,
    pub(super) wish: Wish,
    /// What was seen last.
    pub(super) before: ProbeSight,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    entries: BTreeMap<ObjectName, Entry>,
    due: BTreeSet<(BootInstant, ObjectName)>,
}

#[derive(Debug)]
struct Entry {
    wish: Wish,
    seen: ProbeSight,
    failures: u32,
    begun: Option<BootInstant>,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Due(BootInstant),
    UnderWay {
        /// Whether something has changed meanwhile.
        again: bool,
    },
}

impl Schedule {
    /// A Service is to be probed, or with `None` not any more.
    pub(super) fn want(&mut self, service: ObjectName, wish: Option<Wish>, now: BootInstant) {
        let known = self.entries.get_mut(&service);
        match (wish, known) {
            (None, None) => {}
            (None, Some(entry)) => {
                if let State::Due(due) = entry.state {
                    self.due.remove(&(due, service.clone()));
                }
                self.entries.remove(&service);
            }
            (Some(wish), None) => {
                let entry =
                    Entry { wish, seen: ProbeSight::default(), failures: 0, begun: None, state: State::Due(now) };
                self.due.insert((now, service.clone()));
                self.entries.insert(service, entry);
            }
            (Some(wish), Some(entry)) if entry.wish != wish => {
                (entry.wish, entry.seen, entry.failures) = (wish, ProbeSight::default(), 0);
                self.stir(&service, now);
            }
            (Some(_), Some(_)) => {}
        }
    }

    /// Something of a Service's pods has changed.
    pub(super) fn stir(&mut self, service: &ObjectName, now: BootInstant) {
        let Some(entry) = self.entries.get_mut(service) else { return };
        let soon = entry.soon(now);
        match &mut entry.state {
            State::UnderWay { again } => *again = true,
            State::Due(due) if *due > soon => {
                self.due.remove(&(*due, service.clone()));
                *due = soon;
                self.due.insert((soon, service.clone()));
            }
            State::Due(_) => {}
        }
    }

    /// When the next one is to be probed.
    pub(super) fn next_due(&self) -> Option<BootInstant> {
        self.due.first().map(|(due, _)| *due)
    }

    /// One whose time has come; it is under way until [`Self::done`].
    pub(super) fn next(&mut self, now: BootInstant) -> Option<Turn> {
        if self.next_due().is_none_or(|due| due > now) {
            return None;
        }
        let (_, service) = self.due.pop_first()?;
        let entry = self.entries.get_mut(&service)?;
        (entry.state, entry.begun) = (State::UnderWay { again: false }, Some(now));
        Some(Turn { service, wish: entry.wish.clone(), before: entry.seen.clone() })
    }

    /// A probe has ended; `None` if nothing could be asked. `jitter`, uniform over `u16`, takes up to a quarter off the pause.
    pub(super) fn done(
        &mut self,
        service: &ObjectName,
        wish: &Wish,
        seen: Option<&ProbeSight>,
        now: BootInstant,
        jitter: u16,
    ) {
        // a Service that went and came while it was under way has been begun anew
        let Some(entry) = self.entries.get_mut(service) else { return };
        let State::UnderWay { again } = entry.state else { return };
        let is_other = entry.wish != *wish;
        let due = if again || is_other {
            entry.soon(now)
        } else {
            let has_failed = seen.is_none_or(ProbeSight::has_failed);
            entry.failures = if has_failed { entry.failures.saturating_add(1) } else { 0 };
            let pause = pause_after(entry.failures);
            now.plus(pause - pause / 4 * u32::from(jitter) / u32::from(u16::MAX))
        };
        if let Some(seen) = seen.filter(|_| !is_other) {
            entry.seen.clone_from(seen);
        }
        entry.state = State::Due(due);
        self.due.insert((due, service.clone()));
    }
}

impl Entry {
    fn soon(&self, now: BootInstant) -> BootInstant {
        let soon = now.plus(DEBOUNCE);
        self.begun.map_or(soon, |begun| soon.max(begun.plus(APART)))
    }
}

fn pause_after(failures: u32) -> Duration {
    match failures.checked_sub(1) {
        None => STEADY,
        Some(more) => FIRST_RETRY.saturating_mul(2_u32.saturating_pow(more)).min(STEADY),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::domain::policy::{PortSight, ProbeFinding};

    fn at(millis: u64) -> BootInstant {
        BootInstant::from_nanos(millis * 1_000_000)
    }

    fn service(name: &str) -> ObjectName {
        ObjectName::new("n", name)
    }

    fn wish(account: &str) -> Wish {
        Wish { accounts: [format!("n/{account}").parse().unwrap()].into(), ports: [80].into() }
    }

    fn sight(finding: ProbeFinding) -> ProbeSight {
        ProbeSight([(80, Some(PortSight { pod: Arc::from("p"), finding }))].into())
    }

    #[test]
    fn a_service_is_probed_at_once_and_then_every_few_minutes() {
        let mut schedule = Schedule::default();
        schedule.want(service("a"), Some(wish("one")), at(0));
        let turn = schedule.next(at(0)).unwrap();
        assert!(schedule.next(at(0)).is_none(), "it is under way");
        schedule.done(&turn.service, &turn.wish, Some(&sight(ProbeFinding::Mutual)), at(10), 0);
        assert_eq!(schedule.next_due(), Some(at(300_010)));
        let turn = schedule.next(at(300_010)).unwrap();
        assert_eq!(turn.before, sight(ProbeFinding::Mutual));
        schedule.done(&turn.service, &turn.wish, Some(&sight(ProbeFinding::Mutual)), at(300_010), u16::MAX);
        assert_eq!(schedule.next_due(), Some(at(525_010)));
    }

    #[test]
    fn failures_are_asked_again_ever_later_and_what_can_not_be_asked_counts_as_one() {
        let mut schedule = Schedule::default();
        schedule.want(service("a"), Some(wish("one")), at(0));
        let mut now = 0;
        for pause in [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300] {
            let turn = schedule.next(at(now)).unwrap();
            let seen = (pause % 3 != 0).then(|| sight(ProbeFinding::NoTls));
            schedule.done(&turn.service, &turn.wish, seen.as_ref(), at(now), 0);
            now += pause * 1000;
            assert_eq!(schedule.next_due(), Some(at(now)), "{pause}");
        }
    }

    #[test]
    fn a_change_brings_it_forward_but_not_at_every_pod_of_a_roll_out() {
        let mut schedule = Schedule::default();
        schedule.want(service("a"), Some(wish("one")), at(0));
        let turn = schedule.next(at(0)).unwrap();
        schedule.done(&turn.service, &turn.wish, Some(&sight(ProbeFinding::Mutual)), at(10), 0);
        schedule.stir(&service("a"), at(100));
        assert_eq!(schedule.next_due(), Some(at(5000)), "it was begun just now");
        schedule.stir(&service("a"), at(4900));
        assert_eq!(schedule.next_due(), Some(at(5000)));
        let turn = schedule.next(at(5000)).unwrap();
        schedule.stir(&service("a"), at(5100));
        schedule.done(&turn.service, &turn.wish, Some(&sight(ProbeFinding::Mutual)), at(5200), 0);
        assert_eq!(schedule.next_due(), Some(at(10_000)), "what came meanwhile may not have been seen");
        // of other identities nothing was seen
        schedule.want(service("a"), Some(wish("two")), at(20_000));
        assert_eq!(schedule.next(at(20_500)).unwrap().before, ProbeSight::default());
        schedule.want(service("a"), None, at(20_600));
        assert_eq!(schedule.next_due(), None);
        schedule.stir(&service("a"), at(20_700));
        schedule.done(&service("a"), &wish("two"), None, at(20_700), 0);
        assert_eq!(schedule.next_due(), None, "nobody wants it any more");
    }

    #[derive(Clone, Debug)]
    enum Step {
        Want(u8, Option<u8>),
        Stir(u8),
        Next,
        Done(bool),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0_u8..3, proptest::option::of(0_u8..2)).prop_map(|(service, wish)| Step::Want(service, wish)),
            (0_u8..3).prop_map(Step::Stir),
            Just(Step::Next),
            any::<bool>().prop_map(Step::Done),
        ]
    }

    proptest! {
        /// Whatever happens, each that is wanted is either under way or will be, and no other.
        #[test]
        fn none_is_lost(steps in proptest::collection::vec((step(), 0_u64..4000), 0..60)) {
            let (mut schedule, mut now, mut turns) = (Schedule::default(), 0, Vec::new());
            let mut wanted = BTreeSet::new();
            for (step, passed) in steps {
                now += passed;
                match step {
                    Step::Want(number, wish_of) => {
                        let name = service(&number.to_string());
                        if wish_of.is_some() { wanted.insert(name.clone()) } else { wanted.remove(&name) };
                        schedule.want(name, wish_of.map(|of| wish(&of.to_string())), at(now));
                    }
                    Step::Stir(number) => schedule.stir(&service(&number.to_string()), at(now)),
                    Step::Next => turns.extend(schedule.next(at(now))),
                    Step::Done(is_good) => if let Some(turn) = turns.pop() {
                        let seen = sight(if is_good { ProbeFinding::Mutual } else { ProbeFinding::Silent });
                        schedule.done(&turn.service, &turn.wish, Some(&seen), at(now), 0);
                    }
                }
                let known: BTreeSet<_> = schedule.entries.keys().cloned().collect();
                prop_assert_eq!(&known, &wanted);
                let due: BTreeSet<_> = schedule.due.iter().cloned().collect();
                let expected: BTreeSet<_> = schedule.entries.iter().filter_map(|(name, entry)| match entry.state {
                    State::Due(due) => Some((due, name.clone())),
                    State::UnderWay { .. } => None,
                }).collect();
                prop_assert_eq!(due, expected);
            }
        }
    }
}
