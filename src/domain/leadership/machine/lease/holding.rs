//! What one who holds the lease knows, and what it may conclude.

use super::{Action, HolderId, LeaseRecord, LeaseTiming, Observed, Occupancy, Reason, Term, Version};
use crate::domain::clock::BootInstant;

/// Whose the record is.
#[derive(Debug)]
pub(super) enum Hold {
    /// Not ours. `found` was seen first at `since`.
    Watching {
        found: Option<Observed>,
        since: BootInstant,
    },
    Holding(Holding),
}

/// The record is what we wrote, as far as we know.
#[derive(Debug)]
pub(super) struct Holding {
    pub(super) version: Version,
    pub(super) term: Term,
    /// When the answer to the write that took the lease came.
    pub(super) taken: BootInstant,
    pub(super) basis: Basis,
    pub(super) stage: Stage,
    /// This term was granted: the record may be marked as released.
    pub(super) granted: bool,
}

/// Why nobody else may sign any more once the lease was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Basis {
    /// The record stood unchanged for a whole lease.
    WaitedOut,
    /// It said that its holder left, or there was none, so that the term before ours is the last that was ever granted;
    /// if, that is, ours can be claimed at the first try. A restored or deleted record is found out by the refusal.
    TermBefore,
    /// Nothing is known. A whole lease must pass after it was taken.
    Nothing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// The term can't be had or has ended; the next write of the record takes a higher one.
    Raise,
    Claiming,
    /// The term is claimed since this instant. A renewal that is sent later, and after what the basis asks for, grants it.
    Claimed(BootInstant),
    Active {
        until: BootInstant,
    },
    /// Left.
    Over,
}

impl Holding {
    pub(super) fn end(&mut self, next: Stage, reason: Reason, actions: &mut Vec<Action>) {
        actions.push(Action::Revoke { term: self.term, reason });
        self.stage = next;
    }

    /// A claim was refused: the record that was taken didn't name the last term.
    pub(super) fn distrust(&mut self) {
        if self.basis == Basis::TermBefore {
            self.basis = Basis::Nothing;
        }
    }

    /// Whether a record of another version goes on with the chain: it says what we write, so a write whose answer was
    /// lost made it, or a hand that changed nothing. Only while active (nobody else is then, whatever happened to the
    /// record in between) or leaving. Otherwise our own record is like a stranger's.
    pub(super) fn resumes(&self, record: &LeaseRecord, id: &HolderId) -> bool {
        let live = matches!(self.stage, Stage::Active { .. } | Stage::Over);
        live && record.term == self.term && record.occupancy == Occupancy::Held(id.clone())
    }

    /// From when on the sending of a renewal grants the claimed term.
    pub(super) fn ripe(&self, timing: LeaseTiming) -> Option<BootInstant> {
        let Stage::Claimed(at) = self.stage else { return None };
        Some(match self.basis {
            Basis::WaitedOut | Basis::TermBefore => at,
            Basis::Nothing => at.max(self.taken.plus(timing.lease())),
        })
    }
}

/// Whether whoever is in the record has left the term that it names: it says so, or that was this process, which knows that its
/// term `ended`. The latter is what a late write of ours leaves behind when its answer was lost.
pub(super) fn is_left(record: &LeaseRecord, id: &HolderId, ended: Option<Term>) -> bool {
    match &record.occupancy {
        Occupancy::Released(_) => true,
        Occupancy::Held(holder) => holder == id && ended == Some(record.term),
        Occupancy::Vacant => false,
    }
}
