//! An attested caller.

use std::fmt;

use crate::domain::identity::SpiffeId;

/// Who asks, proven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The identity that the proof establishes.
    pub id: SpiffeId,
    /// How it was proven.
    pub proof: Proof,
}

/// How a caller was attested; stands in the issuance log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proof {
    /// A token of this issuer.
    Token {
        /// Its `iss`.
        issuer: String,
    },
    /// A token that the API server of this cluster accepted.
    ReviewedToken {
        /// The cluster's name.
        cluster: String,
        /// The pod that the token is bound to, if it is bound to one.
        pod: Option<Pod>,
    },
    /// A still valid client certificate with this serial; possession was proven here.
    Certificate {
        /// Hex.
        serial: String,
    },
    /// As `Certificate`, but possession was proven to this other replica.
    AssertedCertificate {
        /// Hex.
        serial: String,
        /// Who vouches.
        replica: String,
    },
    /// The workload of a replica's own socket.
    OwnSocket {
        /// Which replica's.
        replica: String,
    },
    /// A replica, for the signing API's own TLS.
    Serving {
        /// Which replica.
        replica: String,
    },
    /// A replica, for the Secret of a gateway.
    GatewaySecret {
        /// Which replica.
        replica: String,
    },
    /// A replica, for istiod's own TLS.
    Istiod {
        /// Which replica.
        replica: String,
    },
}

/// A pod, by its API server's word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Its name, in the namespace of the caller.
    pub name: String,
    /// Its UID.
    pub uid: String,
}

impl fmt::Display for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Token { issuer } => write!(f, "token of {issuer}"),
            Self::ReviewedToken { cluster, pod: None } => write!(f, "token reviewed by cluster {cluster}"),
            Self::ReviewedToken { cluster, pod: Some(Pod { name, uid }) } => {
                write!(f, "token of pod {name}, UID {uid}, reviewed by cluster {cluster}")
            }
            Self::Certificate { serial } => write!(f, "certificate {serial}"),
            Self::AssertedCertificate { serial, replica } => write!(f, "certificate {serial}, asserted by {replica}"),
            Self::OwnSocket { replica } => write!(f, "own socket of {replica}"),
            Self::Serving { replica } => write!(f, "serving certificate of {replica}"),
            Self::GatewaySecret { replica } => write!(f, "Secret of its gateway, written by {replica}"),
            Self::Istiod { replica } => write!(f, "istiod's certificate, written by {replica}"),
        }
    }
}
