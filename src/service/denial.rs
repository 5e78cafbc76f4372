//! What operators deny, changed on the active: durable before it is in effect, in effect before it is answered. Any replica
//! takes their orders; one that is not active passes them on, once.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::{sync::watch, task::spawn_blocking};
use tracing::info;

use super::{
    ports::{ByActive, DenialChange, OperatorOfActive, OrderError, StateError},
    signing_session::{InSession, SigningSession},
    signing_state::{ChangeError, SigningState},
};
use crate::domain::{
    attestation::{Denial, Denied, DeniedSubject, Reason},
    clock::{Clock, Timestamp},
    identity::{ServiceAccount, SpiffeId, TrustDomain},
};

/// The use case. A change that has begun is brought to its end, also if nobody waits for the answer any more.
pub struct IssuanceDenial {
    session: watch::Receiver<Option<Arc<SigningSession>>>,
    state: Arc<SigningState>,
    pair: Arc<dyn OperatorOfActive>,
    trust_domain: TrustDomain,
    clock: Arc<dyn Clock>,
    /// Held over a change of the state and of the session, so that both see changes in one order.
    changing: Arc<Mutex<()>>,
}

/// Why nothing was changed or listed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DenialError {
    /// No active replica has decided on it, or another one did.
    #[error(transparent)]
    Order(#[from] OrderError),
    /// To deny it would have no effect.
    #[error("{0} is never issued here: identities have the form spiffe://{1}/ns/NAMESPACE/sa/ACCOUNT")]
    NeverIssued(SpiffeId, TrustDomain),
    /// There is nothing to take back.
    #[error("{0} is not denied: `countersign issuance denied` lists what is")]
    NotDenied(DeniedSubject),
    /// There is no room, or the state can't be used.
    #[error(transparent)]
    Change(#[from] ChangeError),
}

/// Who gave an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor {
    /// The effective UID of the process that asked.
    pub uid: u32,
    /// The replica that was asked and passed the order on: the UID is its word. `None` if this one was asked.
    pub asserted_by: Option<String>,
}

impl IssuanceDenial {
    /// Changes `state` while `session` lasts, for identities of `trust_domain`; otherwise has `pair` do it.
    pub fn new(
        session: watch::Receiver<Option<Arc<SigningSession>>>,
        state: Arc<SigningState>,
        pair: Arc<dyn OperatorOfActive>,
        trust_domain: TrustDomain,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self { session, state, pair, trust_domain, clock, changing: Arc::default() }
    }

    /// Denies a subject, or takes a denial back: here if this replica is active, else by the one that is, unless another one
    /// has passed the order on already. Returns the denial that was there before.
    ///
    /// # Errors
    ///
    /// When nobody is active, the subject is an ID that is never issued or not denied, or the state can't be written.
    pub async fn change(&self, change: DenialChange, actor: Actor) -> Result<Option<Denial>, DenialError> {
        if let DenialChange::Deny { subject: DeniedSubject::Identity(id), .. } = &change
            && (*id.trust_domain() != self.trust_domain || ServiceAccount::of(id).is_none())
        {
            return Err(DenialError::NeverIssued(id.clone(), self.trust_domain.clone()));
        }
        let here = match self.entered() {
            Ok(session) => self.change_here(session, change.clone(), actor.clone()).await,
            Err(error) => Err(error),
        };
        match here {
            Err(DenialError::Order(OrderError::NotActive)) if actor.asserted_by.is_none() => {
                self.change_by_active(&change, actor.uid).await
            }
            decided => decided,
        }
    }

    /// All that is denied, if this replica is active.
    ///
    /// # Errors
    ///
    /// When it is not.
    pub fn denied(&self) -> Result<Arc<Denied>, DenialError> {
        Ok(self.entered()?.denied())
    }

    /// All that is denied, from whichever replica is active.
    ///
    /// # Errors
    ///
    /// When none is, or it can't be reached.
    pub async fn denied_here_or_by_active(&self) -> Result<Arc<Denied>, DenialError> {
        match self.denied() {
            Ok(denied) => Ok(denied),
            Err(_not_active) => Ok(Arc::new(self.pair.denied().await?.answer)),
        }
    }

    async fn change_here(
        &self,
        session: InSession,
        change: DenialChange,
        actor: Actor,
    ) -> Result<Option<Denial>, DenialError> {
        let since = Timestamp::from_seconds(self.clock.now().seconds());
        let (state, changing) = (Arc::clone(&self.state), Arc::clone(&self.changing));
        let changed = spawn_blocking(move || {
            let _one_at_a_time = changing.lock().unwrap_or_else(PoisonError::into_inner);
            carry_out(&change, &actor, since, &session, &state)
        });
        changed.await.map_err(|error| ChangeError::State(StateError::Io(error.to_string())))?
    }

    async fn change_by_active(&self, change: &DenialChange, actor_uid: u32) -> Result<Option<Denial>, DenialError> {
        let changed = self.pair.change_denied(change, actor_uid).await;
        let (action, subject) = (change.action(), change.subject());
        let reason = change.reason().map_or("", Reason::as_str);
        match changed {
            Ok(ByActive { answer, replica }) => {
                let old = entry(answer.as_ref());
                info!(event = "audit", action, actor_uid, %subject, reason, old, passed_on_to = replica);
                Ok(answer)
            }
            Err(error) => {
                info!(event = "audit", action, actor_uid, %subject, reason, passed_on_in_vain = %error);
                Err(error.into())
            }
        }
    }

    fn entered(&self) -> Result<InSession, DenialError> {
        let session = self.session.borrow().clone();
        session.and_then(|session| session.enter(self.clock.boot())).ok_or(OrderError::NotActive.into())
    }
}

fn carry_out(
    change: &DenialChange,
    actor: &Actor,
    since: Timestamp,
    session: &SigningSession,
    state: &SigningState,
) -> Result<Option<Denial>, DenialError> {
    let subject = change.subject();
    let new = match change {
        DenialChange::Deny { reason, .. } => Some(Denial { reason: reason.clone(), since, actor_uid: actor.uid }),
        DenialChange::Allow { .. } if session.denied().entry(subject).is_none() => {
            return Err(DenialError::NotDenied(subject.clone()));
        }
        DenialChange::Allow { .. } => None,
    };
    let mut old = None;
    let denied = state.change_denied(session.term(), |denied| {
        old = match &new {
            Some(denial) => denied.deny(subject.clone(), denial.clone()),
            None => denied.allow(subject),
        };
    });
    session.set_denied(denied.map_err(|error| {
        let fenced = matches!(error, ChangeError::State(StateError::Fenced { .. }));
        if fenced { OrderError::NotActive.into() } else { DenialError::Change(error) }
    })?);
    info!(
        event = "audit",
        action = change.action(),
        actor_uid = actor.uid,
        asserted_by = actor.asserted_by.as_deref().unwrap_or_default(),
        %subject,
        reason = change.reason().map_or("", Reason::as_str),
        old = entry(old.as_ref()),
        new = entry(new.as_ref()),
    );
    Ok(old)
}

/// An entry in the words of the audit line.
fn entry(denial: Option<&Denial>) -> String {
    match denial {
        Some(Denial { reason, since, actor_uid }) => format!("denied since {since} by uid {actor_uid}: {reason}"),
        None => "not denied".into(),
    }
}
