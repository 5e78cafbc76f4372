//! The election as a state machine without I/O: events and time in, actions out.
//!
//! A driver owns the [`Machine`] and repeats three steps: hand it an [`Event`] with the boot clock's time, do the
//! [`Action`]s in their order, sleep until an answer is there or [`Machine::next_wake`] is due ([`Event::Tick`]).
//! It starts with a tick. What it must keep to:
//!
//! - A *request* ([`Action::TryLock`], [`Action::ReadLease`], [`Action::WriteLease`], [`Action::ClaimState`]) gets
//!   exactly one answer. One that takes longer than [`LeaseTiming::renew`], a claim longer than
//!   [`LeaseTiming::step_down`], is answered as unknown, and what arrives later is dropped. At most one request to the
//!   lock or lease and one claim are under way at any time.
//! - [`Action::Grant`], [`Action::Extend`] and [`Action::Revoke`] take effect at once, before anything is awaited, and
//!   every signature compares the deadline with the boot clock itself: a driver that is late signs nothing too late.
//! - [`Action::CloseStores`] ends signatures and claims under way, closes the stores, and is answered by
//!   [`Event::StoresClosed`].
//!
//! Early, late, repeated or missing ticks cost time, never safety. `docs/failover.md` tells the rules and why they hold.

mod backoff;
mod claims;
mod lease;
mod lock;

use self::{lease::LeaseElection, lock::LockElection};
use super::{HolderId, LeaseRecord, LeaseTiming, Observed, Term, Version};
use crate::domain::clock::BootInstant;

/// How a term is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tenure {
    /// By a lock that the operating system frees when the process ends: no deadline, nobody takes it away.
    Lock,
    /// By a record changed by compare-and-swap, which runs out unless it is renewed.
    Lease(LeaseTiming),
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Time went by. Allowed at any time.
    Tick,
    /// Answer to [`Action::TryLock`]: the lock is ours.
    LockAcquired,
    /// Answer to [`Action::TryLock`]: somebody else has it.
    LockHeld,
    /// Answer to [`Action::ReadLease`]: the record, `None` if there is none.
    LeaseRead(Option<Observed>),
    /// Answer to [`Action::WriteLease`]: done, and this is the new version.
    LeaseWritten(Version),
    /// Answer to [`Action::WriteLease`]: refused, the version is another.
    LeaseConflict,
    /// Answer to [`Action::ReadLease`] or [`Action::WriteLease`]: failed, or no answer in time. A write may have
    /// happened all the same.
    LeaseUnknown,
    /// A watch or a peer says that the record changed. Only a hint to look sooner; allowed at any time.
    LeaseChanged,
    /// Answer to [`Action::ClaimState`]: every state object now bears `term`, and each bore a lower one before.
    StateClaimed {
        /// As claimed.
        term: Term,
    },
    /// Answer to [`Action::ClaimState`]: some state object bears `highest`, which is not lower than `term`.
    StateRefused {
        /// As claimed.
        term: Term,
        /// The highest in any state object.
        highest: Term,
    },
    /// Answer to [`Action::ClaimState`]: failed, or no answer in time. It may have happened all the same.
    StateUnknown {
        /// As claimed.
        term: Term,
    },
    /// Answer to [`Action::ClaimState`]: what is stored can't be used by this replica, perhaps by another. It may have
    /// happened all the same.
    StateUnusable {
        /// As claimed.
        term: Term,
    },
    /// A state object bears this term, as a reader or a refused writer found. Allowed at any time.
    HigherTermSeen(Term),
    /// The process is to end. Allowed at any time, also twice.
    ShutdownAsked,
    /// Answer to [`Action::CloseStores`].
    StoresClosed,
}

/// What the driver is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Request: try to take the lock, without waiting for it.
    TryLock,
    /// Let go of the lock.
    ReleaseLock,
    /// Request: read the record.
    ReadLease,
    /// Request: write the record if its version is still `expected` (`None`: create it).
    WriteLease {
        /// The version that it must have.
        expected: Option<Version>,
        /// What it is to say.
        record: LeaseRecord,
    },
    /// Request: raise the term of each state object, by compare-and-swap, from a *lower* one to this. An equal one is
    /// refused, also if it may be ours: no term is ever claimed twice.
    ClaimState {
        /// To be claimed.
        term: Term,
    },
    /// This process may sign, in this term and before this instant of its boot clock (`None`: until revoked).
    Grant {
        /// In which.
        term: Term,
        /// The first instant at which it may not.
        until: Option<BootInstant>,
    },
    /// The term granted before now lasts until here.
    Extend {
        /// The first instant at which it may not sign.
        until: BootInstant,
    },
    /// This process may not sign any more.
    Revoke {
        /// The term that ended.
        term: Term,
        /// Why.
        reason: Reason,
    },
    /// Finish what is being signed, close the stores, then say [`Event::StoresClosed`].
    CloseStores,
}

/// Why a term ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// No renewal succeeded in time.
    Expired,
    /// The record says something else than its holder wrote.
    LeaseLost,
    /// A state object bears a higher term.
    HigherTerm,
    /// The process ends.
    Shutdown,
}

/// Where a replica stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Somebody else is active, or nobody is.
    Standby,
    /// Holds the lock or lease, may not sign yet: its term is being claimed.
    Acquiring,
    /// May sign.
    Active,
    /// Was asked to end, or yields to a higher term; its stores are being closed and its lock or lease released.
    Leaving,
    /// Has left and never comes back.
    Stopped,
}

/// The election of one replica.
#[derive(Debug)]
pub struct Machine(Election);

#[derive(Debug)]
enum Election {
    Lock(LockElection),
    Lease(Box<LeaseElection>),
}

impl Machine {
    /// A replica that knows nothing yet. Its first event is a tick.
    pub fn new(tenure: Tenure, id: HolderId, now: BootInstant) -> Self {
        Self(match tenure {
            Tenure::Lock => Election::Lock(LockElection::new(now)),
            Tenure::Lease(timing) => Election::Lease(Box::new(LeaseElection::new(timing, id, now))),
        })
    }

    /// Takes an event at `now`, which must not be earlier than before, and says what is to be done, in order.
    pub fn handle(&mut self, event: Event, now: BootInstant) -> Vec<Action> {
        let mut actions = Vec::new();
        match &mut self.0 {
            Election::Lock(election) => election.handle(&event, now, &mut actions),
            Election::Lease(election) => election.handle(event, now, &mut actions),
        }
        actions
    }

    /// When the next tick is due, `None` if only an answer can move this on. An instant in the past means now.
    pub fn next_wake(&self) -> Option<BootInstant> {
        match &self.0 {
            Election::Lock(election) => election.next_wake(),
            Election::Lease(election) => election.next_wake(),
        }
    }

    /// How a term is held.
    pub fn tenure(&self) -> Tenure {
        match &self.0 {
            Election::Lock(_) => Tenure::Lock,
            Election::Lease(election) => Tenure::Lease(election.timing()),
        }
    }

    /// Where this replica stands.
    pub fn role(&self) -> Role {
        match &self.0 {
            Election::Lock(election) => election.role(),
            Election::Lease(election) => election.role(),
        }
    }

    /// The term in which this replica may sign, if it may.
    pub fn term(&self) -> Option<Term> {
        match &self.0 {
            Election::Lock(election) => election.term(),
            Election::Lease(election) => election.term(),
        }
    }
}
