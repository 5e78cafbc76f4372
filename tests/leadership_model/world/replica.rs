//! One replica: its machine, its clock, and what its signer goes by.

use countersign::domain::{
    clock::BootInstant,
    leadership::{HolderId, Machine, Term},
};

use super::Micros;

pub(crate) struct Replica {
    pub(super) life: u64,
    pub(super) alive: bool,
    pub(super) machine: Machine,
    pub(super) id: HolderId,
    pub(super) rate: u64,
    pub(super) offset: u64,
    pub(super) paused_until: Micros,
    pub(super) signer_paused: bool,
    pub(super) down: Micros,
    pub(super) wake: Option<Micros>,
    pub(super) lease_request: Option<(u64, BootInstant)>,
    pub(super) claim_request: Option<(u64, Term)>,
    /// Asked to shut down.
    pub(super) leaving: bool,
    /// Stores are being closed.
    pub(super) closing: bool,
    pub(super) born: BootInstant,
    pub(super) requests: u64,
    pub(super) free_requests: u64,
    /// Its next claim fails for good, after it was made.
    pub(super) misfit: bool,
    /// The term granted and its deadline: what the signer goes by.
    pub(super) grant: Option<(Term, Option<BootInstant>)>,
}

impl Replica {
    pub(super) fn new(machine: Machine, id: HolderId, rate: u64, offset: u64) -> Self {
        Self {
            life: 0,
            alive: false,
            machine,
            id,
            rate,
            offset,
            paused_until: 0,
            signer_paused: false,
            down: 0,
            wake: None,
            lease_request: None,
            claim_request: None,
            leaving: false,
            closing: false,
            born: BootInstant::from_nanos(offset),
            requests: 0,
            free_requests: 0,
            misfit: false,
            grant: None,
        }
    }

    pub(super) fn may_sign(&self, now: BootInstant) -> bool {
        self.alive && self.grant.is_some_and(|(_, until)| until.is_none_or(|until| now < until))
    }
}

pub(super) fn replica_is_awake(replica: &Replica, now: Micros) -> bool {
    replica.paused_until <= now
}
