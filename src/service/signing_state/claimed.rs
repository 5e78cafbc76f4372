//! What a term begins with.

use std::sync::Arc;

use tokio::sync::watch;

use super::{AuthorityReceiver, JwtSignerReceiver, TermState};
use crate::{
    domain::{attestation::Denied, authority::SigningAuthority},
    service::published_trust::{PublishedTrust, TrustReceiver},
};

/// What signing in a term begins with.
#[derive(Clone, Debug)]
pub struct ClaimedState {
    /// Signs certificates; `None` where istiod does.
    pub authority: Option<AuthorityReceiver>,
    /// To whom it doesn't.
    pub denied: Denied,
    /// What others verify by.
    pub trust: TrustReceiver,
    /// Signs JWT-SVIDs.
    pub jwt_signer: JwtSignerReceiver,
    /// Where all of it is changed; `None` if it isn't kept anywhere.
    pub state: Option<Arc<TermState>>,
}

impl ClaimedState {
    /// Of an authority that stays the same, and is kept nowhere.
    pub fn own(authority: impl Into<Arc<SigningAuthority>>, denied: Denied) -> Self {
        let (_never_another, authority) = watch::channel(authority.into());
        Self::following(authority, denied)
    }

    /// Of one that may be replaced, and is kept nowhere.
    pub fn following(authority: AuthorityReceiver, denied: Denied) -> Self {
        let (_never_other, trust) = watch::channel(Some(Arc::new(PublishedTrust::first(authority.borrow().bundle()))));
        let (_never_any, jwt_signer) = watch::channel(None);
        Self { authority: Some(authority), denied, trust, jwt_signer, state: None }
    }

    pub(super) fn of(state: Arc<TermState>, denied: Denied) -> Self {
        let (authority, trust, jwt_signer) = (state.authority(), state.trust(), state.jwt_signer());
        Self { authority, denied, trust, jwt_signer, state: Some(state) }
    }
}
