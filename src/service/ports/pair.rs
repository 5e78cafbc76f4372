//! What the use cases need from the other replicas of the pair.

use std::{fmt, future::pending, net::SocketAddr, path::PathBuf};

use super::{BoxFuture, JwtSvidRequest, MintedJwtSvid, SigningRequest};
use crate::domain::{
    attestation::{Denial, Denied, DeniedSubject, Evidence, Reason},
    leadership::Term,
};

/// The other replicas of the pair.
pub trait Pair: Send + Sync {
    /// Who is active, as long as that one answers. Changes when another one is, or in another term, or nobody.
    fn active(&self) -> tokio::sync::watch::Receiver<Option<ActiveReplica>>;

    /// Has the active sign, whoever that is at the time of the call.
    fn forward<'a>(
        &'a self,
        request: &'a SigningRequest,
        evidence: &'a Evidence,
    ) -> BoxFuture<'a, Result<Vec<String>, ForwardError>>;

    /// Has the active mint a JWT-SVID, whoever that is at the time of the call.
    fn forward_mint<'a>(
        &'a self,
        request: &'a JwtSvidRequest,
        evidence: &'a Evidence,
    ) -> BoxFuture<'a, Result<MintedJwtSvid, ForwardError>>;
}

/// Why the active did not sign.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ForwardError {
    /// Nobody is known to be active, or nobody there could be reached, or it is not active any more, or can't answer just now.
    #[error("{0}")]
    NoActive(String),
    /// The active refused. Its answer is the caller's.
    #[error("refused by the active replica: {message}")]
    Refused {
        /// gRPC code.
        code: i32,
        /// Public text.
        message: String,
    },
}

/// Where the replicas of a pair find each other without asking anybody. What it says are hints: whoever is found there is
/// asked.
pub trait PairDirectory: Send + Sync {
    /// Who may be active now, each endpoint once; a reason if nobody is known who may be.
    fn candidates(&self) -> BoxFuture<'_, Result<Vec<Candidate>, String>>;

    /// Resolves when the answer may have changed, if that can be noticed. May be dropped and asked for again.
    fn changed(&self) -> BoxFuture<'_, ()> {
        Box::pin(pending())
    }

    /// A replica has answered there.
    fn answered(&self, _endpoint: &PairEndpoint) {}
}

/// A replica that may be active.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The process, as far as it is known.
    pub replica: Option<String>,
    /// The term that it is said to hold, if it is.
    pub term: Option<Term>,
    /// Where it answers other replicas.
    pub endpoint: PairEndpoint,
}

/// Where a replica answers the others of its pair.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PairEndpoint {
    /// A socket in the data directory that they share.
    Unix(PathBuf),
    /// The pair port, under mutual TLS.
    Tcp(SocketAddr),
}

impl fmt::Display for PairEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => path.display().fmt(f),
            Self::Tcp(address) => address.fmt(f),
        }
    }
}

/// A replica that said it is active.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActiveReplica {
    /// The process.
    pub replica: String,
    /// Its term.
    pub term: Term,
    /// Where it answers other replicas.
    pub endpoint: PairEndpoint,
}

/// The operators of this replica at the active one, whichever that is. Nothing is passed on twice.
pub trait OperatorOfActive: Send + Sync {
    /// Has the active change what is denied, for its user `actor_uid` as this replica asserts. Returns the denial that was
    /// there before, and who did it.
    fn change_denied<'a>(
        &'a self,
        change: &'a DenialChange,
        actor_uid: u32,
    ) -> BoxFuture<'a, Result<ByActive<Option<Denial>>, OrderError>>;

    /// What is denied, as the active has it.
    fn denied(&self) -> BoxFuture<'_, Result<ByActive<Denied>, OrderError>>;
}

/// What another replica did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ByActive<T> {
    /// Its answer.
    pub answer: T,
    /// The process.
    pub replica: String,
}

/// A change of what is denied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DenialChange {
    /// An entry is made or replaced.
    Deny {
        /// What is denied.
        subject: DeniedSubject,
        /// Why.
        reason: Reason,
    },
    /// An entry is taken back.
    Allow {
        /// What is denied no more.
        subject: DeniedSubject,
        /// Why, if that was said.
        reason: Option<Reason>,
    },
}

impl DenialChange {
    /// What it is about.
    pub const fn subject(&self) -> &DeniedSubject {
        match self {
            Self::Deny { subject, .. } | Self::Allow { subject, .. } => subject,
        }
    }

    /// Why it is wanted, if that was said.
    pub const fn reason(&self) -> Option<&Reason> {
        match self {
            Self::Deny { reason, .. } => Some(reason),
            Self::Allow { reason, .. } => reason.as_ref(),
        }
    }

    /// The command, for the record.
    pub const fn action(&self) -> &'static str {
        match self {
            Self::Deny { .. } => "issuance deny",
            Self::Allow { .. } => "issuance allow",
        }
    }
}

/// Why no active has decided on what an operator wants, or that it was another replica that did.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OrderError {
    /// This replica is not active; another one may be. Nothing was done.
    #[error("this replica is not active: run the command again when one is")]
    NotActive,
    /// Nobody is known to be active, or it is not active any more: nothing was done.
    #[error("no replica is known to be active: run the command again when one is ({0})")]
    NoActive(String),
    /// The active refused; its answer is passed on.
    #[error("{message}")]
    Refused {
        /// gRPC code.
        code: i32,
        /// Its words.
        message: String,
    },
    /// The connection broke, or there was no answer in time: it may have been done or not.
    #[error("{0}")]
    Undecided(String),
}

/// Who holds the lease of a pair, as its record was last seen: a hint where to ask, never a proof.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseHolder {
    /// The process.
    pub replica: String,
    /// The term that the record names.
    pub term: Term,
    /// Where it answers other replicas; `None` if it doesn't say so, or not in a way that can be read.
    pub pair_address: Option<SocketAddr>,
}
