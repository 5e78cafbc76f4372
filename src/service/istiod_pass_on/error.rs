//! Why a request that was to be passed on has no certificate.

use crate::{
    domain::{upstream::AnswerError, x509::CsrError},
    service::metrics::RequestOutcome,
};

/// Why there is no certificate. `grpc` gives each its code and public text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PassOnError {
    /// There is no proof at all.
    #[error("no token and no client certificate")]
    NoProof,
    /// The token is none that istiod could accept: its answer could not be checked either.
    #[error("the token is not a service account's")]
    NoAccount,
    /// A proof that can't be passed on.
    #[error("a client certificate alone can't be passed on")]
    CertificateOnly,
    /// Nobody is impersonated by way of a pair.
    #[error("impersonation of {0:?}")]
    Impersonation(String),
    /// The request is not acceptable.
    #[error(transparent)]
    Csr(#[from] CsrError),
    /// istiod's own refusal.
    #[error("refused by istiod: {message}")]
    ByIstiod {
        /// gRPC code.
        code: i32,
        /// Its text.
        message: String,
    },
    /// No istiod answered.
    #[error("istiod can't be reached: {0}")]
    Unreachable(String),
    /// There are no roots yet that istiod could be verified by.
    #[error("IstioNotDetected: no roots to verify istiod by: {0}")]
    NoRoots(String),
    /// More is asked than istiod is to be asked.
    #[error("too many requests wait for their turn at istiod")]
    Limited,
    /// Too many requests are waiting already.
    #[error("too many requests are waiting for istiod")]
    Overloaded,
    /// The answer is not what it should be.
    #[error("the answer of istiod is not passed on: {0}")]
    Answer(#[from] AnswerError),
    /// The attempt ended without one.
    #[error("the attempt to ask istiod failed")]
    Failed,
}

impl PassOnError {
    pub(super) const fn outcome(&self) -> RequestOutcome {
        match self {
            Self::NoProof | Self::NoAccount | Self::CertificateOnly | Self::Impersonation(_) => {
                RequestOutcome::Unauthenticated
            }
            Self::Csr(_) => RequestOutcome::InvalidArgument,
            Self::ByIstiod { .. } => RequestOutcome::RefusedByIstiod,
            Self::Unreachable(_)
            | Self::NoRoots(_)
            | Self::Limited
            | Self::Overloaded
            | Self::Answer(_)
            | Self::Failed => RequestOutcome::Unavailable,
        }
    }
}
