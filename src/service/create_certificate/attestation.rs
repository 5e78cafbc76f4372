//! Who the caller is: what this replica knows is put together here, and judged by `domain::attestation`.

use std::time::Duration;

use tokio::time::Instant;

use super::{Cluster, CreateCertificate, CreateError};
use crate::{
    domain::{
        attestation::{
            AttestationError, Caller, ClusterWord, Denied, Evidence, UnfinishedPods, Verifiers, attest, entitled_id,
        },
        identity::{ServiceAccount, SpiffeId},
        x509::VerifiedCsr,
    },
    service::{ports::SigningRequest, token_reviews::Reviewed},
};

/// For a review of a token, where nobody waits to sign.
const IDENTIFY_LIMIT: Duration = Duration::from_secs(5);

impl CreateCertificate {
    /// Who brings this evidence, for what is asked besides signing: judged here, whether this replica is active or not, by the same
    /// rules. What is denied is known to the active alone.
    ///
    /// # Errors
    ///
    /// When the caller is not believed, denied or reserved, or that can't be decided now.
    pub async fn identify(&self, evidence: &Evidence) -> Result<SpiffeId, CreateError> {
        let deadline = Instant::now() + IDENTIFY_LIMIT;
        let reviewed = match &self.cluster {
            Some(cluster) => self.review(cluster, evidence, &self.policy.replica, deadline).await,
            None => None,
        };
        let denied = self.session.borrow().as_ref().map(|session| session.denied());
        let caller = self.attest(evidence, &self.policy.replica, denied.as_deref(), reviewed.as_ref())?;
        let nothing = Denied::default();
        Ok(entitled_id(&caller, "", &self.policy.reserved, denied.as_deref().unwrap_or(&nothing))?)
    }

    /// What is refused here would be refused by the active too: it need not wait, nor take up a place. What is denied, and
    /// what the cluster says, only the active finds out; of a caller that only it can judge, the request is not looked at.
    pub(super) fn refuse_early(&self, request: &SigningRequest, evidence: &Evidence) -> Result<(), CreateError> {
        let word = self.cluster.as_ref().map(|cluster| ClusterWord {
            rules: cluster.reviews.rules(),
            reviewed: None,
            pods: UnfinishedPods::NotAsked,
        });
        match self.attest_by(evidence, &self.policy.replica, None, word) {
            Ok(caller) => {
                entitled_id(&caller, &request.impersonated, &self.policy.reserved, &Denied::default())?;
                VerifiedCsr::from_pem(request.csr.as_bytes())?;
                Ok(())
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
        let token = evidence.token.as_ref()?;
        let denied = self.session.borrow().as_ref().map(|session| session.denied());
        match self.attest(evidence, replica, denied.as_deref(), None) {
            Err(AttestationError::NotReviewed(claims)) => {
                Some(cluster.reviews.review(token, &claims, evidence.source, deadline).await)
            }
            _ => None,
        }
    }

    pub(super) fn attest(
        &self,
        evidence: &Evidence,
        replica: &str,
        denied: Option<&Denied>,
        reviewed: Option<&Reviewed>,
    ) -> Result<Caller, AttestationError> {
        let word = self.cluster.as_ref().map(|cluster| {
            let account = evidence.certificate().and_then(|chain| ServiceAccount::of(&chain.leaf().spiffe_id()?));
            let pods = account.map_or(UnfinishedPods::NotAsked, |account| cluster.pods.unfinished_pods(&account));
            ClusterWord { rules: cluster.reviews.rules(), reviewed, pods }
        });
        self.attest_by(evidence, replica, denied, word)
    }

    fn attest_by(
        &self,
        evidence: &Evidence,
        replica: &str,
        denied: Option<&Denied>,
        cluster: Option<ClusterWord<'_>>,
    ) -> Result<Caller, AttestationError> {
        let bundle = self.bundle.borrow().clone();
        let verifiers = Verifiers {
            trust_domain: &self.policy.trust_domain,
            issuers: &self.policy.issuers,
            bundle: bundle.as_deref(),
            denied,
            cluster,
        };
        attest(evidence, replica, verifiers, self.clock.now())
    }
}
