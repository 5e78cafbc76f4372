//! Where what signs certificates comes from.

use std::sync::Arc;

use tokio::sync::watch;

use super::content::StoredAuthority;
use crate::{
    domain::{authority::SigningAuthority, clock::Timestamp, leadership::Term, x509::TrustBundle},
    service::{ports::StateError, waiting::next},
};

/// The authority that signs: the same one for ever, or always the latest of those that are plugged in.
pub type AuthorityReceiver = watch::Receiver<Arc<SigningAuthority>>;

/// The mesh's roots; `None` until they are known.
pub type MeshRootsReceiver = watch::Receiver<Option<Arc<TrustBundle>>>;

/// Where the signing authority comes from.
#[derive(Clone, Debug)]
pub enum Origin {
    /// Made here, and kept in the state.
    SelfSigned,
    /// Kept by somebody else.
    PluggedIn(AuthorityReceiver),
    /// There is none here: istiod signs certificates, and these are its roots.
    Istiod(MeshRoots),
}

/// What this replica knows of the mesh's roots.
#[derive(Clone, Debug)]
pub struct MeshRoots {
    /// They.
    pub known: MeshRootsReceiver,
    /// The last term in which they were read where the mesh keeps them. What is known in another one may be older than what a
    /// replica that was active before has published.
    pub read_in: watch::Receiver<Option<Term>>,
}

impl MeshRoots {
    /// Resolves with the next change of either.
    pub(crate) async fn changed(&mut self) {
        tokio::select! {
            () = next(&mut self.known) => {}
            () = next(&mut self.read_in) => {}
        }
    }

    /// What is published of them in `term`, where `stored` was before it. `None` while nothing is known. What has ended does not pile up
    /// where they can't be read for long.
    pub(super) fn published(&self, term: Term, stored: Option<TrustBundle>, now: Timestamp) -> Option<TrustBundle> {
        // asked first: what is known by then is as new as that
        let is_read = *self.read_in.borrow() == Some(term);
        let known = self.known.borrow().clone();
        match (known, stored) {
            (Some(known), Some(stored)) if !is_read => {
                let all = stored.unended(now).map(|stored| stored.and(&known));
                Some(all.unwrap_or_else(|| known.as_ref().clone()))
            }
            (Some(known), _) => Some(known.as_ref().clone()),
            (None, stored) => stored,
        }
    }
}

impl Origin {
    /// Refuses a state of another one.
    pub(super) fn check(&self, stored: &StoredAuthority) -> Result<(), StateError> {
        match (self, stored) {
            (Self::SelfSigned, StoredAuthority::Own(_))
            | (Self::PluggedIn(_) | Self::Istiod(_), StoredAuthority::PluggedIn(_)) => Ok(()),
            (Self::SelfSigned, StoredAuthority::PluggedIn(_)) => Err(StateError::Unusable(
                "the stored state is that of an authority which is kept elsewhere: set caDir, or source istiod, or use another \
                 dataDir or namespace"
                    .into(),
            )),
            (Self::PluggedIn(_), StoredAuthority::Own(_)) => Err(StateError::Unusable(
                "the stored state has a root of its own: leave caDir out, or use another dataDir or namespace".into(),
            )),
            (Self::Istiod(_), StoredAuthority::Own(_)) => Err(StateError::Unusable(
                "the stored state has a root of its own, and with source istiod there is none: use another namespace, or leave \
                 jwtSvids out"
                    .into(),
            )),
        }
    }
}
