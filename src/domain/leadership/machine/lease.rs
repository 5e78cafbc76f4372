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
/// The first wait after a failure is this part of a renewal's interval, and the longest one the half of it: a server that is
/// back is asked within one and a half, the answer that did not come included.
const FIRST_WAIT: u32 = 4;
const LONGEST_WAIT: u32 = 2;
/// In this part of a renewal's interval two hints are heeded: one that a renewal gave must not hold up the release after
/// it.
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
mod tests;
