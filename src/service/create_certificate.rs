//! The use case behind `CreateCertificate`: attest, entitle, sign here if this replica is active, else have it signed by
//! the one that is, and wait while nobody is, or while nobody can say whether the caller's proof holds.

mod attestation;
mod error;
mod server_names;

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{Semaphore, watch},
    time::{Instant, sleep_until, timeout},
};

use self::server_names::ServingNames;
pub use self::{
    error::{CreateError, ErrorKind},
    server_names::IstiodServing,
};
use super::{
    caller_attestation::{CallerAttestation, Cluster},
    leadership::Standing,
    metrics::{ForwardOutcome, Metrics, RequestOutcome},
    ports::{ForwardError, IssuanceLog, Pair, SigningRequest},
    room::{Place, Room},
    signing_session::{InSession, SigningSession},
    token_reviews::Reviewed,
    under_way::UnderWay,
};
use crate::domain::{
    attestation::{Caller, Evidence, entitled_id},
    authority::{IssuedSvid, Subject, TtlBounds, issue},
    clock::{Clock, Timestamp},
    identity::{SpiffeId, TrustDomain},
    issuance::{Issuance, IssuanceEvent},
    jwt::TokenIssuer,
    leadership::Term,
    random::SecureRandom,
    x509::{TrustBundle, VerifiedCsr},
};

/// How long a request may be held while nobody is active.
pub const HOLD_LIMIT: Duration = Duration::from_secs(10);
/// How long one attempt at the active may take.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(1);
/// How long the active waits for a review in such an attempt, so that the other replica hears what is missing.
const REVIEW_LIMIT: Duration = Duration::from_millis(800);
/// After the first attempt at an active that can't sign; doubled from one to the next. A change of who is active ends the
/// wait at once.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// What requests that are being answered take up together. The small ones are some 10,000.
const BYTES_IN_ALL: usize = 32 << 20;
/// Requests held in all.
const HELD_IN_ALL: usize = 4096;
/// Requests held for one connection.
pub const HELD_PER_CONNECTION: usize = 64;

/// What signing is governed by; fixed for the life of the process.
#[derive(Debug)]
pub struct SigningPolicy {
    /// Identities are given in this one.
    pub trust_domain: TrustDomain,
    /// Issuers of tokens.
    pub issuers: Vec<TokenIssuer>,
    /// How long SVIDs may live.
    pub ttl: TtlBounds,
    /// IDs that are never issued on request.
    pub reserved: Vec<SpiffeId>,
    /// The names of the signing API's own certificate.
    pub server_names: Vec<String>,
    /// What istiod serves as, where this authority is the mesh's only one.
    pub istiod: Option<IstiodServing>,
    /// How this process signs its records.
    pub replica: String,
}

/// The use case. Cheap to share.
pub struct CreateCertificate {
    callers: CallerAttestation,
    ttl: TtlBounds,
    serving: ServingNames,
    session: watch::Receiver<Option<Arc<SigningSession>>>,
    log: Arc<dyn IssuanceLog>,
    pair: Arc<dyn Pair>,
    standing: watch::Receiver<Standing>,
    clock: Arc<dyn Clock>,
    random: Arc<dyn SecureRandom>,
    held: Semaphore,
    /// Whatever waits for a review, another replica or the log is in here.
    room: Room,
    /// Requests that are being answered to a caller.
    answering: UnderWay,
    metrics: Arc<Metrics>,
}

/// What [`CreateCertificate`] works with.
pub struct Parts {
    /// The rules.
    pub policy: SigningPolicy,
    /// The cluster that this replica runs in, if it runs in one.
    pub cluster: Option<Cluster>,
    /// Whether this replica may sign, and as which authority.
    pub session: watch::Receiver<Option<Arc<SigningSession>>>,
    /// What client certificates are verified against, as far as this replica knows it.
    pub bundle: watch::Receiver<Option<Arc<TrustBundle>>>,
    /// Where each signature goes on record.
    pub log: Arc<dyn IssuanceLog>,
    /// The other replicas.
    pub pair: Arc<dyn Pair>,
    /// What keeps this replica from being active, if anything does.
    pub standing: watch::Receiver<Standing>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Serial numbers.
    pub random: Arc<dyn SecureRandom>,
    /// Where outcomes are counted.
    pub metrics: Arc<Metrics>,
}

impl CreateCertificate {
    /// The use case over its ports.
    pub fn new(parts: Parts) -> Self {
        let Parts { policy, cluster, session, bundle, log, pair, standing, clock, random, metrics } = parts;
        let SigningPolicy { trust_domain, issuers, ttl, reserved, server_names, istiod, replica } = policy;
        let attested_at = Arc::clone(&clock);
        Self {
            callers: CallerAttestation {
                trust_domain,
                issuers,
                reserved,
                cluster,
                bundle,
                replica,
                clock: attested_at,
            },
            ttl,
            serving: ServingNames { own: server_names, istiod },
            session,
            log,
            pair,
            standing,
            clock,
            random,
            held: Semaphore::new(HELD_IN_ALL),
            room: Room::new(BYTES_IN_ALL),
            answering: UnderWay::default(),
            metrics,
        }
    }

    /// Answers a caller of this replica: the PEM elements of the chain, root last. `held_here` bounds what one connection
    /// may have waiting.
    ///
    /// # Errors
    ///
    /// When the caller is refused, or nobody could sign within [`HOLD_LIMIT`].
    pub async fn answer(
        &self,
        request: &SigningRequest,
        evidence: &Evidence,
        held_here: &Semaphore,
    ) -> Result<Vec<String>, CreateError> {
        let _answering = self.answering.begin();
        let answer = self.answered(request, evidence, held_here).await;
        self.metrics.request_ended(answer.as_ref().map_or_else(CreateError::outcome, |_| RequestOutcome::Issued));
        answer
    }

    async fn answered(
        &self,
        request: &SigningRequest,
        evidence: &Evidence,
        held_here: &Semaphore,
    ) -> Result<Vec<String>, CreateError> {
        let _room = self.room_for(request, evidence)?;
        let begun = Instant::now();
        match self.sign_here(request, evidence, &self.callers.replica, begun + HOLD_LIMIT).await {
            Err(CreateError::NotActive) => {
                self.refuse_early(request, evidence)?;
                // an active that answers is no reason to count a request as waiting
                match self.forward(request, evidence, ATTEMPT_LIMIT).await {
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
        self.answer_when_possible(request, evidence, begun).await
    }

    /// Signs for another replica's caller, or says that this one is not active. Never forwards again.
    ///
    /// # Errors
    ///
    /// When the caller is refused, signing fails, it can't be decided now whether the caller's proof holds, or this replica is
    /// not active.
    pub async fn answer_forwarded(
        &self,
        request: &SigningRequest,
        evidence: &Evidence,
        replica: &str,
    ) -> Result<Vec<String>, CreateError> {
        let _room = self.room_for(request, evidence)?;
        self.sign_here(request, evidence, replica, Instant::now() + REVIEW_LIMIT).await
    }

    /// Taken before anybody has looked at the proof: who has none can't make this process hold more either. What replicas ask
    /// for themselves is little, and needed whatever callers do.
    fn room_for(&self, request: &SigningRequest, evidence: &Evidence) -> Result<Option<Place>, CreateError> {
        if evidence.own.is_some() {
            return Ok(None);
        }
        let token = evidence.token.as_ref().map_or(0, |token| token.len());
        let bytes = [request.csr.len(), request.impersonated.len(), token, evidence.cluster.len()];
        let bytes = bytes.into_iter().fold(0, usize::saturating_add);
        self.room.place(bytes, evidence.source).ok_or(CreateError::Busy).map(Some)
    }

    /// Requests that are being answered to callers.
    pub const fn under_way(&self) -> &UnderWay {
        &self.answering
    }

    /// The term that this replica may sign in now.
    pub fn active_term(&self) -> Option<Term> {
        self.session.borrow().as_ref().filter(|session| session.covers(self.clock.boot())).map(|session| session.term())
    }

    /// How this process signs its records.
    pub fn replica(&self) -> &str {
        &self.callers.replica
    }

    /// Tries again and again, here or at whoever is active.
    async fn answer_when_possible(
        &self,
        request: &SigningRequest,
        evidence: &Evidence,
        begun: Instant,
    ) -> Result<Vec<String>, CreateError> {
        let deadline = begun + HOLD_LIMIT;
        let (mut session, mut active) = (self.session.clone(), self.pair.active());
        let mut pause = FIRST_PAUSE;
        let mut last = String::from("no replica is active");
        while Instant::now() < deadline {
            session.mark_unchanged();
            active.mark_unchanged();
            let attempt = match self.sign_here(request, evidence, &self.callers.replica, deadline).await {
                Err(CreateError::NotActive) => {
                    self.forward(request, evidence, ATTEMPT_LIMIT.min(deadline - Instant::now())).await
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
    async fn forward(
        &self,
        request: &SigningRequest,
        evidence: &Evidence,
        limit: Duration,
    ) -> Result<Vec<String>, CreateError> {
        let forwarded = timeout(limit, self.pair.forward(request, evidence)).await;
        let answered = matches!(forwarded, Ok(Ok(_) | Err(ForwardError::Refused { .. })));
        self.metrics.forwarded(if answered { ForwardOutcome::Answered } else { ForwardOutcome::Failed });
        match forwarded {
            Ok(Ok(chain)) => Ok(chain),
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
    async fn sign_here(
        &self,
        request: &SigningRequest,
        evidence: &Evidence,
        replica: &str,
        deadline: Instant,
    ) -> Result<Vec<String>, CreateError> {
        let reviewed = match &self.callers.cluster {
            Some(cluster) if self.active_term().is_some() => self.review(cluster, evidence, replica, deadline).await,
            _ => None,
        };
        let session = self.entered().ok_or(CreateError::NotActive)?;
        self.sign(&session, request, evidence, reviewed.as_ref(), replica).await
    }

    async fn sign(
        &self,
        session: &InSession,
        request: &SigningRequest,
        evidence: &Evidence,
        reviewed: Option<&Reviewed>,
        replica: &str,
    ) -> Result<Vec<String>, CreateError> {
        let denied = session.denied();
        let caller = self.callers.attest(evidence, replica, Some(&denied), reviewed)?;
        let id = entitled_id(&caller, &request.impersonated, &self.callers.reserved, &denied)?;
        let csr = VerifiedCsr::from_pem(request.csr.as_bytes())?;
        let signed_at = self.clock.now();
        if !session.covers(self.clock.boot()) {
            // stopped for a while since it entered: the instant on record must lie inside the term
            return Err(CreateError::NotActive);
        }
        let authority = session.authority();
        let server_names = self.serving.names_beside(&caller)?;
        let subject = Subject { id: &id, server_names };
        let issued = issue(&authority, &csr, subject, request.ttl_seconds, &self.ttl, signed_at, self.random.as_ref())?;
        let issuance = self.issuance(session.term(), &issued, id, signed_at, caller, authority.id());
        let serial = issuance.serial.clone();
        self.log.append(IssuanceEvent::Issued(issuance)).await?;
        if !session.covers(self.clock.boot()) {
            // on record, so it must be marked; whoever is active now signs another one
            self.log.append(IssuanceEvent::Withheld { serial, term: session.term() }).await?;
            self.metrics.request_ended(RequestOutcome::Withheld);
            return Err(CreateError::NotActive);
        }
        Ok(issued.response_chain(&authority))
    }

    fn issuance(
        &self,
        term: Term,
        issued: &IssuedSvid,
        id: SpiffeId,
        signed_at: Timestamp,
        caller: Caller,
        authority: &str,
    ) -> Issuance {
        Issuance {
            signed_at,
            term,
            replica: self.callers.replica.clone(),
            authority: authority.to_owned(),
            id,
            serial: issued.leaf.serial().to_string(),
            not_before: issued.leaf.not_before(),
            not_after: issued.leaf.not_after(),
            proof: caller.proof,
        }
    }
}

#[cfg(test)]
mod cluster_tests;
#[cfg(test)]
mod tests;
