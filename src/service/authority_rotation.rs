//! The rotation of the authorities, step by step: by operators, on the active alone, and by the clock. A step is taken when
//! nobody is known to break by it, or when an operator takes that risk.

use std::{collections::BTreeSet, sync::Arc};

use tokio::{sync::watch, task::spawn_blocking};
use tracing::info;

use super::{
    bundle_distribution::{DistributionStatus, SpreadStatus},
    bundle_offers::BundleOffers,
    denial::Actor,
    ports::{
        AuthorityKind, AuthorityReport, Followers, OrderError, RotationOfActive, RotationOrder, RotationReport,
        StateError, WantedStep,
    },
    signing_session::SigningSession,
    signing_state::{KindState, TermState},
};
use crate::domain::{
    attestation::Reason,
    authority::rotation::{
        Authorities, AuthorityId, DueStep, Evidence, Obstacle, Phase, Reached, Slot, Step, StepRefused, due_step,
    },
    clock::{Clock, Timestamp},
    x509::{Certificate, TrustBundle},
};

/// The use case. A step that has begun is brought to its end, also if nobody waits for the answer any more.
pub struct AuthorityRotation {
    session: watch::Receiver<Option<Arc<SigningSession>>>,
    pair: Arc<dyn RotationOfActive>,
    propagation: Propagation,
    clock: Arc<dyn Clock>,
}

/// By what it is seen how far a bundle has come.
pub struct Propagation {
    /// Those who follow it live.
    pub followers: Arc<dyn Followers>,
    /// The objects that it is written to, where there are any.
    pub places: Option<watch::Receiver<DistributionStatus>>,
    /// What gateways of the cluster go by, where anything is written for gateways.
    pub gateways: Option<Behind>,
    /// What the bundle endpoint tells, where there is one.
    pub endpoint: Option<Arc<BundleOffers>>,
}

/// Tells what has not these roots yet; `None` if everything has.
pub type Behind = Box<dyn Fn(&TrustBundle) -> Option<String> + Send + Sync>;

/// Why a step was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RotationError {
    /// No active replica has decided on it, or another one did.
    #[error(transparent)]
    Order(#[from] OrderError),
    /// There is no such step from here, or it waits.
    #[error(transparent)]
    Refused(#[from] StepRefused),
    /// Only whoever has the root above it can make the one that follows.
    #[error(
        "authority {0} comes to its end, and is an intermediate under somebody else's root: import the next one, or prepare a \
         root of this pair's own by command"
    )]
    Intermediate(AuthorityId),
    /// The state can't be used or written.
    #[error(transparent)]
    State(#[from] StateError),
}

impl RotationError {
    /// Whether the step is only not taken yet.
    pub const fn is_wait(&self) -> bool {
        matches!(self, Self::Refused(StepRefused::Obstacles(_)))
    }
}

impl AuthorityRotation {
    /// Rotates while `session` lasts; otherwise has `pair` do what operators want.
    pub fn new(
        session: watch::Receiver<Option<Arc<SigningSession>>>,
        pair: Arc<dyn RotationOfActive>,
        propagation: Propagation,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self { session, pair, propagation, clock }
    }

    /// Does what an operator wants: here if this replica is active, else by the one that is, unless another one has passed the
    /// order on already.
    ///
    /// # Errors
    ///
    /// When nobody is active, there is no such step, or the state can't be written. A step that waits is no error: the report
    /// says that it was not taken, and why.
    pub async fn order(self: &Arc<Self>, order: RotationOrder, actor: Actor) -> Result<RotationReport, RotationError> {
        let session = self.session.borrow().clone();
        let entered = session.and_then(|session| session.enter(self.clock.boot()));
        let asserted = actor.asserted_by.is_some();
        let here = match entered.and_then(|session| Some((session.state().cloned()?, session))) {
            Some((state, session)) => {
                let (this, order, actor) = (Arc::clone(self), order.clone(), actor.clone());
                let done = spawn_blocking(move || {
                    let done = this.carry_out(&state, &order, &actor);
                    drop(session);
                    done
                });
                done.await.unwrap_or_else(|error| Err(StateError::Io(error.to_string()).into()))
            }
            None => Err(OrderError::NotActive.into()),
        };
        match here {
            Err(RotationError::Order(OrderError::NotActive)) if !asserted => {
                self.order_by_active(&order, actor.uid).await
            }
            decided => decided,
        }
    }

    /// Takes the step that the clock asks for, if any, when nothing stands in its way. Blocks.
    ///
    /// # Errors
    ///
    /// What it waits for, or why the state can't be used.
    pub fn take_due_step(&self, state: &TermState, kind: AuthorityKind) -> Result<(), RotationError> {
        if !state.rotates(kind) {
            return Ok(());
        }
        let found = state.kind_state(kind)?;
        let now = self.clock.now();
        let due = due_step(&found.authorities, &found.roots_end, found.lifetime, &found.handed_out, now);
        let Some(due) = due else { return Ok(()) };
        let wanted = match &due {
            DueStep::Prepare if found.is_intermediate => {
                let active = found.authorities.slots().iter().find(|slot| slot.phase == Phase::Active);
                return Err(RotationError::Intermediate(active.map(|slot| slot.id.clone()).unwrap_or_default()));
            }
            DueStep::Prepare => WantedStep::Prepare,
            DueStep::Activate(id) => WantedStep::Activate(id.clone()),
            DueStep::Retire(id) => WantedStep::Revoke(id.clone()),
        };
        let mut id = String::new();
        state.step(kind, &wanted, |found, step| {
            step.id().clone_into(&mut id);
            let after = match &due {
                // nothing by one that has ended is believed by anybody
                DueStep::Retire(id) => retired(&found.authorities, id, now)?,
                DueStep::Prepare | DueStep::Activate(_) if has_ended(&found.authorities, now) => {
                    found.authorities.after_by_force(step, now)?
                }
                DueStep::Prepare | DueStep::Activate(_) => {
                    found.authorities.after(step, &found.handed_out, &self.evidence(kind, found, state), now)?
                }
            };
            Ok::<_, RotationError>(Some(after))
        })?;
        info!(
            event = "audit",
            action = action(kind, &wanted),
            actor = "clock",
            authority = id,
            reason = "near its end"
        );
        Ok(())
    }

    /// Puts on record that everybody has the key of JWT-SVIDs that is prepared, once that is seen: whom this replica had lost no other
    /// one knows that is active after it. Blocks.
    ///
    /// # Errors
    ///
    /// When the state can't be used.
    pub fn record_reach(&self, state: &TermState) -> Result<(), StateError> {
        let found = state.kind_state(AuthorityKind::Jwt)?;
        let prepared = found.authorities.slots().iter().find(|slot| slot.phase == Phase::Prepared);
        let Some(prepared) = prepared.filter(|_| !found.has_reached_all) else { return Ok(()) };
        let evidence = self.evidence(AuthorityKind::Jwt, &found, state);
        match evidence.unreached(prepared.published_in).next() {
            Some(_) => Ok(()),
            None => state.reach_all(&prepared.id),
        }
    }

    fn carry_out(
        &self,
        state: &TermState,
        order: &RotationOrder,
        actor: &Actor,
    ) -> Result<RotationReport, RotationError> {
        let (kind, now) = (order.kind, self.clock.now());
        let (mut id, mut obstacles, mut done, mut before) = (String::new(), Vec::new(), false, String::new());
        if let Some(wanted) = &order.step {
            let taken = state.step(kind, wanted, |found, step| {
                step.id().clone_into(&mut id);
                before = standing(found.authorities.slot(&id));
                let after = found.authorities.after_by_force(step, now)?;
                obstacles =
                    found.authorities.obstacles(step, &found.handed_out, &self.evidence(kind, found, state), now);
                done = !order.dry_run && (obstacles.is_empty() || order.force);
                Ok::<_, RotationError>(done.then_some(after))
            });
            taken.map_err(not_active_if_fenced)?;
        }
        let report = self.report(kind, &state.kind_state(kind)?, state, now);
        let obstacles: Vec<String> = obstacles.iter().map(Obstacle::to_string).collect();
        if let (Some(wanted), true) = (&order.step, done) {
            let slots = report.iter().map(|report| &report.slot);
            info!(
                event = "audit",
                action = action(kind, wanted),
                actor_uid = actor.uid,
                asserted_by = actor.asserted_by.as_deref().unwrap_or_default(),
                authority = id,
                reason = order.reason.as_ref().map_or("", Reason::as_str),
                forced = obstacles.join("; "),
                old = before,
                new = standing(slots.into_iter().find(|slot| slot.id == id)),
            );
        }
        let sequence = state.trust().borrow().as_ref().and_then(|trust| trust.own.sequence).unwrap_or_default();
        let behind = Evidence { followers: self.propagation.followers.reached(), ..Evidence::default() };
        let behind = behind.unreached(sequence).map(|one| one.to_string()).collect();
        Ok(RotationReport { sequence, authorities: report, id, done, obstacles, behind })
    }

    fn report(
        &self,
        kind: AuthorityKind,
        found: &KindState,
        state: &TermState,
        now: Timestamp,
    ) -> Vec<AuthorityReport> {
        let evidence = self.evidence(kind, found, state);
        let slots = found.authorities.slots().iter();
        let reports = slots.map(|slot| {
            let next = match slot.phase {
                Phase::Prepared => Some(Step::Activate(slot.id.clone())),
                Phase::Active => None,
                Phase::Old => Some(Step::Revoke(slot.id.clone())),
            };
            let waits_for = next.map(|step| found.authorities.obstacles(&step, &found.handed_out, &evidence, now));
            AuthorityReport {
                slot: slot.clone(),
                last_end: found.handed_out.last_end_of(&slot.id),
                waits_for: waits_for.unwrap_or_default().iter().map(Obstacle::to_string).collect(),
            }
        });
        reports.collect()
    }

    /// ConfigMaps hold no keys of JWT-SVIDs. An agent that is cut off goes by the roots that it has for as long as its certificate
    /// lives, which is on record; how long it goes by keys of JWT-SVIDs is not.
    fn evidence(&self, kind: AuthorityKind, found: &KindState, state: &TermState) -> Evidence {
        let Propagation { followers, places, gateways, endpoint } = &self.propagation;
        let has_roots = kind == AuthorityKind::X509;
        let status = places.as_ref().filter(|_| has_roots).map(|places| places.borrow().clone());
        let gateways = gateways.as_ref().filter(|_| has_roots).zip(state.authority());
        let gateways = gateways.and_then(|(behind, authority)| behind(authority.borrow().bundle()));
        let gateways = gateways.map(|who| Reached { who, sequence: 0 });
        let prepared = found.authorities.slots().iter().find(|slot| slot.phase == Phase::Prepared);
        let offered = endpoint.as_ref().zip(prepared.zip(found.prepared_since));
        let offered = offered.map(|(offers, (slot, made))| offers.offered(slot.published_in, made, self.clock.now()));
        // whoever is asked first in a term: nobody is known to have come to this replica yet
        followers.begin_term(state.term());
        let mut reached = followers.reached();
        if kind == AuthorityKind::Jwt {
            reached.extend(followers.lost_agents());
            let may_lack_it = !state.is_first() && !found.has_reached_all;
            reached.extend(followers.lost_by_others().filter(|_| may_lack_it));
        }
        Evidence {
            followers: reached,
            places: (status.iter().flat_map(|status| places_behind(status, &published_roots(state))))
                .chain(gateways)
                .collect(),
            endpoint: offered,
        }
    }

    async fn order_by_active(&self, order: &RotationOrder, actor_uid: u32) -> Result<RotationReport, RotationError> {
        let answered = self.pair.rotate(order, actor_uid).await;
        let action = order.step.as_ref().map(|step| action(order.kind, step));
        let reason = order.reason.as_ref().map_or("", Reason::as_str);
        match (answered, action) {
            (Ok(by_active), Some(action)) => {
                let (done, authority) = (by_active.answer.done, &by_active.answer.id);
                info!(event = "audit", action, actor_uid, authority, reason, done, passed_on_to = by_active.replica);
                Ok(by_active.answer)
            }
            (Ok(by_active), None) => Ok(by_active.answer),
            (Err(error), Some(action)) => {
                info!(event = "audit", action, actor_uid, reason, passed_on_in_vain = %error);
                Err(error.into())
            }
            (Err(error), None) => Err(error.into()),
        }
    }
}

/// First tainted, then taken out: whoever still holds something of it holds nothing of use.
fn retired(authorities: &Authorities, id: &str, now: Timestamp) -> Result<Authorities, StepRefused> {
    let is_old = authorities.slot(id).is_some_and(|slot| slot.phase == Phase::Old);
    let tainted = if is_old { Some(authorities.after_by_force(&Step::Taint(id.to_owned()), now)?) } else { None };
    tainted.as_ref().unwrap_or(authorities).after_by_force(&Step::Revoke(id.to_owned()), now)
}

fn has_ended(authorities: &Authorities, now: Timestamp) -> bool {
    authorities.slots().iter().any(|slot| slot.phase == Phase::Active && slot.not_after <= now)
}

/// SHA-256 of each.
fn published_roots(state: &TermState) -> BTreeSet<[u8; 32]> {
    let trust = state.trust().borrow().clone();
    trust.iter().flat_map(|trust| &trust.own.x509_authorities).map(Certificate::fingerprint).collect()
}

/// Where not everything is right yet, nobody knows which bundle is there; nor where what was read back is of other roots than those
/// that are published by now.
fn places_behind(status: &DistributionStatus, published: &BTreeSet<[u8; 32]>) -> Vec<Reached> {
    let parts = [&status.config_maps, &status.cluster_trust_bundle].into_iter().flatten();
    let behind = parts.filter(|SpreadStatus { roots, summary, problem, .. }| {
        summary.right < summary.wanted || problem.is_some() || roots != published
    });
    let behind = behind.map(|status| Reached { who: status.to_string(), sequence: 0 });
    let unseen = || Reached { who: "the ConfigMaps, which nobody has looked at yet,".into(), sequence: 0 };
    behind.chain(status.config_maps.is_none().then(unseen)).collect()
}

/// The command, for the record.
const fn action(kind: AuthorityKind, step: &WantedStep) -> &'static str {
    match (kind, step) {
        (AuthorityKind::X509, WantedStep::Prepare) => "authority x509 prepare",
        (AuthorityKind::X509, WantedStep::Activate(_)) => "authority x509 activate",
        (AuthorityKind::X509, WantedStep::Taint(_)) => "authority x509 taint",
        (AuthorityKind::X509, WantedStep::Revoke(_)) => "authority x509 revoke",
        (AuthorityKind::Jwt, WantedStep::Prepare) => "authority jwt prepare",
        (AuthorityKind::Jwt, WantedStep::Activate(_)) => "authority jwt activate",
        (AuthorityKind::Jwt, WantedStep::Taint(_)) => "authority jwt taint",
        (AuthorityKind::Jwt, WantedStep::Revoke(_)) => "authority jwt revoke",
    }
}

/// An authority in the words of the audit line.
fn standing(slot: Option<&Slot>) -> String {
    match slot {
        Some(Slot { phase, tainted: true, .. }) => format!("{phase}, tainted"),
        Some(Slot { phase, .. }) => phase.to_string(),
        None => "not there".into(),
    }
}

fn not_active_if_fenced(error: RotationError) -> RotationError {
    if matches!(error, RotationError::State(StateError::Fenced { .. })) { OrderError::NotActive.into() } else { error }
}

#[cfg(test)]
pub(super) mod testing;
#[cfg(test)]
mod tests;
