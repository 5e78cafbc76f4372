//! Attestation: from what a caller brought to who it is.

use super::{Caller, Denied, Evidence, OwnIdentity, Proof, Reason};
use crate::domain::{
    clock::Timestamp,
    identity::{ServiceAccount, SpiffeId, TrustDomain},
    jwt::{TokenError, TokenIssuer},
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
    /// A client certificate was brought, and this replica has no trust bundle yet to check it with.
    #[error("this replica has no trust bundle yet to verify a client certificate with")]
    NoBundle,
    /// The client certificate is not good.
    #[error("client certificate: {0}")]
    Certificate(#[from] ChainError),
    /// The client certificate names no workload of this trust domain.
    #[error("client certificate: it is not the SVID of a service account in trust domain {0}")]
    ForeignCertificate(TrustDomain),
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
        matches!(self, Self::NoBundle)
    }
}

/// Attests the caller at `now`. A valid client certificate outranks a token, as with istiod; unlike there, one that is not
/// valid does not spoil a token that is. `replica` is who vouches for an asserted certificate.
///
/// # Errors
///
/// When no proof holds: the reason of the strongest one that was brought.
pub fn attest(
    evidence: &Evidence,
    replica: &str,
    verifiers: Verifiers<'_>,
    now: Timestamp,
) -> Result<Caller, AttestationError> {
    if let Some(own) = &evidence.own {
        return attest_own(own, verifiers.trust_domain);
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
        (_, Some(token)) => attest_token(token, verifiers, now),
        (Some(Err(error)), None) => Err(error),
        (None, None) => Err(AttestationError::NoProof),
    }
}

fn attest_own(own: &OwnIdentity, trust_domain: &TrustDomain) -> Result<Caller, AttestationError> {
    Ok(match own {
        OwnIdentity::Workload(account) => Caller { id: id_of(account, trust_domain)?, proof: Proof::OwnSocket },
        OwnIdentity::Serving => Caller { id: serving_id(trust_domain)?, proof: Proof::Serving },
    })
}

/// The identity that the signing API is served under. It has not the form of a service account's, so no token or client
/// certificate ever leads to it.
fn serving_id(trust_domain: &TrustDomain) -> Result<SpiffeId, AttestationError> {
    let id = format!("spiffe://{trust_domain}/countersign/serving");
    id.parse().map_err(|_too_long| AttestationError::ForeignCertificate(trust_domain.clone()))
}

fn attest_token(token: &str, verifiers: Verifiers<'_>, now: Timestamp) -> Result<Caller, AttestationError> {
    let issuer =
        verifiers.issuers.iter().find(|issuer| issuer.is_issuer_of(token)).ok_or(AttestationError::UnknownIssuer)?;
    let claims = issuer.validate(token, now)?;
    let id = id_of(&claims.account, verifiers.trust_domain)?;
    Ok(Caller { id, proof: Proof::Token { issuer: issuer.rules().issuer.clone() } })
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
    if id.trust_domain() != verifiers.trust_domain || ServiceAccount::of(&id).is_none() {
        return Err(foreign());
    }
    let serial = chain.leaf().serial();
    if let Some(denial) = verifiers.denied.and_then(|denied| denied.serial(serial)) {
        return Err(AttestationError::DeniedCertificate { serial: serial.clone(), reason: denial.reason.clone() });
    }
    Ok((id, serial.to_string()))
}

fn id_of(account: &ServiceAccount, trust_domain: &TrustDomain) -> Result<SpiffeId, AttestationError> {
    account.spiffe_id(trust_domain).map_err(|_too_long| AttestationError::ForeignCertificate(trust_domain.clone()))
}
