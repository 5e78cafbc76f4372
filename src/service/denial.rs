//! What operators deny, changed on the active: durable before it is in effect, in effect before it is answered.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::{sync::watch, task::spawn_blocking};
use tracing::info;

use super::{
    ports::StateError,
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
    trust_domain: TrustDomain,
    clock: Arc<dyn Clock>,
    /// Held over a change of the state and of the session, so that both see changes in one order.
    changing: Arc<Mutex<()>>,
}

/// Why nothing was changed or listed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DenialError {
    /// Another replica may be.
    #[error("this replica is not active: run the command again when one is")]
    NotActive,
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

impl IssuanceDenial {
    /// Changes `state` while `session` lasts, for identities of `trust_domain`.
    pub fn new(
        session: watch::Receiver<Option<Arc<SigningSession>>>,
        state: Arc<SigningState>,
        trust_domain: TrustDomain,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self { session, state, trust_domain, clock, changing: Arc::default() }
    }

    /// Denies a subject in the name of the user `actor_uid`. Returns the denial that was there before.
    ///
    /// # Errors
    ///
    /// When this replica is not active, the subject is an ID that is never issued, or the state can't be written.
    pub async fn deny(
        &self,
        subject: DeniedSubject,
        reason: Reason,
        actor_uid: u32,
    ) -> Result<Option<Denial>, DenialError> {
        if let DeniedSubject::Identity(id) = &subject
            && (*id.trust_domain() != self.trust_domain || ServiceAccount::of(id).is_none())
        {
            return Err(DenialError::NeverIssued(id.clone(), self.trust_domain.clone()));
        }
        let since = Timestamp::from_seconds(self.clock.now().seconds());
        let new = Denial { reason: reason.clone(), since, actor_uid };
        self.change(Order { action: "issuance deny", actor_uid, subject, reason: Some(reason), new: Some(new) }).await
    }

    /// Takes a denial back. Returns it.
    ///
    /// # Errors
    ///
    /// When this replica is not active, the subject is not denied, or the state can't be written.
    pub async fn allow(
        &self,
        subject: DeniedSubject,
        reason: Option<Reason>,
        actor_uid: u32,
    ) -> Result<Option<Denial>, DenialError> {
        self.change(Order { action: "issuance allow", actor_uid, subject, reason, new: None }).await
    }

    /// All that is denied.
    ///
    /// # Errors
    ///
    /// When this replica is not active.
    pub fn denied(&self) -> Result<Arc<Denied>, DenialError> {
        Ok(self.entered()?.denied())
    }

    async fn change(&self, order: Order) -> Result<Option<Denial>, DenialError> {
        let session = self.entered()?;
        let (state, changing) = (Arc::clone(&self.state), Arc::clone(&self.changing));
        let changed = spawn_blocking(move || {
            let _one_at_a_time = changing.lock().unwrap_or_else(PoisonError::into_inner);
            order.carry_out(&session, &state)
        });
        changed.await.map_err(|error| ChangeError::State(StateError::Io(error.to_string())))?
    }

    fn entered(&self) -> Result<InSession, DenialError> {
        let session = self.session.borrow().clone();
        session.and_then(|session| session.enter(self.clock.boot())).ok_or(DenialError::NotActive)
    }
}

/// What an operator wants.
struct Order {
    action: &'static str,
    actor_uid: u32,
    subject: DeniedSubject,
    reason: Option<Reason>,
    /// The entry that is to be there; `None` if there is to be none.
    new: Option<Denial>,
}

impl Order {
    fn carry_out(self, session: &SigningSession, state: &SigningState) -> Result<Option<Denial>, DenialError> {
        let Self { action, actor_uid, subject, reason, new } = self;
        if new.is_none() && session.denied().entry(&subject).is_none() {
            return Err(DenialError::NotDenied(subject));
        }
        let mut old = None;
        let denied = state.change_denied(session.term(), |denied| {
            old = match &new {
                Some(denial) => denied.deny(subject.clone(), denial.clone()),
                None => denied.allow(&subject),
            };
        });
        session.set_denied(denied.map_err(|error| {
            let fenced = matches!(error, ChangeError::State(StateError::Fenced { .. }));
            if fenced { DenialError::NotActive } else { DenialError::Change(error) }
        })?);
        let reason = reason.as_ref().map_or("", Reason::as_str);
        info!(event = "audit", action, actor_uid, %subject, reason, old = entry(old.as_ref()), new = entry(new.as_ref()));
        Ok(old)
    }
}

/// An entry in the words of the audit line.
fn entry(denial: Option<&Denial>) -> String {
    match denial {
        Some(Denial { reason, since, actor_uid }) => format!("denied since {since} by uid {actor_uid}: {reason}"),
        None => "not denied".into(),
    }
}
