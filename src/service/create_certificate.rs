//! The use case behind `CreateCertificate`: attest, entitle, sign here if this replica is active, else have it signed by
//! the one that is, and wait while nobody is, or while nobody can say whether the caller's proof holds.

mod answering;
mod asked;
mod attestation;
mod error;
mod server_names;

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{Semaphore, watch},
    time::Instant,
};
use tracing::{info, warn};

pub(super) use self::asked::Asked;
use self::{asked::CertificateAsked, server_names::ServingNames};
pub use self::{
    error::{CreateError, ErrorKind},
    server_names::IstiodServing,
};
use super::{
    caller_attestation::{CallerAttestation, Cluster},
    leadership::Standing,
    metrics::{Metrics, RequestOutcome},
    ports::{IssuanceLog, Pair, SigningRequest},
    room::Room,
    signing_session::{InSession, SigningSession},
    under_way::UnderWay,
};
use crate::domain::{
    attestation::{Caller, Evidence},
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
        let begun = Instant::now();
        let answer = self.answer_asked(&self.asked(request), evidence, held_here).await;
        self.metrics.request_took(begun.elapsed());
        self.metrics.request_ended(answer.as_ref().map_or_else(CreateError::outcome, |_| RequestOutcome::Issued));
        answer
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
        self.answer_asked_forwarded(&self.asked(request), evidence, replica).await
    }

    const fn asked<'a>(&'a self, request: &'a SigningRequest) -> CertificateAsked<'a> {
        CertificateAsked { create: self, request }
    }

    /// Requests that are being answered to callers.
    pub const fn under_way(&self) -> &UnderWay {
        &self.answering
    }

    /// The term that this replica may sign in now.
    pub fn active_term(&self) -> Option<Term> {
        self.session.borrow().as_ref().filter(|session| session.covers(self.clock.boot())).map(|session| session.term())
    }

    pub(super) const fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    pub(super) const fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// What tokens that prove an identity here are for.
    pub(super) fn proof_audiences(&self) -> Vec<String> {
        let of_issuers = self.callers.issuers.iter().flat_map(|issuer| &issuer.rules().audiences);
        let of_cluster = self.callers.cluster.iter().flat_map(|cluster| &cluster.reviews.rules().audiences);
        of_issuers.chain(of_cluster).cloned().collect()
    }

    /// How this process signs its records.
    pub fn replica(&self) -> &str {
        &self.callers.replica
    }

    /// Signs for `caller`, who may have `id`.
    async fn sign(
        &self,
        session: &InSession,
        request: &SigningRequest,
        caller: Caller,
        id: SpiffeId,
    ) -> Result<Vec<String>, CreateError> {
        let begun = Instant::now();
        let csr = VerifiedCsr::from_pem(request.csr.as_bytes())?;
        let signed_at = self.clock.now();
        if !session.covers(self.clock.boot()) {
            // stopped for a while since it entered: the instant on record must lie inside the term
            return Err(CreateError::NotActive);
        }
        let sequence = session.sequence();
        let authority = session.authority().ok_or(CreateError::NoAuthority)?;
        let server_names = self.serving.names_beside(&caller)?;
        let subject = Subject { id: &id, server_names };
        let issued = issue(&authority, &csr, subject, request.ttl_seconds, &self.ttl, signed_at, self.random.as_ref())?;
        let not_after = issued.leaf.not_after();
        session.record_handed_out(authority.id(), sequence, not_after, signed_at).await?;
        let issuance = self.issuance(session.term(), &issued, id, signed_at, caller, authority.id());
        self.log.append(IssuanceEvent::Issued(issuance.clone())).await?;
        self.metrics.signing_took(begun.elapsed());
        let Issuance { id, serial, not_after, proof, authority: key, term, replica, .. } = issuance;
        if !session.covers(self.clock.boot()) {
            // on record, so it must be marked; whoever is active now signs another one
            warn!(event = "certificate_withheld", %id, %serial, term = term.number(), replica);
            self.log.append(IssuanceEvent::Withheld { serial, term }).await?;
            self.metrics.request_ended(RequestOutcome::Withheld);
            return Err(CreateError::NotActive);
        }
        // outlives the issuance log of a replica whose data directory goes with its pod
        info!(event = "certificate_issued", %id, %serial, %not_after, %proof, authority = key, term = term.number(), replica);
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
pub(in crate::service) mod tests;
