//! The check that an authority's answer passes before anybody sees it.

use std::time::Duration;

use crate::{
    domain::{
        clock::Timestamp,
        identity::{ServiceAccount, SpiffeId, SpiffeIdError, TrustDomain},
        x509::{BundleError, ChainError, PrivateKey, PrivateKeyError, SvidError, TrustBundle, X509Svid},
    },
    service::ports::{SignError, SignedChain},
};

/// Which identity is accepted from the authority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expectation {
    /// This one only.
    Exactly(SpiffeId),
    /// The first that the authority gives out in this trust domain, and from then on only that one: an agent need not know
    /// its own ID, because the authority derives it from the token.
    AnyIn(TrustDomain),
}

/// Why no SVID was obtained.
#[derive(Debug, thiserror::Error)]
pub enum RenewalError {
    /// The authority did not sign.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// The authority did not answer at all.
    #[error("the certificate authority gave no answer within {} s", .0.as_secs())]
    Unanswered(Duration),
    /// No key or no request could be made.
    #[error(transparent)]
    Key(#[from] PrivateKeyError),
    /// No request can name an ID in the trust domain.
    #[error(transparent)]
    RequestedId(#[from] SpiffeIdError),
    /// The roots are no trust bundle.
    #[error("the roots in the certificate authority's answer can't be used: {0}")]
    Roots(#[from] BundleError),
    /// The chain does not lead to the roots that came with it, or has expired.
    #[error("the chain in the certificate authority's answer can't be used: {0}")]
    Chain(#[from] ChainError),
    /// The leaf is no SVID, or not for our key.
    #[error("the certificate in the certificate authority's answer can't be used: {0}")]
    Svid(#[from] SvidError),
    /// The leaf is somebody else's.
    #[error("the certificate authority answered with the identity {found}, expected was {expected}")]
    Identity {
        /// The leaf's.
        found: SpiffeId,
        /// The ID or trust domain that was expected.
        expected: String,
    },
    /// A TLS library can't use it, or not with this bundle.
    #[error("the new SVID failed in a handshake with itself by the trust bundle of now, {0}; it is not published")]
    SelfCheck(String),
    /// It has ended before it began, by a clock of this host that is wrong.
    #[error("ClockSkew: the certificate ended before the clock of this host reached its begin; set the clock right")]
    Outlived,
    /// NotBefore is too far away to wait for it.
    #[error(
        "ClockSkew: the certificate is valid only {} s from now; set the clocks of this host and of the certificate authority right",
        .0.as_secs()
    )]
    ClockSkew(Duration),
}

/// An SVID of the expected identity and the bundle it is to be verified against.
pub(super) struct CheckedAnswer {
    pub(super) svid: X509Svid,
    pub(super) bundle: TrustBundle,
}

impl RenewalError {
    /// Whether there was an answer, and what it brought must not be published.
    pub(super) const fn is_rejection(&self) -> bool {
        match self {
            Self::Roots(_) | Self::Chain(_) | Self::Svid(_) | Self::Identity { .. } | Self::SelfCheck(_) => true,
            Self::Sign(SignError::Answer(_)) => true,
            Self::Sign(_) | Self::Unanswered(_) | Self::Key(_) | Self::RequestedId(_) => false,
            Self::Outlived | Self::ClockSkew(_) => false,
        }
    }
}

impl Expectation {
    pub(super) fn trust_domain(&self) -> &TrustDomain {
        match self {
            Self::Exactly(id) => id.trust_domain(),
            Self::AnyIn(trust_domain) => trust_domain,
        }
    }

    /// What the request names: the ID of whom the proof speaks for, if that is known. Most authorities decide by the proof
    /// and skip it, so any ID will do for these.
    pub(super) fn requested_id(&self, subject: Option<&ServiceAccount>) -> Result<SpiffeId, SpiffeIdError> {
        match (self, subject) {
            (Self::Exactly(id), _) => Ok(id.clone()),
            (Self::AnyIn(trust_domain), Some(subject)) => subject.spiffe_id(trust_domain),
            (Self::AnyIn(trust_domain), None) => format!("{}/workload", trust_domain.id()).parse(),
        }
    }

    /// Accepts only `id` from now on.
    pub(super) fn settle(&mut self, id: &SpiffeId) {
        *self = Self::Exactly(id.clone());
    }

    fn check(&self, found: &SpiffeId) -> Result<(), RenewalError> {
        let (fits, expected) = match self {
            Self::Exactly(id) => (id == found, id.to_string()),
            Self::AnyIn(trust_domain) => (trust_domain == found.trust_domain(), trust_domain.id()),
        };
        if fits { Ok(()) } else { Err(RenewalError::Identity { found: found.clone(), expected }) }
    }
}

impl CheckedAnswer {
    /// Checks all of an answer that does not depend on the time.
    pub(super) fn new(signed: SignedChain, key: PrivateKey, expected: &Expectation) -> Result<Self, RenewalError> {
        let bundle = TrustBundle::from_pem(expected.trust_domain().clone(), signed.roots_pem.as_bytes())?;
        let svid = X509Svid::new(signed.chain, key)?;
        expected.check(svid.id())?;
        Ok(Self { svid, bundle })
    }

    /// Verifies the chain at `now`. Returns how long it is until the chain is valid, zero if it is.
    pub(super) fn verify(&self, now: Timestamp) -> Result<Duration, RenewalError> {
        match self.svid.chain().verify(&self.bundle, now) {
            Ok(()) => Ok(Duration::ZERO),
            Err(ChainError::NotYetValid(from)) => Ok(from.since(now).max(Duration::from_millis(1))),
            Err(error) => Err(error.into()),
        }
    }
}
