//! The use case behind `JwtService.Mint`: a JWT-SVID for the identity of the caller's proof. Attesting, passing on to the active,
//! waiting and the bounds of all that are those of certificates. A JWT-SVID stands in no issuance log: it lives for minutes; who
//! got one is said in a log line, without the token.

use std::{sync::Arc, time::Duration};

use tokio::sync::Semaphore;
use tracing::{info, warn};

use super::{
    create_certificate::{Asked, CreateCertificate, CreateError},
    metrics::{Metrics, RequestOutcome},
    ports::{BoxFuture, ForwardError, JwtMinter, JwtSvidRequest, MintedJwtSvid, NotMinted, Pair, SignError},
    signing_session::InSession,
};
use crate::domain::{
    attestation::{Caller, Denied, EntitlementError, Evidence, OwnIdentity, Proof, entitled_id},
    clock::Clock,
    identity::SpiffeId,
    jwt::{Audiences, PROOF_AUDIENCE},
};

/// The use case.
pub struct MintJwtSvid {
    create: Arc<CreateCertificate>,
    /// Of each one that asks for none, and the longest.
    lifetime: Duration,
    /// What tokens that prove an identity here are for.
    of_proofs: Vec<String>,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
}

impl MintJwtSvid {
    /// Mints in the way of `create`, for `lifetime` at most: whole seconds.
    pub fn new(create: Arc<CreateCertificate>, lifetime: Duration) -> Self {
        let (clock, metrics) = (Arc::clone(create.clock()), Arc::clone(create.metrics()));
        let mut of_proofs = create.proof_audiences();
        // whatever is configured: the mesh takes such a token
        of_proofs.push(PROOF_AUDIENCE.to_owned());
        Self { create, lifetime, of_proofs, clock, metrics }
    }

    /// Answers a caller of this replica. `held_here` bounds what one connection may have waiting.
    ///
    /// # Errors
    ///
    /// When the caller is refused, or nobody could sign in time.
    pub async fn answer(
        &self,
        request: &JwtSvidRequest,
        evidence: &Evidence,
        held_here: &Semaphore,
    ) -> Result<MintedJwtSvid, CreateError> {
        let answer = self.create.answer_asked(&JwtSvidAsked { mint: self, request }, evidence, held_here).await;
        self.metrics.jwt_svid_ended(answer.as_ref().map_or_else(CreateError::outcome, |_| RequestOutcome::Issued));
        answer
    }

    /// Mints for another replica's caller, or says that this one is not active. Never forwards again.
    ///
    /// # Errors
    ///
    /// When the caller is refused, signing fails, it can't be decided now whether the caller's proof holds, or this replica is
    /// not active.
    pub async fn answer_forwarded(
        &self,
        request: &JwtSvidRequest,
        evidence: &Evidence,
        replica: &str,
    ) -> Result<MintedJwtSvid, CreateError> {
        self.create.answer_asked_forwarded(&JwtSvidAsked { mint: self, request }, evidence, replica).await
    }

    fn lifetime_of(&self, request: &JwtSvidRequest) -> Result<Duration, CreateError> {
        let asked = request.lifetime.unwrap_or(self.lifetime);
        if asked > self.lifetime { Err(CreateError::Lifetime { asked, most: self.lifetime }) } else { Ok(asked) }
    }
}

struct JwtSvidAsked<'a> {
    mint: &'a MintJwtSvid,
    request: &'a JwtSvidRequest,
}

impl Asked for JwtSvidAsked<'_> {
    type Answer = MintedJwtSvid;

    fn bytes(&self) -> usize {
        self.request.audiences.bytes()
    }

    /// Replicas speak by their own certificates, never by tokens.
    fn entitled(&self, caller: &Caller, reserved: &[SpiffeId], denied: &Denied) -> Result<SpiffeId, CreateError> {
        let id = entitled_id(caller, "", reserved, denied)?;
        if let Proof::Serving { .. } | Proof::Istiod { .. } | Proof::GatewaySecret { .. } = &caller.proof {
            return Err(EntitlementError::Reserved(id).into());
        }
        match &self.request.id {
            Some(other) if *other != id => {
                Err(EntitlementError::Impersonation { caller: id, requested: other.to_string() }.into())
            }
            _ => Ok(id),
        }
    }

    fn check(&self) -> Result<(), CreateError> {
        self.request.audiences.other_than(&self.mint.of_proofs)?;
        self.mint.lifetime_of(self.request)?;
        Ok(())
    }

    async fn sign(&self, session: &InSession, caller: Caller, id: SpiffeId) -> Result<MintedJwtSvid, CreateError> {
        self.check()?;
        let MintJwtSvid { clock, metrics, create, .. } = self.mint;
        let lifetime = self.mint.lifetime_of(self.request)?;
        let signed_at = clock.now();
        if !session.covers(clock.boot()) {
            return Err(CreateError::NotActive);
        }
        let (signer, audiences) = (session.jwt_signer().ok_or(CreateError::NoJwtKey)?, &self.request.audiences);
        let token = signer.mint(&id, audiences.as_slice(), signed_at, lifetime)?;
        let (term, replica, key) = (session.term(), create.replica(), signer.key_id());
        let (proof, expires) = (&caller.proof, signed_at.plus(lifetime).min(signer.not_after()));
        if !session.covers(clock.boot()) {
            // signed, but whoever is active now signs another one
            warn!(event = "jwt_svid_withheld", %id, %audiences, key, term = term.number(), replica);
            metrics.jwt_svid_ended(RequestOutcome::Withheld);
            return Err(CreateError::NotActive);
        }
        info!(event = "jwt_svid_minted", %id, %audiences, %proof, key, %expires, term = term.number(), replica);
        Ok(MintedJwtSvid { token, id })
    }

    fn forward<'a>(
        &'a self,
        pair: &'a dyn Pair,
        evidence: &'a Evidence,
    ) -> BoxFuture<'a, Result<MintedJwtSvid, ForwardError>> {
        pair.forward_mint(self.request, evidence)
    }
}

/// The pair as it mints for the workload of one of its own replicas' sockets.
pub struct OwnMinter {
    mint: Arc<MintJwtSvid>,
    own: OwnIdentity,
    held: Semaphore,
}

/// As the active says it of an identity that may have none.
const PERMISSION_DENIED: i32 = 7;
/// Of the own socket, at a time.
const OWN_HELD: usize = 64;

impl OwnMinter {
    /// For `own`, by `mint`.
    pub fn new(mint: Arc<MintJwtSvid>, own: OwnIdentity) -> Self {
        Self { mint, own, held: Semaphore::new(OWN_HELD) }
    }
}

impl JwtMinter for OwnMinter {
    fn mint<'a>(&'a self, audiences: &'a Audiences) -> BoxFuture<'a, Result<MintedJwtSvid, NotMinted>> {
        Box::pin(async move {
            let request = JwtSvidRequest { audiences: audiences.clone(), id: None, lifetime: None };
            let evidence = Evidence { own: Some(self.own.clone()), ..Evidence::NONE };
            let answer = self.mint.answer(&request, &evidence, &self.held).await;
            answer.map_err(|error| {
                let said = error.to_string();
                if matches!(error, CreateError::NotEntitled(_) | CreateError::ByActive { code: PERMISSION_DENIED, .. })
                {
                    return NotMinted::Denied(said);
                }
                let is_of_request = matches!(error, CreateError::Audiences(_));
                if is_of_request { SignError::Refused(said).into() } else { SignError::Unavailable(said).into() }
            })
        })
    }
}

#[cfg(test)]
mod tests;
