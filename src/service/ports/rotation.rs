//! What operators want of the authorities, and what they are told.

use super::{BoxFuture, ByActive, OrderError};
use crate::domain::{
    attestation::Reason,
    authority::rotation::{AuthorityId, Reached, Slot},
    clock::Timestamp,
    leadership::Term,
};

/// Of which SVIDs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthorityKind {
    /// X.509.
    X509,
    /// JWT.
    Jwt,
}

/// A step of a rotation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WantedStep {
    /// Make another authority, and publish it.
    Prepare,
    /// Sign by this one.
    Activate(AuthorityId),
    /// Have all that this old one signed renewed.
    Taint(AuthorityId),
    /// Take this one out of the bundle.
    Revoke(AuthorityId),
}

/// What an operator wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RotationOrder {
    /// Of which kind of authority.
    pub kind: AuthorityKind,
    /// The step; `None` to be told how things stand.
    pub step: Option<WantedStep>,
    /// Say what would come of it, and do nothing.
    pub dry_run: bool,
    /// Do it whoever breaks.
    pub force: bool,
    /// Why, if that was said.
    pub reason: Option<Reason>,
}

/// How things stand, after the step if it was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RotationReport {
    /// Of the trust bundle.
    pub sequence: u64,
    /// In the order in which they were published.
    pub authorities: Vec<AuthorityReport>,
    /// The authority that the step is about; empty without a step.
    pub id: AuthorityId,
    /// Whether the step was taken.
    pub done: bool,
    /// Who would break, or has been taken the risk of, if it was forced.
    pub obstacles: Vec<String>,
    /// Who follows the bundle and has an older one.
    pub behind: Vec<String>,
}

/// One authority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthorityReport {
    /// Where it stands.
    pub slot: Slot,
    /// When the last that it signed ends, as far as that is on record.
    pub last_end: Option<Timestamp>,
    /// What its next step, activate or revoke, waits for.
    pub waits_for: Vec<String>,
}

/// Orders of this replica's operators at the active one. Nothing is passed on twice.
pub trait RotationOfActive: Send + Sync {
    /// Has the active do it, for its user `actor_uid` as this replica asserts.
    fn rotate<'a>(
        &'a self,
        order: &'a RotationOrder,
        actor_uid: u32,
    ) -> BoxFuture<'a, Result<ByActive<RotationReport>, OrderError>>;
}

/// Those who follow the trust bundle live.
pub trait Followers: Send + Sync {
    /// This term of this replica has begun, unless that is known already: who follows at others is not.
    fn begin_term(&self, term: Term);

    /// Each of them, with the sequence that it said last is in effect.
    fn reached(&self) -> Vec<Reached>;

    /// Agents that were lost sight of without having said that they end.
    fn lost_agents(&self) -> Vec<Reached>;

    /// Those that another replica may have lost, which was active before this one, if that is not too long ago.
    fn lost_by_others(&self) -> Option<Reached>;
}
