//! What callers ask for.

use super::{CreateCertificate, CreateError};
use crate::{
    domain::{
        attestation::{Caller, Denied, Evidence, entitled_id},
        identity::SpiffeId,
        x509::VerifiedCsr,
    },
    service::{
        ports::{BoxFuture, ForwardError, Pair, SigningRequest},
        signing_session::InSession,
    },
};

/// Something that callers are given by the same proofs, under the same term and within the same bounds as certificates.
pub(in crate::service) trait Asked: Sync {
    /// What they get.
    type Answer: Send;

    /// What it takes up in memory beside the proof.
    fn bytes(&self) -> usize;

    /// The identity that `caller` is given, if it may have it.
    fn entitled(&self, caller: &Caller, reserved: &[SpiffeId], denied: &Denied) -> Result<SpiffeId, CreateError>;

    /// Refuses what nobody is given.
    fn check(&self) -> Result<(), CreateError>;

    /// Gives it to `caller`, who may have `id`. Whoever is not active any more when it is done says so, and gives nothing.
    fn sign(
        &self,
        session: &InSession,
        caller: Caller,
        id: SpiffeId,
    ) -> impl Future<Output = Result<Self::Answer, CreateError>> + Send;

    /// Has the active give it.
    fn forward<'a>(
        &'a self,
        pair: &'a dyn Pair,
        evidence: &'a Evidence,
    ) -> BoxFuture<'a, Result<Self::Answer, ForwardError>>;
}

/// A certificate.
pub(super) struct CertificateAsked<'a> {
    pub(super) create: &'a CreateCertificate,
    pub(super) request: &'a SigningRequest,
}

impl Asked for CertificateAsked<'_> {
    type Answer = Vec<String>;

    fn bytes(&self) -> usize {
        self.request.csr.len().saturating_add(self.request.impersonated.len())
    }

    fn entitled(&self, caller: &Caller, reserved: &[SpiffeId], denied: &Denied) -> Result<SpiffeId, CreateError> {
        Ok(entitled_id(caller, &self.request.impersonated, reserved, denied)?)
    }

    fn check(&self) -> Result<(), CreateError> {
        VerifiedCsr::from_pem(self.request.csr.as_bytes())?;
        Ok(())
    }

    async fn sign(&self, session: &InSession, caller: Caller, id: SpiffeId) -> Result<Vec<String>, CreateError> {
        self.create.sign(session, self.request, caller, id).await
    }

    fn forward<'a>(
        &'a self,
        pair: &'a dyn Pair,
        evidence: &'a Evidence,
    ) -> BoxFuture<'a, Result<Vec<String>, ForwardError>> {
        pair.forward(self.request, evidence)
    }
}
