//! Who a caller is: what this replica knows is put together here, and judged by `domain::attestation`. Whether anything is signed for
//! it is no matter of this.

use std::{sync::Arc, time::Duration};

use tokio::{sync::watch, time::Instant};

use super::{
    ports::{BoxFuture, PodPresence},
    token_reviews::{Reviewed, TokenReviews},
};
use crate::domain::{
    attestation::{
        AttestationError, Caller, ClusterWord, Denied, EntitlementError, Evidence, UnfinishedPods, Verifiers, attest,
        entitled_id,
    },
    clock::Clock,
    identity::{ServiceAccount, SpiffeId, TrustDomain},
    jwt::TokenIssuer,
    x509::TrustBundle,
};

/// For a review of a token, where nobody waits to sign.
const IDENTIFY_LIMIT: Duration = Duration::from_secs(5);

/// Whom a Kubernetes cluster says callers to be.
pub struct Cluster {
    /// Of tokens that no configured issuer has made.
    pub reviews: TokenReviews,
    /// What keeps a service account's certificates renewable.
    pub pods: Arc<dyn PodPresence>,
}

/// Whom this replica believes.
pub struct CallerAttestation {
    /// Callers are of this one.
    pub trust_domain: TrustDomain,
    /// Issuers of tokens.
    pub issuers: Vec<TokenIssuer>,
    /// IDs that no caller is given or taken for.
    pub reserved: Vec<SpiffeId>,
    /// The cluster that this replica runs in, if it runs in one.
    pub cluster: Option<Cluster>,
    /// What client certificates are verified against, as far as this replica knows it.
    pub bundle: watch::Receiver<Option<Arc<TrustBundle>>>,
    /// How this process is called in records.
    pub replica: String,
    /// Time.
    pub clock: Arc<dyn Clock>,
}

/// Why a caller is taken for nobody.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentifyError {
    /// Nobody is attested, or that can't be decided now.
    #[error(transparent)]
    Attestation(#[from] AttestationError),
    /// It is somebody who gets nothing here.
    #[error(transparent)]
    NotEntitled(#[from] EntitlementError),
}

/// Says who callers are, for what is asked besides signing.
pub trait Identify: Send + Sync {
    /// Who brings this evidence, judged by this replica, whether it is active or not.
    ///
    /// # Errors
    ///
    /// When the caller is not believed, denied or reserved, or that can't be decided now.
    fn identify<'a>(&'a self, evidence: &'a Evidence) -> BoxFuture<'a, Result<SpiffeId, IdentifyError>>;
}

/// Where nobody can be denied.
impl Identify for CallerAttestation {
    fn identify<'a>(&'a self, evidence: &'a Evidence) -> BoxFuture<'a, Result<SpiffeId, IdentifyError>> {
        Box::pin(self.identify_unless(evidence, None))
    }
}

impl CallerAttestation {
    /// Who brings this evidence. What is `denied` may be unknown here.
    pub(super) async fn identify_unless(
        &self,
        evidence: &Evidence,
        denied: Option<Arc<Denied>>,
    ) -> Result<SpiffeId, IdentifyError> {
        let denied = denied.as_deref();
        let deadline = Instant::now() + IDENTIFY_LIMIT;
        let reviewed = match &self.cluster {
            Some(cluster) => self.review(cluster, evidence, &self.replica, denied, deadline).await,
            None => None,
        };
        let caller = self.attest(evidence, &self.replica, denied, reviewed.as_ref())?;
        Ok(entitled_id(&caller, "", &self.reserved, denied.unwrap_or(&Denied::default()))?)
    }

    /// Has the caller's token reviewed, if it decides and only a review can tell.
    pub(super) async fn review(
        &self,
        cluster: &Cluster,
        evidence: &Evidence,
        replica: &str,
        denied: Option<&Denied>,
        deadline: Instant,
    ) -> Option<Reviewed> {
        let token = evidence.token.as_ref()?;
        match self.attest(evidence, replica, denied, None) {
            Err(AttestationError::NotReviewed(claims)) => {
                Some(cluster.reviews.review(token, &claims, evidence.source, deadline).await)
            }
            _ => None,
        }
    }

    /// By all that is known here. `replica` is who vouches for an asserted certificate.
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

    /// As far as the cluster need not be asked.
    pub(super) fn attest_early(&self, evidence: &Evidence) -> Result<Caller, AttestationError> {
        let word = self.cluster.as_ref().map(|cluster| ClusterWord {
            rules: cluster.reviews.rules(),
            reviewed: None,
            pods: UnfinishedPods::NotAsked,
        });
        self.attest_by(evidence, &self.replica, None, word)
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
            trust_domain: &self.trust_domain,
            issuers: &self.issuers,
            bundle: bundle.as_deref(),
            denied,
            cluster,
        };
        attest(evidence, replica, verifiers, self.clock.now())
    }
}
