//! How whatever callers ask for is answered: here, by the active, or once somebody is active.

use std::time::Duration;

use tokio::{
    sync::Semaphore,
    time::{Instant, sleep_until, timeout},
};
use tracing::{Instrument as _, Span, info_span};

use super::{Asked, CreateCertificate, CreateError, HOLD_LIMIT};
use crate::{
    domain::attestation::Evidence,
    service::{
        metrics::ForwardOutcome,
        ports::ForwardError,
        room::Place,
        signing_session::InSession,
        spans::{noted, step},
    },
};

/// How long one attempt at the active may take.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(1);
/// How long the active waits for a review in such an attempt, so that the other replica hears what is missing.
const REVIEW_LIMIT: Duration = Duration::from_millis(800);
/// After the first attempt at an active that can't sign; doubled from one to the next. A change of who is active ends the
/// wait at once.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

impl CreateCertificate {
    /// Answers a caller of this replica, as [`answer`](Self::answer) does.
    ///
    /// # Errors
    ///
    /// When the caller is refused, or nobody could sign within [`HOLD_LIMIT`].
    pub(in crate::service) async fn answer_asked<A: Asked>(
        &self,
        asked: &A,
        evidence: &Evidence,
        held_here: &Semaphore,
    ) -> Result<A::Answer, CreateError> {
        let _answering = self.answering.begin();
        let _room = self.room_for(asked, evidence)?;
        let begun = Instant::now();
        match self.sign_here(asked, evidence, &self.callers.replica, begun + HOLD_LIMIT).await {
            Err(CreateError::NotActive) => {
                self.refuse_early(asked, evidence)?;
                // an active that answers is no reason to count a request as waiting
                match self.forward(asked, evidence, ATTEMPT_LIMIT).await {
                    Err(CreateError::NoAnswer(_)) => {}
                    answer => return answer,
                }
            }
            Err(CreateError::Undecided(_)) => {}
            answer => return answer,
        }
        let _held_in_all = self.held.try_acquire().map_err(|_full| CreateError::Overloaded)?;
        let _held_for_connection = held_here.try_acquire().map_err(|_full| CreateError::Overloaded)?;
        let _counted = self.metrics.hold();
        self.answer_when_possible(asked, evidence, begun).instrument(info_span!("hold")).await
    }

    /// Signs for another replica's caller, or says that this one is not active. Never forwards again.
    ///
    /// # Errors
    ///
    /// When the caller is refused, signing fails, it can't be decided now whether the caller's proof holds, or this replica is
    /// not active.
    pub(in crate::service) async fn answer_asked_forwarded<A: Asked>(
        &self,
        asked: &A,
        evidence: &Evidence,
        replica: &str,
    ) -> Result<A::Answer, CreateError> {
        let _room = self.room_for(asked, evidence)?;
        self.sign_here(asked, evidence, replica, Instant::now() + REVIEW_LIMIT).await
    }

    /// Taken before anybody has looked at the proof: who has none can't make this process hold more either. What replicas ask
    /// for themselves is little, and needed whatever callers do.
    fn room_for(&self, asked: &impl Asked, evidence: &Evidence) -> Result<Option<Place>, CreateError> {
        if evidence.own.is_some() {
            return Ok(None);
        }
        let token = evidence.token.as_ref().map_or(0, |token| token.len());
        let bytes = [asked.bytes(), token, evidence.cluster.len()];
        let bytes = bytes.into_iter().fold(0, usize::saturating_add);
        self.room.place(bytes, evidence.source).ok_or(CreateError::Busy).map(Some)
    }

    /// Tries again and again, here or at whoever is active.
    async fn answer_when_possible<A: Asked>(
        &self,
        asked: &A,
        evidence: &Evidence,
        begun: Instant,
    ) -> Result<A::Answer, CreateError> {
        let deadline = begun + HOLD_LIMIT;
        let (mut session, mut active) = (self.session.clone(), self.pair.active());
        let mut pause = FIRST_PAUSE;
        let mut last = String::from("no replica is active");
        while Instant::now() < deadline {
            session.mark_unchanged();
            active.mark_unchanged();
            let attempt = match self.sign_here(asked, evidence, &self.callers.replica, deadline).await {
                Err(CreateError::NotActive) => {
                    self.forward(asked, evidence, ATTEMPT_LIMIT.min(deadline - Instant::now())).await
                }
                answer => answer,
            };
            match attempt {
                Err(CreateError::NoAnswer(reason)) => last = reason,
                Err(error @ CreateError::Undecided(_)) => last = error.to_string(),
                answer => return answer,
            }
            let next = deadline.min(Instant::now() + pause);
            pause = (pause * 2).min(LONGEST_PAUSE);
            tokio::select! {
                () = sleep_until(next) => {}
                Ok(()) = session.changed() => {}
                Ok(()) = active.changed() => {}
            }
        }
        if let Some(trouble) = &self.standing.borrow().trouble {
            last = format!("{last}; here: {trouble}");
        }
        Err(CreateError::Unavailable { waited: HOLD_LIMIT, last })
    }

    /// One attempt at the active.
    async fn forward<A: Asked>(
        &self,
        asked: &A,
        evidence: &Evidence,
        limit: Duration,
    ) -> Result<A::Answer, CreateError> {
        let forwarded = timeout(limit, asked.forward(self.pair.as_ref(), evidence)).await;
        let answered = matches!(forwarded, Ok(Ok(_) | Err(ForwardError::Refused { .. })));
        self.metrics.forwarded(if answered { ForwardOutcome::Answered } else { ForwardOutcome::Failed });
        match forwarded {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(ForwardError::Refused { code, message })) => Err(CreateError::ByActive { code, message }),
            Ok(Err(ForwardError::NoActive(reason))) => Err(CreateError::NoAnswer(reason)),
            Err(_elapsed) => {
                Err(CreateError::NoAnswer(format!("the active replica did not answer within {ATTEMPT_LIMIT:?}")))
            }
        }
    }

    fn entered(&self) -> Option<InSession> {
        self.session.borrow().as_ref()?.enter(self.clock.boot())
    }

    /// Signs if this replica is active. A review that the caller's token needs is waited for at most until `deadline`, and
    /// outside the session, whose end waits for those inside.
    async fn sign_here<A: Asked>(
        &self,
        asked: &A,
        evidence: &Evidence,
        replica: &str,
        deadline: Instant,
    ) -> Result<A::Answer, CreateError> {
        let is_active = self.active_term().is_some();
        let attestation = if is_active { step!("attestation") } else { Span::none() };
        let reviewed = match &self.callers.cluster {
            Some(cluster) if is_active => {
                self.review(cluster, evidence, replica, deadline).instrument(attestation.clone()).await
            }
            _ => None,
        };
        let session = self.entered().ok_or(CreateError::NotActive)?;
        let denied = session.denied();
        let attest = || self.callers.attest(evidence, replica, Some(&denied), reviewed.as_ref());
        let caller = noted(&attestation, attestation.in_scope(attest))?;
        drop(attestation);
        let entitlement = step!("entitlement");
        let id = noted(&entitlement, asked.entitled(&caller, &self.callers.reserved, &denied))?;
        drop(entitlement);
        let signing = step!("signing", spiffe_id = %id);
        let signed = asked.sign(&session, caller, id).instrument(signing.clone()).await;
        noted(&signing, signed)
    }
}
