//! The election by a lease.
//!
//! Safety rests on the *chain*: each write of the record names the version of the own write before it, so a write that
//! succeeds proves that nobody else has written since. See `docs/failover.md`.

mod holding;

use self::holding::{Basis, Hold, Holding, Stage, is_left};
use super::{
    Action, Event, HolderId, LeaseRecord, LeaseTiming, Observed, Reason, Role, Term, Version,
    backoff::Backoff,
    claims::{Answer, Claims},
};
use crate::domain::{clock::BootInstant, leadership::Occupancy};

/// How many requests a leaving holder spends on its release.
const RELEASE_REQUESTS: u8 = 3;
/// One that can't use the state gives the lease up, and takes none for a lease and so many renewals, in which others, which may
/// be able to, see that and wait it out.
const YIELDED_RENEWALS: u32 = 3;
/// The first wait after a failure is this part of a renewal's interval, and the longest one the half of it: a server that is back is
/// asked within one and a half, the answer that did not come included.
const FIRST_WAIT: u32 = 4;
const LONGEST_WAIT: u32 = 2;
/// In this part of a renewal's interval two hints are heeded: one that a renewal gave must not hold up the release after it.
const TWO_HINTS: u32 = 2;

#[derive(Debug)]
pub(super) struct LeaseElection {
    id: HolderId,
    timing: LeaseTiming,
    phase: Phase,
    hold: Hold,
    claims: Claims,
    /// The last term that was granted here, once it has ended.
    ended: Option<Term>,
    /// The request under way.
    request: Option<Request>,
    /// When the last one was sent.
    sent: BootInstant,
    /// What is known of the record may be wrong: the next request is a read.
    doubt: bool,
    /// No request before this.
    not_before: BootInstant,
    /// When one that only watches looks again.
    poll_at: BootInstant,
    /// A hint came since the last request was sent, whose answer may not show what the hint is about.
    hinted: bool,
    /// A hint before this is heeded then: however many come, reads keep a distance.
    hint_at: BootInstant,
    /// When the last one was heeded.
    heeded: Option<BootInstant>,
    /// Until then the lease is others' to take.
    yields_until: BootInstant,
    backoff: Backoff,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Running,
    /// The stores are being closed.
    Closing,
    /// The lease is being released, with so many requests left.
    Releasing {
        left: u8,
    },
    Stopped,
}

#[derive(Clone, Debug)]
enum Request {
    Read,
    Take { term: Term, basis: Basis },
    Renew { term: Term },
    Release { record: LeaseRecord },
}

impl LeaseElection {
    pub(super) fn new(timing: LeaseTiming, id: HolderId, now: BootInstant) -> Self {
        let first = timing.renew() / FIRST_WAIT;
        Self {
            id,
            timing,
            phase: Phase::Running,
            hold: Hold::Watching { found: None, since: now },
            claims: Claims::new(now, first, timing.renew()),
            ended: None,
            request: None,
            sent: now,
            doubt: true,
            not_before: now,
            poll_at: now,
            hinted: false,
            hint_at: now,
            heeded: None,
            yields_until: now,
            backoff: Backoff::new(first, timing.renew() / LONGEST_WAIT),
        }
    }

    pub(super) fn handle(&mut self, event: Event, now: BootInstant, actions: &mut Vec<Action>) {
        self.expire(now, actions);
        match event {
            Event::LeaseRead(found) => self.read(found, now, actions),
            Event::LeaseWritten(version) => self.written(version, now, actions),
            Event::LeaseConflict => self.set_back(true, now),
            Event::LeaseUnknown => self.set_back(false, now),
            Event::LeaseChanged => self.hinted = true,
            Event::StateClaimed { .. }
            | Event::StateRefused { .. }
            | Event::StateUnknown { .. }
            | Event::StateUnusable { .. } => self.claim_answered(&event, now),
            Event::HigherTermSeen(seen) => self.higher_term(seen, actions),
            Event::ShutdownAsked => self.shutdown(actions),
            Event::StoresClosed if self.phase == Phase::Closing => {
                self.phase = Phase::Releasing { left: RELEASE_REQUESTS };
            }
            Event::StoresClosed | Event::Tick | Event::LockAcquired | Event::LockHeld => {}
        }
        self.go_on(now, actions);
    }

    pub(super) fn next_wake(&self) -> Option<BootInstant> {
        let request = if self.request.is_none() { self.request_due() } else { None };
        let (claim, deadline) = match &self.hold {
            Hold::Holding(Holding { stage: Stage::Claiming, .. }) if self.phase == Phase::Running => {
                (self.claims.due(), None)
            }
            Hold::Holding(Holding { stage: Stage::Active { until }, .. }) => (None, Some(*until)),
            Hold::Holding(_) | Hold::Watching { .. } => (None, None),
        };
        [request, claim, deadline].into_iter().flatten().min()
    }

    pub(super) const fn timing(&self) -> LeaseTiming {
        self.timing
    }

    pub(super) const fn role(&self) -> Role {
        match (self.phase, &self.hold) {
            (Phase::Stopped, _) => Role::Stopped,
            (Phase::Closing | Phase::Releasing { .. }, _) => Role::Leaving,
            (Phase::Running, Hold::Watching { .. }) => Role::Standby,
            (Phase::Running, Hold::Holding(Holding { stage: Stage::Active { .. }, .. })) => Role::Active,
            (Phase::Running, Hold::Holding(_)) => Role::Acquiring,
        }
    }

    pub(super) const fn term(&self) -> Option<Term> {
        match &self.hold {
            Hold::Holding(Holding { term, stage: Stage::Active { .. }, .. }) => Some(*term),
            Hold::Holding(_) | Hold::Watching { .. } => None,
        }
    }

    fn expire(&mut self, now: BootInstant, actions: &mut Vec<Action>) {
        if let Hold::Holding(holding) = &mut self.hold
            && let Stage::Active { until } = holding.stage
            && now >= until
        {
            self.ended = Some(holding.term);
            holding.end(Stage::Raise, Reason::Expired, actions);
        }
    }

    fn read(&mut self, found: Option<Observed>, now: BootInstant, actions: &mut Vec<Action>) {
        self.request = None;
        self.doubt = false;
        self.poll_at = self.sent.plus(self.timing.renew());
        if let Some(observed) = &found {
            self.claims.learn(observed.record.term);
        }
        match &mut self.hold {
            Hold::Watching { found: seen, .. } if *seen == found && found.is_some() => {}
            Hold::Watching { .. } => self.hold = Hold::Watching { found, since: now },
            Hold::Holding(holding) => {
                if found.as_ref().is_some_and(|found| found.version == holding.version) {
                    return;
                }
                match found {
                    Some(Observed { version, record }) if holding.resumes(&record, &self.id) => {
                        holding.version = version
                    }
                    found => {
                        if let Stage::Active { .. } = holding.stage {
                            self.ended = Some(holding.term);
                            holding.end(Stage::Raise, Reason::LeaseLost, actions);
                        }
                        self.hold = Hold::Watching { found, since: now };
                    }
                }
            }
        }
    }

    fn written(&mut self, version: Version, now: BootInstant, actions: &mut Vec<Action>) {
        self.backoff.reset();
        let first_stage = if self.phase == Phase::Running { Stage::Claiming } else { Stage::Over };
        match (self.request.take(), &mut self.hold) {
            (Some(Request::Take { term, basis }), _) => {
                let stage = first_stage;
                self.hold = Hold::Holding(Holding { version, term, taken: now, basis, stage, granted: false });
            }
            (Some(Request::Renew { term }), Hold::Holding(holding)) => {
                holding.version = version;
                if term != holding.term {
                    holding.term = term;
                    holding.stage = first_stage;
                    holding.granted = false;
                    return;
                }
                let until = self.sent.plus(self.timing.step_down());
                match holding.stage {
                    Stage::Active { .. } => {
                        holding.stage = Stage::Active { until };
                        actions.push(Action::Extend { until });
                    }
                    Stage::Claimed(_)
                        if holding.ripe(self.timing).is_some_and(|ripe| self.sent >= ripe) && now < until =>
                    {
                        holding.stage = Stage::Active { until };
                        holding.granted = true;
                        actions.push(Action::Grant { term, until: Some(until) });
                    }
                    Stage::Raise | Stage::Claiming | Stage::Claimed(_) | Stage::Over => {}
                }
            }
            (Some(Request::Release { record }), _) => {
                if let Phase::Releasing { .. } = self.phase {
                    self.phase = Phase::Stopped;
                }
                self.hold = Hold::Watching { found: Some(Observed { version, record }), since: now };
            }
            _ => {}
        }
    }

    /// A read or write failed. What a write has done shows at the next read.
    fn set_back(&mut self, conflict: bool, now: BootInstant) {
        if self.request.take().is_some() {
            self.doubt = true;
            self.not_before = now.plus(if conflict { self.backoff.refused() } else { self.backoff.failed() });
        }
    }

    fn claim_answered(&mut self, event: &Event, now: BootInstant) {
        let claiming = match &mut self.hold {
            Hold::Holding(holding) if holding.stage == Stage::Claiming => Some(holding),
            Hold::Holding(_) | Hold::Watching { .. } => None,
        };
        let answer = self.claims.answered(event, claiming.as_ref().map(|holding| holding.term), now);
        match (claiming, answer) {
            (Some(holding), Answer::Claimed) => holding.stage = Stage::Claimed(now),
            (Some(holding), Answer::Refused) => {
                holding.stage = Stage::Raise;
                holding.distrust();
            }
            (Some(holding), Answer::Unusable) => {
                holding.stage = Stage::Over;
                self.yields_until = now.plus(self.timing.lease() + self.timing.renew() * YIELDED_RENEWALS);
            }
            (Some(_), Answer::None) | (None, _) => {}
        }
    }

    fn higher_term(&mut self, seen: Term, actions: &mut Vec<Action>) {
        self.claims.learn(seen);
        if let Hold::Holding(holding) = &mut self.hold
            && seen > holding.term
        {
            match holding.stage {
                Stage::Active { .. } => {
                    self.ended = Some(holding.term);
                    holding.end(Stage::Raise, Reason::HigherTerm, actions);
                }
                Stage::Claiming | Stage::Claimed(_) => {
                    holding.stage = Stage::Raise;
                    holding.distrust();
                }
                Stage::Raise | Stage::Over => {}
            }
        }
    }

    fn shutdown(&mut self, actions: &mut Vec<Action>) {
        if self.phase != Phase::Running {
            return;
        }
        if let Hold::Holding(holding) = &mut self.hold {
            match holding.stage {
                Stage::Active { .. } => holding.end(Stage::Over, Reason::Shutdown, actions),
                Stage::Raise | Stage::Claiming | Stage::Claimed(_) | Stage::Over => holding.stage = Stage::Over,
            }
        }
        actions.push(Action::CloseStores);
        self.phase = Phase::Closing;
    }

    /// Sends what is due.
    fn go_on(&mut self, now: BootInstant, actions: &mut Vec<Action>) {
        if let Phase::Releasing { left } = self.phase
            && self.request.is_none()
            && (left == 0 || matches!(self.hold, Hold::Watching { .. }))
        {
            self.phase = Phase::Stopped;
        }
        if self.phase == Phase::Running
            && let Hold::Holding(Holding { stage: Stage::Claiming, term, .. }) = self.hold
        {
            self.claims.ask(term, now, actions);
        }
        if self.request.is_none() && self.request_due().is_some_and(|due| now >= due) {
            let (request, action) = self.next_request(now);
            self.request = Some(request);
            self.sent = now;
            if std::mem::take(&mut self.hinted) {
                let distance = self.timing.renew() / TWO_HINTS;
                self.hint_at = self.heeded.replace(now).map_or(now, |before| before.plus(distance));
            }
            actions.push(action);
            if let Phase::Releasing { left } = &mut self.phase {
                *left = left.saturating_sub(1);
            }
        }
    }

    fn request_due(&self) -> Option<BootInstant> {
        let due = match (self.phase, &self.hold) {
            (Phase::Closing | Phase::Stopped, _) => return None,
            (Phase::Releasing { .. }, _) => self.not_before,
            (Phase::Running, _) if self.doubt => self.not_before,
            (Phase::Running, Hold::Watching { found, since }) => {
                let look = if self.hinted { self.poll_at.min(self.hint_at) } else { self.poll_at };
                look.min(self.free_at(found.as_ref(), *since))
            }
            (Phase::Running, Hold::Holding(holding)) => {
                let renewal = self.sent.plus(self.timing.renew());
                match holding.ripe(self.timing) {
                    _ if matches!(holding.stage, Stage::Raise | Stage::Over) => self.not_before,
                    Some(ripe) if self.sent < ripe => renewal.min(ripe),
                    _ => renewal,
                }
            }
        };
        Some(due.max(self.not_before))
    }

    /// When a record that isn't ours may be taken.
    fn free_at(&self, found: Option<&Observed>, since: BootInstant) -> BootInstant {
        match found {
            Some(Observed { record, .. }) if !is_left(record, &self.id, self.ended) => {
                since.plus(self.timing.lease()).max(self.yields_until)
            }
            Some(_) | None => since,
        }
    }

    fn next_request(&self, now: BootInstant) -> (Request, Action) {
        let read = (Request::Read, Action::ReadLease);
        if self.doubt {
            return read;
        }
        match &self.hold {
            Hold::Watching { found, since } if now >= self.free_at(found.as_ref(), *since) => {
                let (before, waited) = match found {
                    Some(Observed { record, .. }) => (record.term, !is_left(record, &self.id, self.ended)),
                    None => (self.ended.unwrap_or(Term::NONE), false),
                };
                let term = self.claims.highest().max(before).next();
                let basis = match waited {
                    true => Basis::WaitedOut,
                    false if term == before.next() => Basis::TermBefore,
                    false => Basis::Nothing,
                };
                let expected = found.as_ref().map(|found| found.version.clone());
                (Request::Take { term, basis }, self.write(expected, term, Occupancy::Held(self.id.clone())))
            }
            Hold::Watching { .. } => read,
            Hold::Holding(holding) => {
                let expected = Some(holding.version.clone());
                if holding.stage == Stage::Over {
                    let left = if holding.granted { Occupancy::Released(self.id.clone()) } else { Occupancy::Vacant };
                    let record = LeaseRecord { term: holding.term, occupancy: left };
                    return (Request::Release { record: record.clone() }, Action::WriteLease { expected, record });
                }
                let raise = holding.stage == Stage::Raise;
                let term = if raise { self.claims.highest().max(holding.term).next() } else { holding.term };
                (Request::Renew { term }, self.write(expected, term, Occupancy::Held(self.id.clone())))
            }
        }
    }

    fn write(&self, expected: Option<Version>, term: Term, occupancy: Occupancy) -> Action {
        Action::WriteLease { expected, record: LeaseRecord { term, occupancy } }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn after(millis: u64) -> BootInstant {
        BootInstant::from_nanos(0).plus(Duration::from_millis(millis))
    }

    fn me() -> HolderId {
        HolderId::parse("me").unwrap()
    }

    fn step(election: &mut LeaseElection, event: Event, millis: u64) -> Vec<Action> {
        let mut actions = Vec::new();
        election.handle(event, after(millis), &mut actions);
        actions
    }

    fn seen(version: &str, term: u64) -> Event {
        let record = LeaseRecord { term: Term::new(term), occupancy: Occupancy::Held(me()) };
        Event::LeaseRead(Some(Observed { version: Version::new(version), record }))
    }

    /// Has written term 1 into an empty lease at version "1".
    fn taken() -> LeaseElection {
        let mut election = LeaseElection::new(LeaseTiming::DEFAULT, me(), after(0));
        step(&mut election, Event::Tick, 0);
        step(&mut election, Event::LeaseRead(None), 0);
        step(&mut election, Event::LeaseWritten(Version::new("1")), 0);
        election
    }

    fn active() -> LeaseElection {
        let mut election = taken();
        step(&mut election, Event::StateClaimed { term: Term::new(1) }, 0);
        step(&mut election, Event::Tick, 1);
        let mut actions = Vec::new();
        for millis in [1_000, 1_001] {
            let event = if millis == 1_000 { Event::Tick } else { Event::LeaseWritten(Version::new("2")) };
            actions.extend(step(&mut election, event, millis));
        }
        assert!(matches!(actions.last(), Some(Action::Grant { .. })), "{actions:?}");
        election
    }

    /// With a renewal of unknown outcome, then a read that finds `found`.
    fn doubting(mut election: LeaseElection, found: Event) -> LeaseElection {
        step(&mut election, Event::Tick, 2_100);
        step(&mut election, Event::LeaseUnknown, 2_200);
        step(&mut election, Event::Tick, 2_500);
        step(&mut election, found, 2_510);
        election
    }

    #[test]
    fn a_lost_answer_is_made_good_only_while_active_and_only_by_the_own_record() {
        assert_eq!(doubting(active(), seen("9", 1)).role(), Role::Active);
        assert_eq!(doubting(active(), seen("9", 2)).role(), Role::Standby, "an edited term");
        assert_eq!(doubting(active(), Event::LeaseRead(None)).role(), Role::Standby, "a deleted lease");
        assert_eq!(doubting(taken(), seen("9", 1)).role(), Role::Standby, "never granted");
    }

    /// Its term 1 has run out while the server was away, and then it reads `found`.
    fn expired(found: Event) -> (LeaseElection, Vec<Action>) {
        let mut election = active();
        step(&mut election, Event::Tick, 2_100);
        step(&mut election, Event::LeaseUnknown, 3_100);
        let revoked = step(&mut election, Event::Tick, 4_600);
        assert!(matches!(revoked.first(), Some(Action::Revoke { reason: Reason::Expired, .. })), "{revoked:?}");
        let actions = step(&mut election, found, 8_000);
        (election, actions)
    }

    fn take(expected: Option<&str>, term: u64) -> Vec<Action> {
        let record = LeaseRecord { term: Term::new(term), occupancy: Occupancy::Held(me()) };
        vec![Action::WriteLease { expected: expected.map(Version::new), record }]
    }

    #[test]
    fn after_an_outage_the_own_record_is_taken_at_once_for_the_term_after() {
        for (found, expected) in [(seen("9", 1), Some("9")), (Event::LeaseRead(None), None)] {
            let (mut election, actions) = expired(found);
            assert_eq!(actions, take(expected, 2), "a late write, or a deleted lease");
            let claim = step(&mut election, Event::LeaseWritten(Version::new("10")), 8_010);
            assert_eq!(claim, [Action::ClaimState { term: Term::new(2) }]);
            let renewal = step(&mut election, Event::StateClaimed { term: Term::new(2) }, 8_020);
            assert_eq!(renewal, take(Some("10"), 2));
            let granted = step(&mut election, Event::LeaseWritten(Version::new("11")), 8_030);
            assert!(matches!(granted.as_slice(), [Action::Grant { .. }]), "{granted:?}");
        }
        let (election, actions) = expired(seen("9", 2));
        let role = election.role();
        assert_eq!(
            (role, actions),
            (Role::Standby, vec![Action::ReadLease]),
            "the own name in a term that it never had"
        );
    }

    #[test]
    fn the_own_record_is_no_proof_once_a_claim_was_refused() {
        let (mut election, _) = expired(seen("9", 1));
        step(&mut election, Event::LeaseWritten(Version::new("10")), 8_010);
        let (term, highest) = (Term::new(2), Term::new(2));
        let raised = step(&mut election, Event::StateRefused { term, highest }, 8_020);
        assert_eq!(raised, take(Some("10"), 3));
        step(&mut election, Event::LeaseWritten(Version::new("11")), 8_030);
        step(&mut election, Event::StateClaimed { term: Term::new(3) }, 8_040);
        for millis in (9_030..13_000).step_by(1_000) {
            step(&mut election, Event::Tick, millis);
            let actions = step(&mut election, Event::LeaseWritten(Version::new(&millis.to_string())), millis);
            assert!(!actions.iter().any(|action| matches!(action, Action::Grant { .. })), "{millis}: {actions:?}");
        }
    }

    #[test]
    fn a_state_that_can_not_be_used_is_left_to_others_for_the_time_that_they_need() {
        let mut election = taken();
        let given_up = step(&mut election, Event::StateUnusable { term: Term::new(1) }, 10);
        let record = LeaseRecord { term: Term::new(1), occupancy: Occupancy::Vacant };
        assert_eq!(given_up, [Action::WriteLease { expected: Some(Version::new("1")), record: record.clone() }]);
        step(&mut election, Event::LeaseWritten(Version::new("2")), 20);
        assert_eq!(election.role(), Role::Standby);
        let found = Event::LeaseRead(Some(Observed { version: Version::new("2"), record }));
        let mut taken_at = None;
        for millis in (30..10_000).step_by(10) {
            match step(&mut election, Event::Tick, millis).as_slice() {
                [] => {}
                [Action::ReadLease] => drop(step(&mut election, found.clone(), millis)),
                other => {
                    assert_eq!(other, take(Some("2"), 2));
                    taken_at = taken_at.or(Some(millis));
                    break;
                }
            }
        }
        assert_eq!(taken_at, Some(8_010), "a lease and three renewals later");
    }

    #[test]
    fn one_that_leaves_while_it_gives_up_stops_after_its_stores_are_closed() {
        let mut election = taken();
        step(&mut election, Event::StateUnusable { term: Term::new(1) }, 10);
        assert_eq!(step(&mut election, Event::ShutdownAsked, 20), [Action::CloseStores]);
        step(&mut election, Event::LeaseWritten(Version::new("2")), 30);
        assert_eq!(election.role(), Role::Leaving);
        step(&mut election, Event::StoresClosed, 40);
        assert_eq!(election.role(), Role::Stopped);
    }

    #[test]
    fn hints_are_heeded_at_once_and_at_a_distance() {
        let mut election = LeaseElection::new(LeaseTiming::DEFAULT, me(), after(0));
        let found = || Event::LeaseRead(Some(Observed { version: Version::new("1"), record: stranger() }));
        step(&mut election, Event::Tick, 0);
        step(&mut election, found(), 10);
        let mut reads = Vec::new();
        for millis in 11..=900 {
            if !step(&mut election, Event::LeaseChanged, millis).is_empty() {
                reads.push(millis);
                step(&mut election, found(), millis);
            }
        }
        assert_eq!(reads, [11, 12, 511, 512], "two at once, and no more than four in a renewal's time");
    }

    #[test]
    fn a_hint_that_comes_while_a_read_is_under_way_is_not_lost() {
        let mut election = LeaseElection::new(LeaseTiming::DEFAULT, me(), after(0));
        step(&mut election, Event::Tick, 0);
        step(&mut election, Event::LeaseChanged, 5);
        let before = Event::LeaseRead(Some(Observed { version: Version::new("1"), record: stranger() }));
        assert_eq!(step(&mut election, before, 10), [Action::ReadLease], "what was read may be older than the hint");
    }

    fn stranger() -> LeaseRecord {
        LeaseRecord { term: Term::new(7), occupancy: Occupancy::Held(HolderId::parse("another").unwrap()) }
    }

    #[test]
    fn only_a_term_that_was_granted_is_marked_as_released() {
        for (mut election, left) in [(active(), Occupancy::Released(me())), (taken(), Occupancy::Vacant)] {
            step(&mut election, Event::ShutdownAsked, 1_500);
            let actions = step(&mut election, Event::StoresClosed, 1_600);
            let record = LeaseRecord { term: Term::new(1), occupancy: left };
            assert!(
                matches!(actions.as_slice(), [Action::WriteLease { record: it, .. }] if *it == record),
                "{actions:?}"
            );
        }
    }

    #[test]
    fn failures_are_not_repeated_at_once() {
        let mut election = LeaseElection::new(LeaseTiming::DEFAULT, me(), after(0));
        assert_eq!(step(&mut election, Event::Tick, 0), [Action::ReadLease]);
        assert_eq!(step(&mut election, Event::LeaseUnknown, 1), []);
        assert_eq!(election.next_wake(), Some(after(251)));
    }
}
