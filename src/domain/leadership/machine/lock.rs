//! The election by a lock.

use std::time::Duration;

use super::{
    Action, Event, Reason, Role, Term,
    claims::{Answer, Claims},
};
use crate::domain::clock::BootInstant;

/// How often a lock that somebody else holds is tried.
const POLL: Duration = Duration::from_millis(50);
/// The first wait after a failed claim, in which whoever tries the lock gets it.
const FIRST: Duration = Duration::from_millis(100);
/// The longest wait between claims.
const CEILING: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct LockElection {
    state: State,
    claims: Claims,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Without the lock.
    Waiting { try_at: BootInstant },
    /// The lock is being tried.
    Trying,
    /// With the lock, without a term.
    Claiming,
    /// With both.
    Active { term: Term },
    /// The stores are being closed; then the lock is released, and tried again unless this is the end.
    Closing { lock: Lock, end: bool },
    /// The end, but for the answer about the lock, which is still to come.
    Closed,
    /// Done, without the lock.
    Stopped,
}

/// The lock, while the stores are being closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lock {
    Without,
    /// It is being tried: it may turn out to be ours.
    Asked,
    Ours,
}

impl LockElection {
    pub(super) const fn new(now: BootInstant) -> Self {
        Self { state: State::Waiting { try_at: now }, claims: Claims::new(now, FIRST, CEILING) }
    }

    pub(super) fn handle(&mut self, event: &Event, now: BootInstant, actions: &mut Vec<Action>) {
        match event {
            Event::LockAcquired => self.acquired(actions),
            Event::LockHeld => self.held_by_another(now),
            Event::StateClaimed { .. }
            | Event::StateRefused { .. }
            | Event::StateUnknown { .. }
            | Event::StateUnusable { .. } => self.claim_answered(event, now, actions),
            Event::HigherTermSeen(term) => self.higher_term(*term, actions),
            Event::ShutdownAsked => self.shutdown(actions),
            Event::StoresClosed => self.closed(now, actions),
            Event::Tick
            | Event::LeaseRead(_)
            | Event::LeaseWritten(_)
            | Event::LeaseConflict
            | Event::LeaseUnknown
            | Event::LeaseChanged => {}
        }
        match self.state {
            State::Waiting { try_at } if now >= try_at => {
                self.state = State::Trying;
                actions.push(Action::TryLock);
            }
            State::Claiming => self.claims.ask(self.claims.highest().next(), now, actions),
            State::Waiting { .. }
            | State::Trying
            | State::Active { .. }
            | State::Closing { .. }
            | State::Closed
            | State::Stopped => {}
        }
    }

    pub(super) fn next_wake(&self) -> Option<BootInstant> {
        match self.state {
            State::Waiting { try_at } => Some(try_at),
            State::Claiming => self.claims.due(),
            State::Trying | State::Active { .. } | State::Closing { .. } | State::Closed | State::Stopped => None,
        }
    }

    pub(super) const fn role(&self) -> Role {
        match self.state {
            State::Waiting { .. } | State::Trying => Role::Standby,
            State::Claiming => Role::Acquiring,
            State::Active { .. } => Role::Active,
            State::Closing { .. } | State::Closed => Role::Leaving,
            State::Stopped => Role::Stopped,
        }
    }

    pub(super) const fn term(&self) -> Option<Term> {
        if let State::Active { term } = self.state { Some(term) } else { None }
    }

    fn acquired(&mut self, actions: &mut Vec<Action>) {
        match self.state {
            State::Trying => self.state = State::Claiming,
            State::Closing { end, .. } => self.state = State::Closing { lock: Lock::Ours, end },
            State::Closed => {
                actions.push(Action::ReleaseLock);
                self.state = State::Stopped;
            }
            State::Waiting { .. } | State::Claiming | State::Active { .. } | State::Stopped => {}
        }
    }

    fn held_by_another(&mut self, now: BootInstant) {
        match self.state {
            State::Trying => self.state = State::Waiting { try_at: now.plus(POLL) },
            State::Closing { lock: Lock::Asked, end } => self.state = State::Closing { lock: Lock::Without, end },
            State::Closed => self.state = State::Stopped,
            State::Waiting { .. } | State::Claiming | State::Active { .. } | State::Closing { .. } | State::Stopped => {
            }
        }
    }

    fn claim_answered(&mut self, event: &Event, now: BootInstant, actions: &mut Vec<Action>) {
        let wanted = match (self.state, event) {
            (State::Claiming, Event::StateClaimed { term }) => Some(*term),
            _ => None,
        };
        match (self.claims.answered(event, wanted, now), wanted) {
            (Answer::Claimed, Some(term)) => {
                self.state = State::Active { term };
                actions.push(Action::Grant { term, until: None });
            }
            (Answer::Claimed | Answer::Refused | Answer::Unusable | Answer::None, _) => {}
        }
        let failed = matches!(event, Event::StateUnknown { .. } | Event::StateUnusable { .. });
        if failed && self.state == State::Claiming {
            // the fault may be this process's alone, such as too few descriptors: another one has its turn meanwhile
            actions.push(Action::CloseStores);
            self.state = State::Closing { lock: Lock::Ours, end: false };
        }
    }

    /// Whoever wrote the higher term holds the lock's name by now: the file was replaced. So ours is let go, and the one
    /// that has the name is tried.
    fn higher_term(&mut self, seen: Term, actions: &mut Vec<Action>) {
        self.claims.learn(seen);
        if let State::Active { term } = self.state
            && term < seen
        {
            actions.extend([Action::Revoke { term, reason: Reason::HigherTerm }, Action::CloseStores]);
            self.state = State::Closing { lock: Lock::Ours, end: false };
        }
    }

    fn shutdown(&mut self, actions: &mut Vec<Action>) {
        let lock = match self.state {
            State::Closing { end: true, .. } | State::Closed | State::Stopped => return,
            State::Closing { lock, end: false } => {
                self.state = State::Closing { lock, end: true };
                return;
            }
            State::Waiting { .. } => Lock::Without,
            State::Trying => Lock::Asked,
            State::Claiming => Lock::Ours,
            State::Active { term } => {
                actions.push(Action::Revoke { term, reason: Reason::Shutdown });
                Lock::Ours
            }
        };
        actions.push(Action::CloseStores);
        self.state = State::Closing { lock, end: true };
    }

    fn closed(&mut self, now: BootInstant, actions: &mut Vec<Action>) {
        let State::Closing { lock, end } = self.state else { return };
        if lock == Lock::Ours {
            actions.push(Action::ReleaseLock);
        }
        self.state = match (lock, end) {
            (Lock::Asked, _) => State::Closed,
            (Lock::Without | Lock::Ours, true) => State::Stopped,
            (Lock::Without | Lock::Ours, false) => {
                let pause = now.plus(POLL);
                State::Waiting { try_at: self.claims.due().map_or(pause, |due| due.max(pause)) }
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaving_while_the_lock_is_tried() -> LockElection {
        let now = BootInstant::from_nanos(0);
        let mut election = LockElection::new(now);
        let mut actions = Vec::new();
        for event in [Event::Tick, Event::ShutdownAsked, Event::StoresClosed] {
            election.handle(&event, now, &mut actions);
        }
        assert_eq!(actions, [Action::TryLock, Action::CloseStores]);
        assert_eq!(election.role(), Role::Leaving, "the answer about the lock is still to come");
        election
    }

    #[test]
    fn who_can_not_claim_lets_go_of_the_lock_and_tries_it_again_ever_later() {
        let mut now = BootInstant::from_nanos(0);
        let mut election = LockElection::new(now);
        let mut pauses = Vec::new();
        for _ in 0..6 {
            let mut actions = Vec::new();
            election.handle(&Event::Tick, now, &mut actions);
            election.handle(&Event::LockAcquired, now, &mut actions);
            let [Action::TryLock, Action::ClaimState { term }] = actions[..] else { panic!("{actions:?}") };
            actions.clear();
            election.handle(&Event::StateUnknown { term }, now, &mut actions);
            election.handle(&Event::StoresClosed, now, &mut actions);
            assert_eq!(actions, [Action::CloseStores, Action::ReleaseLock]);
            assert_eq!(election.role(), Role::Standby);
            let next = election.next_wake().unwrap();
            pauses.push(next.since(now).as_millis());
            now = next;
        }
        assert_eq!(pauses, [100, 200, 400, 800, 1000, 1000]);
    }

    #[test]
    fn a_refused_claim_is_followed_by_a_higher_one_under_the_same_lock() {
        let now = BootInstant::from_nanos(0);
        let mut election = LockElection::new(now);
        let mut actions = Vec::new();
        let refused = Event::StateRefused { term: Term::new(1), highest: Term::new(7) };
        for event in [Event::Tick, Event::LockAcquired, refused] {
            election.handle(&event, now, &mut actions);
        }
        let claim = |term| Action::ClaimState { term: Term::new(term) };
        assert_eq!(actions, [Action::TryLock, claim(1), claim(8)]);
    }

    #[test]
    fn nobody_stops_with_a_lock_that_was_being_tried() {
        for (answer, released) in [(Event::LockAcquired, vec![Action::ReleaseLock]), (Event::LockHeld, vec![])] {
            let mut election = leaving_while_the_lock_is_tried();
            let mut actions = Vec::new();
            election.handle(&answer, BootInstant::from_nanos(1), &mut actions);
            assert_eq!((actions, election.role()), (released, Role::Stopped), "{answer:?}");
        }
    }
}
