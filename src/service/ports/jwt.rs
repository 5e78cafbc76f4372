//! What the use cases around JWT-SVIDs need from outside.

use std::{fmt, time::Duration};

use zeroize::Zeroizing;

use super::{BoxFuture, SignError};
use crate::domain::{identity::SpiffeId, jwt::Audiences};

/// What a caller asks to have minted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwtSvidRequest {
    /// Whom it is for.
    pub audiences: Audiences,
    /// The identity, if the caller names it.
    pub id: Option<SpiffeId>,
    /// How long it is to live, in whole seconds; `None` for the default.
    pub lifetime: Option<Duration>,
}

/// A JWT-SVID as it was minted. Who holds it can use it.
#[derive(Clone, PartialEq, Eq)]
pub struct MintedJwtSvid {
    /// Compact JWS.
    pub token: Zeroizing<String>,
    /// Its `sub`.
    pub id: SpiffeId,
}

impl fmt::Debug for MintedJwtSvid {
    /// Says whose it is, never the token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MintedJwtSvid").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Who mints JWT-SVIDs for the workload of a socket.
pub trait JwtMinter: Send + Sync {
    /// One for the identity that the proof speaks for. It is not verified here. Whoever calls bounds the time.
    ///
    /// # Errors
    ///
    /// When none is minted.
    fn mint<'a>(&'a self, audiences: &'a Audiences) -> BoxFuture<'a, Result<MintedJwtSvid, NotMinted>>;
}

/// Why no JWT-SVID was minted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotMinted {
    /// Those who were asked mint none for anybody, as istiod.
    #[error("JWT-SVIDs are not offered: {0}")]
    NotOffered(String),
    /// Whose proof it is was known, and may have none.
    #[error("the identity is denied: {0}")]
    Denied(String),
    /// As for certificates.
    #[error(transparent)]
    Failed(#[from] SignError),
}
