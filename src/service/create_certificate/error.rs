//! Why a certificate was not created.

use std::{
    mem::{Discriminant, discriminant},
    time::Duration,
};

use crate::{
    domain::{
        attestation::{AttestationError, EntitlementError},
        authority::{IssueError, TtlError},
        jwt::{AudiencesError, MintError},
        x509::CsrError,
    },
    service::{
        caller_attestation::IdentifyError,
        metrics::RequestOutcome,
        ports::{LogError, StateError},
    },
};

/// Why nothing was signed. `grpc::status` gives each its code and public text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CreateError {
    /// Nobody was attested.
    #[error(transparent)]
    Unattested(AttestationError),
    /// It can't be decided now whether the caller's proof holds.
    #[error(transparent)]
    Undecided(AttestationError),
    /// The caller may not hold what it asks for.
    #[error(transparent)]
    NotEntitled(#[from] EntitlementError),
    /// The request is not acceptable.
    #[error(transparent)]
    Csr(#[from] CsrError),
    /// Signing failed or was refused by the lint or the TTL rules.
    #[error(transparent)]
    Issue(#[from] IssueError),
    /// Whom a JWT-SVID is asked for.
    #[error(transparent)]
    Audiences(#[from] AudiencesError),
    /// A JWT-SVID is to live longer than any may.
    #[error(
        "a JWT-SVID of {asked:?} is asked for, and none lives longer than {most:?}: ask for less, or raise jwtSvidTtl"
    )]
    Lifetime {
        /// By the caller.
        asked: Duration,
        /// As configured.
        most: Duration,
    },
    /// Certificates are signed by istiod.
    #[error("this pair signs no certificates: istiod does")]
    NoAuthority,
    /// There is no key for JWT-SVIDs.
    #[error("no key that signs JWT-SVIDs is active")]
    NoJwtKey,
    /// A JWT-SVID could not be signed.
    #[error(transparent)]
    Jwt(#[from] MintError),
    /// What was signed could not be put on record, so it was not sent.
    #[error(transparent)]
    Log(#[from] LogError),
    /// It could not be put on record until when it may be out.
    #[error(transparent)]
    State(StateError),
    /// This replica is not active, or ceased to be while it signed.
    #[error("this replica is not active")]
    NotActive,
    /// An attempt at the active replica had no answer.
    #[error("{0}")]
    NoAnswer(String),
    /// Nobody could sign inside the bound.
    #[error("no replica could sign within {waited:?}: {last}")]
    Unavailable {
        /// How long the request was held.
        waited: Duration,
        /// What the last attempt said.
        last: String,
    },
    /// Too many requests are being answered already.
    #[error("too many requests are being answered: try again")]
    Busy,
    /// Too many requests are waiting already.
    #[error("too many requests are waiting for an active replica")]
    Overloaded,
    /// Another replica refused; its answer is passed on.
    #[error("refused by the active replica: {message}")]
    ByActive {
        /// gRPC code.
        code: i32,
        /// Public text.
        message: String,
    },
}

/// Tells errors apart as far as the log does: there are as many as there are kinds of errors, whatever callers send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ErrorKind(Discriminant<CreateError>, Option<Discriminant<AttestationError>>);

impl CreateError {
    /// What kind of error it is.
    pub fn kind(&self) -> ErrorKind {
        let of_proof = if let Self::Unattested(error) | Self::Undecided(error) = self { Some(error) } else { None };
        ErrorKind(discriminant(self), of_proof.map(discriminant))
    }

    pub(in crate::service) const fn outcome(&self) -> RequestOutcome {
        match self {
            Self::Unattested(_) | Self::NotEntitled(_) => RequestOutcome::Unauthenticated,
            Self::Csr(_) | Self::Audiences(_) => RequestOutcome::InvalidArgument,
            Self::Issue(IssueError::Ttl(TtlError::OverMax { .. })) | Self::Lifetime { .. } => {
                RequestOutcome::TtlOverMax
            }
            Self::Issue(_) | Self::Jwt(_) => RequestOutcome::Internal,
            Self::Undecided(_)
            | Self::Log(_)
            | Self::NoAuthority
            | Self::NoJwtKey
            | Self::State(_)
            | Self::NotActive
            | Self::NoAnswer(_)
            | Self::Unavailable { .. }
            | Self::Busy
            | Self::Overloaded => RequestOutcome::Unavailable,
            Self::ByActive { .. } => RequestOutcome::RefusedByActive,
        }
    }
}

impl From<AttestationError> for CreateError {
    fn from(error: AttestationError) -> Self {
        if error.is_undecided() { Self::Undecided(error) } else { Self::Unattested(error) }
    }
}

impl From<StateError> for CreateError {
    fn from(error: StateError) -> Self {
        if matches!(error, StateError::Fenced { .. }) { Self::NotActive } else { Self::State(error) }
    }
}

impl From<IdentifyError> for CreateError {
    fn from(error: IdentifyError) -> Self {
        match error {
            IdentifyError::Attestation(error) => error.into(),
            IdentifyError::NotEntitled(error) => error.into(),
        }
    }
}
