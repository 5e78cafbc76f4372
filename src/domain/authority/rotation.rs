//! The authorities of one kind (X.509 or JWT) through a rotation: prepared, active, old, gone. Each step waits until what
//! it would otherwise break has been seen to be over. Which evidence there is, and what a step writes, are not decided here.

mod automatic;
mod evidence;
mod handed_out;

use std::fmt;

pub use self::{
    automatic::{DueStep, due_step},
    evidence::{Evidence, Obstacle, Offered, Reached, WhoWouldBreak},
    handed_out::HandedOut,
};
use crate::domain::clock::Timestamp;

/// How operators name an authority: hex of a subject key identifier, or a `kid`.
pub type AuthorityId = String;

/// Where an authority stands. Every one of them is in the bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Published, and signs nothing yet.
    Prepared,
    /// Signs.
    Active,
    /// Signs no more, what it has signed is still believed.
    Old,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Prepared => "prepared",
            Self::Active => "active",
            Self::Old => "old",
        })
    }
}

/// One authority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Its name.
    pub id: AuthorityId,
    /// Where it stands.
    pub phase: Phase,
    /// Its end: for a key of JWT-SVIDs, which has none of its own, the one that it was given.
    pub not_after: Timestamp,
    /// Whether whoever holds something of it is to renew at once.
    pub tainted: bool,
    /// The sequence of the first bundle that holds it.
    pub published_in: u64,
}

/// All authorities of one kind: exactly one is active, at most one prepared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authorities {
    slots: Vec<Slot>,
    sequence: u64,
}

/// What an operator, or the clock, asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Publish another authority.
    Prepare {
        /// Its name.
        id: AuthorityId,
        /// Its end.
        not_after: Timestamp,
    },
    /// Sign by this one, which is prepared, or old: that is the way back.
    Activate(AuthorityId),
    /// Have all that this old one has signed renewed.
    Taint(AuthorityId),
    /// Believe nothing more of this one: an old one, or one that is prepared and not wanted any more.
    Revoke(AuthorityId),
}

/// Why a step was not taken. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StepRefused {
    /// There is none of that name.
    #[error("there is no authority {0}")]
    Unknown(AuthorityId),
    /// Two of one name can't be told apart.
    #[error("there is an authority {0} already")]
    Exists(AuthorityId),
    /// One at a time.
    #[error("authority {0} is prepared already: activate it, or revoke it")]
    PreparedAlready(AuthorityId),
    /// Nothing to do.
    #[error("authority {0} signs already")]
    ActiveAlready(AuthorityId),
    /// What signs, or is about to, is not on its way out.
    #[error("authority {id} is {phase}: only an old one can be {what}")]
    NotOld {
        /// Which.
        id: AuthorityId,
        /// Where it stands.
        phase: Phase,
        /// Tainted or revoked.
        what: &'static str,
    },
    /// First its holders are told.
    #[error("authority {0} is not tainted: taint it first, so that whoever holds something of it renews")]
    NotTainted(AuthorityId),
    /// It could not sign anything.
    #[error("authority {id} ends at {not_after}, which has passed")]
    Ended {
        /// Which.
        id: AuthorityId,
        /// When.
        not_after: Timestamp,
    },
    /// Somebody would be refused.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Obstacles(Vec<Obstacle>),
}

impl Authorities {
    /// The first one, active from the beginning.
    pub fn new(id: AuthorityId, not_after: Timestamp, sequence: u64) -> Self {
        let first = Slot { id, phase: Phase::Active, not_after, tainted: false, published_in: sequence };
        Self { slots: vec![first], sequence }
    }

    /// As they stand in the state; `None` if exactly one is not active, more than one is prepared, a name stands there twice, or
    /// one was published later than now.
    pub fn restored(slots: Vec<Slot>, sequence: u64) -> Option<Self> {
        let count = |phase| slots.iter().filter(|slot| slot.phase == phase).count();
        let names_differ =
            slots.iter().enumerate().all(|(at, slot)| slots.iter().skip(at + 1).all(|o| o.id != slot.id));
        let published = slots.iter().all(|slot| slot.published_in <= sequence);
        let only_old_tainted = slots.iter().all(|slot| !slot.tainted || slot.phase == Phase::Old);
        let is_right = count(Phase::Active) == 1 && count(Phase::Prepared) <= 1;
        (is_right && names_differ && published && only_old_tainted).then_some(Self { slots, sequence })
    }

    /// All of them, in the order in which they were published.
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// Grows with each change of what is published.
    pub const fn sequence(&self) -> u64 {
        self.sequence
    }

    /// The state after `step`. Safe as long as `handed_out` and `evidence` are true: what was signed and has not ended verifies by
    /// every bundle that is published, and what will be signed verifies by every bundle that somebody still goes by.
    ///
    /// # Errors
    ///
    /// What stands in the way.
    pub fn after(
        &self,
        step: &Step,
        handed_out: &HandedOut,
        evidence: &Evidence,
        now: Timestamp,
    ) -> Result<Self, StepRefused> {
        let after = self.after_by_force(step, now)?;
        let obstacles = self.obstacles(step, handed_out, evidence, now);
        if obstacles.is_empty() { Ok(after) } else { Err(StepRefused::Obstacles(obstacles)) }
    }

    /// The state after `step`, whoever it breaks. What makes no sense is refused all the same.
    ///
    /// # Errors
    ///
    /// When there is no such step from here.
    pub fn after_by_force(&self, step: &Step, now: Timestamp) -> Result<Self, StepRefused> {
        let mut next = self.clone();
        match step {
            Step::Prepare { id, not_after } => next.prepare(id, *not_after, now)?,
            Step::Activate(id) => next.activate(id, now)?,
            Step::Taint(id) => next.taint(id)?,
            Step::Revoke(id) => next.revoke(id)?,
        }
        Ok(next)
    }

    /// Who would be refused by the step, now. A step that makes no sense has none.
    pub fn obstacles(&self, step: &Step, handed_out: &HandedOut, evidence: &Evidence, now: Timestamp) -> Vec<Obstacle> {
        match (step, self.slot(step.id())) {
            (Step::Activate(_), Some(Slot { phase: Phase::Prepared, published_in, .. })) => {
                let believers = handed_out.last_end_before_sequence(*published_in);
                evidence.not_reached(*published_in, now).into_iter().chain(still_held(believers, now)).collect()
            }
            // back again; if it was activated by force, not everybody believes it yet
            (Step::Activate(_), Some(Slot { phase: Phase::Old, published_in, .. })) => {
                let believers = handed_out.last_end_before_sequence(*published_in);
                evidence.behind(*published_in).chain(still_held(believers, now)).collect()
            }
            // it signs nothing, but did before it was put back from a backup, or may have
            (Step::Revoke(id), Some(Slot { phase: Phase::Prepared, .. })) => {
                still_held(handed_out.last_end_of(id), now).into_iter().collect()
            }
            // whoever has an older bundle than that of the one that signs is left with nothing to believe
            (Step::Revoke(id), Some(Slot { phase: Phase::Old, .. })) => {
                let active = self.slots.iter().find(|slot| slot.phase == Phase::Active);
                let behind = active.into_iter().flat_map(|active| evidence.behind(active.published_in));
                behind.chain(still_held(handed_out.last_end_of(id), now)).collect()
            }
            _ => Vec::new(),
        }
    }

    /// The one of this name.
    pub fn slot(&self, id: &str) -> Option<&Slot> {
        self.slots.iter().find(|slot| slot.id == id)
    }

    fn known(&mut self, id: &str) -> Result<&mut Slot, StepRefused> {
        self.slots.iter_mut().find(|slot| slot.id == id).ok_or_else(|| StepRefused::Unknown(id.to_owned()))
    }

    fn prepare(&mut self, id: &str, not_after: Timestamp, now: Timestamp) -> Result<(), StepRefused> {
        if self.slot(id).is_some() {
            return Err(StepRefused::Exists(id.to_owned()));
        }
        if let Some(prepared) = self.slots.iter().find(|slot| slot.phase == Phase::Prepared) {
            return Err(StepRefused::PreparedAlready(prepared.id.clone()));
        }
        if not_after <= now {
            return Err(StepRefused::Ended { id: id.to_owned(), not_after });
        }
        self.sequence += 1;
        let phase = Phase::Prepared;
        self.slots.push(Slot { id: id.to_owned(), phase, not_after, tainted: false, published_in: self.sequence });
        Ok(())
    }

    fn activate(&mut self, id: &str, now: Timestamp) -> Result<(), StepRefused> {
        let slot = self.known(id)?;
        if slot.phase == Phase::Active {
            return Err(StepRefused::ActiveAlready(id.to_owned()));
        }
        if slot.not_after <= now {
            return Err(StepRefused::Ended { id: id.to_owned(), not_after: slot.not_after });
        }
        for slot in &mut self.slots {
            if slot.id == id {
                (slot.phase, slot.tainted) = (Phase::Active, false);
            } else if slot.phase == Phase::Active {
                slot.phase = Phase::Old;
            }
        }
        Ok(())
    }

    fn taint(&mut self, id: &str) -> Result<(), StepRefused> {
        let slot = self.known(id)?;
        if slot.phase != Phase::Old {
            return Err(StepRefused::NotOld { id: id.to_owned(), phase: slot.phase, what: "tainted" });
        }
        slot.tainted = true;
        Ok(())
    }

    fn revoke(&mut self, id: &str) -> Result<(), StepRefused> {
        match self.known(id)? {
            Slot { phase: Phase::Active, .. } => {
                return Err(StepRefused::NotOld { id: id.to_owned(), phase: Phase::Active, what: "revoked" });
            }
            Slot { phase: Phase::Old, tainted: false, .. } => return Err(StepRefused::NotTainted(id.to_owned())),
            Slot { .. } => {}
        }
        self.slots.retain(|slot| slot.id != id);
        self.sequence += 1;
        Ok(())
    }
}

impl Step {
    /// Of which authority.
    pub fn id(&self) -> &str {
        match self {
            Self::Prepare { id, .. } | Self::Activate(id) | Self::Taint(id) | Self::Revoke(id) => id,
        }
    }
}

/// An end that lies ahead is an obstacle; the last second counts as before it.
fn still_held(end: Option<Timestamp>, now: Timestamp) -> Option<Obstacle> {
    end.filter(|end| *end >= now).map(|until| Obstacle::StillHeld { until })
}

#[cfg(test)]
mod tests;
