//! What kept certificates have to lead to, as it changes.

use std::sync::Arc;

use tokio::sync::watch;

use crate::{
    domain::x509::TrustBundle,
    service::{signing_state::AuthorityReceiver, waiting::next},
};

/// The roots of now.
#[derive(Clone, Debug)]
pub(crate) struct Trust {
    pub(crate) bundle: TrustBundle,
    /// As they are written beside the certificate.
    pub(crate) roots_pem: String,
}

/// Where the roots come from.
pub(crate) trait Trusted: Send {
    /// Those of now; `None` while they are not known.
    fn now(&self) -> Option<Trust>;

    /// Resolves with the next change; never, if there is none to come.
    fn changed(&mut self) -> impl Future<Output = ()> + Send;
}

/// The own authority's; none where istiod signs.
impl Trusted for Option<AuthorityReceiver> {
    fn now(&self) -> Option<Trust> {
        let authority = self.as_ref()?.borrow();
        Some(Trust { bundle: authority.bundle().clone(), roots_pem: authority.roots_pem().to_owned() })
    }

    async fn changed(&mut self) {
        match self {
            Some(authority) => next(authority).await,
            None => std::future::pending().await,
        }
    }
}

/// Those that are followed for themselves.
impl Trusted for watch::Receiver<Option<Arc<TrustBundle>>> {
    fn now(&self) -> Option<Trust> {
        let bundle = self.borrow().as_deref().cloned()?;
        Some(Trust { roots_pem: bundle.to_pem(), bundle })
    }

    fn changed(&mut self) -> impl Future<Output = ()> + Send {
        next(self)
    }
}
