//! Attestation: from what a caller brought to who it is.

use super::{
    Caller, Denied, Evidence, OwnIdentity, Proof, Reason,
    review::{ReviewError, ReviewRules, ReviewedAccount},
};
use crate::domain::{
    clock::Timestamp,
    identity::{ServiceAccount, SpiffeId, TrustDomain},
    jwt::{TokenError, TokenIssuer, UnverifiedToken},
    x509::{CertificateChain, ChainError, SerialNumber, TrustBundle},
};

/// Whom this authority believes.
#[derive(Clone, Copy, Debug)]
pub struct Verifiers<'a> {
    /// The trust domain that identities are given in.
    pub trust_domain: &'a TrustDomain,
    /// Issuers of tokens.
    pub issuers: &'a [TokenIssuer],
    /// What client certificates are verified against; `None` while a replica doesn't know it yet.
    pub bundle: Option<&'a TrustBundle>,
    /// Certificates that are no proof any more; `None` on a replica that doesn't decide.
    pub denied: Option<&'a Denied>,
    /// What the own cluster says; `None` where there is no cluster.
    pub cluster: Option<ClusterWord<'a>>,
}

/// What the cluster that this replica runs in says of one caller.
#[derive(Clone, Copy, Debug)]
pub struct ClusterWord<'a> {
    /// What its tokens are held to.
    pub rules: &'a ReviewRules,
    /// What came of the review of the caller's token; `None` if nobody has reviewed it yet.
    pub reviewed: Option<&'a Result<ReviewedAccount, ReviewError>>,
    /// Whether the service account of the client certificate is still in use.
    pub pods: UnfinishedPods,
}

/// Whether a service account has a pod that has not finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnfinishedPods {
    /// This replica doesn't decide.
    NotAsked,
    /// At least one.
    Some,
    /// None.
    None,
    /// The pods are not known, or not any more.
    Unknown,
}

/// Why nobody is attested. Logged, never sent to the caller.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AttestationError {
    /// Nothing was brought.
    #[error("the request carries neither a bearer token nor a client certificate")]
    NoProof,
    /// The token names no issuer that is configured.
    #[error("the token's issuer is not configured here")]
    UnknownIssuer,
    /// The token's issuer is known, the token is not good.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The token is said to be of a cluster whose API server is not ours to ask.
    #[error("the token is said to be of cluster {claimed:?}, this is cluster {own:?}")]
    OtherCluster {
        /// What the caller says.
        claimed: String,
        /// Where this is.
        own: String,
    },
    /// The token is worth a review by the API server, and nobody has asked for one.
    #[error("the token has not been reviewed by the API server")]
    NotReviewed(UnverifiedToken),
    /// The token was reviewed, or should have been.
    #[error(transparent)]
    Review(#[from] ReviewError),
    /// A client certificate was brought, and this replica has no trust bundle yet to check it with.
    #[error("this replica has no trust bundle yet to verify a client certificate with")]
    NoBundle,
    /// The client certificate is not good.
    #[error("client certificate: {0}")]
    Certificate(#[from] ChainError),
    /// The client certificate names no workload of this trust domain.
    #[error("client certificate: it is not the SVID of a service account in trust domain {0}")]
    ForeignCertificate(TrustDomain),
    /// It can't be told whether the client certificate's service account is still in use.
    #[error("client certificate: the pods of this cluster are not known")]
    PodsUnknown,
    /// The client certificate's service account is in use no more.
    #[error("client certificate: service account {0} has no pod that has not finished")]
    NoPod(ServiceAccount),
    /// An operator has denied the client certificate.
    #[error("client certificate: serial {serial} is denied: {reason}")]
    DeniedCertificate {
        /// Its serial.
        serial: SerialNumber,
        /// The operator's words.
        reason: Reason,
    },
}

impl AttestationError {
    /// Whether another replica, or this one a little later, may find otherwise.
    pub const fn is_undecided(&self) -> bool {
        match self {
            Self::NoBundle | Self::NotReviewed(_) | Self::PodsUnknown => true,
            Self::Review(error) => error.is_undecided(),
            Self::NoProof
            | Self::UnknownIssuer
            | Self::Token(_)
            | Self::OtherCluster { .. }
            | Self::Certificate(_)
            | Self::ForeignCertificate(_)
            | Self::NoPod(_)
            | Self::DeniedCertificate { .. } => false,
        }
    }
}

/// A caller's text in our log is cut here.
const LONGEST_CLUSTER: usize = 64;

/// Attests the caller at `now`. A valid client certificate outranks a token, as with istiod; unlike there, one that is not
/// valid does not spoil a token that is. `replica` is who vouches for an asserted certificate. A token of a configured issuer
/// is checked here; any other is what the cluster's API server says it is, where there is one.
///
/// # Errors
///
/// When no proof holds: that of a token before that of a certificate, and before either what is still undecided.
pub fn attest(
    evidence: &Evidence,
    replica: &str,
    verifiers: Verifiers<'_>,
    now: Timestamp,
) -> Result<Caller, AttestationError> {
    if let Some(own) = &evidence.own {
        return attest_own(own, replica, verifiers.trust_domain);
    }
    let certificate = match (&evidence.presented, &evidence.asserted) {
        (Some(chain), _) => Some(
            attest_certificate(chain, verifiers, now)
                .map(|(id, serial)| Caller { id, proof: Proof::Certificate { serial } }),
        ),
        (None, Some(chain)) => Some(attest_certificate(chain, verifiers, now).map(|(id, serial)| Caller {
            id,
            proof: Proof::AssertedCertificate { serial, replica: replica.to_owned() },
        })),
        (None, None) => None,
    };
    match (certificate, &evidence.token) {
        (Some(Ok(caller)), _) => Ok(caller),
        (certificate, Some(token)) => match (attest_token(token, &evidence.cluster, verifiers, now), certificate) {
            (Err(refusal), Some(Err(undecided))) if undecided.is_undecided() && !refusal.is_undecided() => {
                Err(undecided)
            }
            (by_token, _) => by_token,
        },
        (Some(Err(error)), None) => Err(error),
        (None, None) => Err(AttestationError::NoProof),
    }
}

fn attest_own(own: &OwnIdentity, replica: &str, trust_domain: &TrustDomain) -> Result<Caller, AttestationError> {
    let replica = replica.to_owned();
    Ok(match own {
        OwnIdentity::Workload(account) => {
            Caller { id: id_of(account, trust_domain)?, proof: Proof::OwnSocket { replica } }
        }
        OwnIdentity::Gateway(account) => {
            Caller { id: id_of(account, trust_domain)?, proof: Proof::GatewaySecret { replica } }
        }
        OwnIdentity::Istiod(account) => Caller { id: id_of(account, trust_domain)?, proof: Proof::Istiod { replica } },
        OwnIdentity::Serving => Caller { id: serving_id(trust_domain)?, proof: Proof::Serving { replica } },
    })
}

/// The identity that the signing API is served under. It has not the form of a service account's, so no token or client
/// certificate ever leads to it.
fn serving_id(trust_domain: &TrustDomain) -> Result<SpiffeId, AttestationError> {
    let id = format!("spiffe://{trust_domain}/countersign/serving");
    id.parse().map_err(|_too_long| AttestationError::ForeignCertificate(trust_domain.clone()))
}

fn attest_token(
    token: &str,
    cluster: &str,
    verifiers: Verifiers<'_>,
    now: Timestamp,
) -> Result<Caller, AttestationError> {
    let Some(issuer) = verifiers.issuers.iter().find(|issuer| issuer.is_issuer_of(token)) else {
        return attest_by_review(token, cluster, verifiers, now);
    };
    let claims = issuer.validate(token, now)?;
    let id = id_of(&claims.account, verifiers.trust_domain)?;
    Ok(Caller { id, proof: Proof::Token { issuer: issuer.rules().issuer.clone() } })
}

/// What the API server would refuse is refused without asking it.
fn attest_by_review(
    token: &str,
    cluster: &str,
    verifiers: Verifiers<'_>,
    now: Timestamp,
) -> Result<Caller, AttestationError> {
    let word = verifiers.cluster.ok_or(AttestationError::UnknownIssuer)?;
    let own = &word.rules.cluster;
    if !cluster.is_empty() && cluster != own {
        let claimed = cluster.chars().take(LONGEST_CLUSTER).collect();
        return Err(AttestationError::OtherCluster { claimed, own: own.clone() });
    }
    let claims = UnverifiedToken::read(token, &word.rules.audiences, now)?;
    let Some(reviewed) = word.reviewed else { return Err(AttestationError::NotReviewed(claims)) };
    let ReviewedAccount { account, pod } = reviewed.clone()?;
    let id = id_of(&account, verifiers.trust_domain)?;
    Ok(Caller { id, proof: Proof::ReviewedToken { cluster: own.clone(), pod } })
}

fn attest_certificate(
    chain: &CertificateChain,
    verifiers: Verifiers<'_>,
    now: Timestamp,
) -> Result<(SpiffeId, String), AttestationError> {
    let bundle = verifiers.bundle.ok_or(AttestationError::NoBundle)?;
    chain.verify(bundle, now)?;
    let foreign = || AttestationError::ForeignCertificate(verifiers.trust_domain.clone());
    let id = chain.leaf().spiffe_id().ok_or_else(foreign)?;
    let account = ServiceAccount::of(&id).filter(|_| id.trust_domain() == verifiers.trust_domain);
    let account = account.ok_or_else(foreign)?;
    let serial = chain.leaf().serial();
    if let Some(denial) = verifiers.denied.and_then(|denied| denied.serial(serial)) {
        return Err(AttestationError::DeniedCertificate { serial: serial.clone(), reason: denial.reason.clone() });
    }
    match verifiers.cluster.map_or(UnfinishedPods::NotAsked, |word| word.pods) {
        UnfinishedPods::NotAsked | UnfinishedPods::Some => {}
        UnfinishedPods::None => return Err(AttestationError::NoPod(account)),
        UnfinishedPods::Unknown => return Err(AttestationError::PodsUnknown),
    }
    Ok((id, serial.to_string()))
}

fn id_of(account: &ServiceAccount, trust_domain: &TrustDomain) -> Result<SpiffeId, AttestationError> {
    account.spiffe_id(trust_domain).map_err(|_too_long| AttestationError::ForeignCertificate(trust_domain.clone()))
}

#[cfg(test)]
mod tests;
