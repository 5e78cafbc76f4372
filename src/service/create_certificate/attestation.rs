//! Who asks for a certificate, and who asks for something else.

use std::sync::Arc;

use tokio::time::Instant;

use super::{Asked, CreateCertificate, CreateError};
use crate::{
    domain::{
        attestation::{Denied, Evidence},
        identity::SpiffeId,
    },
    service::{
        caller_attestation::{Cluster, Identify, IdentifyError},
        ports::BoxFuture,
        token_reviews::Reviewed,
    },
};

/// By the same rules as for signing. What is denied is known to the active alone.
impl Identify for CreateCertificate {
    fn identify<'a>(&'a self, evidence: &'a Evidence) -> BoxFuture<'a, Result<SpiffeId, IdentifyError>> {
        Box::pin(self.callers.identify_unless(evidence, self.denied_here()))
    }
}

impl CreateCertificate {
    /// What is refused here would be refused by the active too: it need not wait, nor take up a place. What is denied, and
    /// what the cluster says, only the active finds out; of a caller that only it can judge, the request is not looked at.
    pub(super) fn refuse_early(&self, asked: &impl Asked, evidence: &Evidence) -> Result<(), CreateError> {
        match self.callers.attest_early(evidence) {
            Ok(caller) => {
                asked.entitled(&caller, &self.callers.reserved, &Denied::default())?;
                asked.check()
            }
            Err(error) if error.is_undecided() => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Has the caller's token reviewed, if it decides and only a review can tell.
    pub(super) async fn review(
        &self,
        cluster: &Cluster,
        evidence: &Evidence,
        replica: &str,
        deadline: Instant,
    ) -> Option<Reviewed> {
        let denied = self.denied_here();
        self.callers.review(cluster, evidence, replica, denied.as_deref(), deadline).await
    }

    fn denied_here(&self) -> Option<Arc<Denied>> {
        self.session.borrow().as_ref().map(|session| session.denied())
    }
}
