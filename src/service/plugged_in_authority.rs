//! Keeps a plugged-in signing authority current: loaded and checked at start, looked at each second, replaced as a whole
//! when a changed set is good, kept when it isn't.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    task::spawn_blocking,
    time::{MissedTickBehavior, interval, sleep},
};
use tracing::{info, warn};

use super::{
    metrics::{Metrics, ReloadOutcome},
    ports::{AuthoritySource, SourceError},
    readiness::Latch,
    signing_state::AuthorityReceiver,
};
use crate::domain::{
    authority::{AuthorityFiles, PluggedInError, SigningAuthority},
    clock::Clock,
    identity::TrustDomain,
    x509::TrustBundle,
};

/// The use case: one for each replica, whether it is active or not.
pub struct PluggedInAuthority {
    parts: Arc<Parts>,
    /// Digest of the files in use.
    used: [u8; 32],
    /// Why the files that are there now are not the ones in use.
    refused: Option<LoadError>,
    current: watch::Sender<Arc<SigningAuthority>>,
}

/// What [`PluggedInAuthority`] works with.
pub struct Parts {
    /// Where the files are.
    pub source: Arc<dyn AuthoritySource>,
    /// Of the identities that are signed.
    pub trust_domain: TrustDomain,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Where reloads are counted.
    pub metrics: Arc<Metrics>,
}

/// Why a set is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// It can't be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// It is not a signing authority.
    #[error(transparent)]
    Files(#[from] PluggedInError),
    /// It changed each time that it was read.
    #[error("the files are being written all the time: replace them, then leave them alone")]
    Unsettled,
    /// Peers that hold only the old roots would be cut off.
    #[error(
        "the roots are replaced, not added to or reduced: first give the old and the new ones together, or restart to \
         change them at once"
    )]
    ForeignRoots,
    /// A check panicked.
    #[error("the files could not be checked: {0}")]
    Panicked(String),
}

/// How often the files are looked at.
pub const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Between two reads that must agree. Whoever replaces the files one after the other is done by then.
const SETTLE: Duration = Duration::from_millis(100);
const READS: usize = 20;

impl PluggedInAuthority {
    /// Loads the set that is there. The receiver always holds the authority that is in use.
    ///
    /// # Errors
    ///
    /// When it can't be used: there is nothing to fall back on.
    pub async fn load(parts: Parts) -> Result<(Self, AuthorityReceiver), LoadError> {
        let parts = Arc::new(parts);
        let first = parts.read().await?;
        let files = parts.settled(first).await?;
        let used = files.digest();
        let authority = parts.checked(files).await?;
        say_loaded(&authority);
        let (current, receiver) = watch::channel(Arc::new(authority));
        Ok((Self { parts, used, refused: None, current }, receiver))
    }

    /// Follows the files and reports on `latch`. Never returns.
    pub async fn run(mut self, latch: Latch) {
        let mut look = interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            look.tick().await;
            let refused = self.look().await.err();
            if let Some(reason) = refused.as_ref().filter(|reason| self.refused.as_ref() != Some(reason)) {
                self.parts.metrics.authority_reloaded(ReloadOutcome::Refused);
                warn!(event = "ca_reload_refused", %reason, "the changed CA files are not used; the last good ones stay");
            }
            self.refused = refused;
            self.report(&latch);
        }
    }

    /// Takes the files that are there, unless they are the ones in use.
    async fn look(&mut self) -> Result<(), LoadError> {
        let first = self.parts.read().await?;
        if first.digest() == self.used {
            return Ok(());
        }
        let files = self.parts.settled(first).await?;
        let digest = files.digest();
        if digest == self.used {
            return Ok(());
        }
        let authority = self.parts.checked(files).await?;
        if !one_holds_the_other(self.current.borrow().bundle(), authority.bundle()) {
            return Err(LoadError::ForeignRoots);
        }
        say_loaded(&authority);
        self.parts.metrics.authority_reloaded(ReloadOutcome::Loaded);
        self.used = digest;
        self.current.send_replace(Arc::new(authority));
        Ok(())
    }

    fn report(&self, latch: &Latch) {
        let certificate = self.current.borrow().certificate().clone();
        let not_after = certificate.not_after();
        if not_after < self.parts.clock.now() {
            latch.not_ready(format!("signing certificate has expired at {not_after}: replace it"));
        } else if let Some(reason) = &self.refused {
            latch.ready(format!("until {not_after}; the changed files are not used: {reason}"));
        } else {
            latch.ready(format!("until {not_after}"));
        }
    }
}

impl Parts {
    async fn read(self: &Arc<Self>) -> Result<AuthorityFiles, LoadError> {
        let parts = Arc::clone(self);
        Ok(blocking(move || parts.source.read()).await??)
    }

    /// Reads on until nothing has changed since the last time: half a replacement is not looked at.
    async fn settled(self: &Arc<Self>, first: AuthorityFiles) -> Result<AuthorityFiles, LoadError> {
        let mut last = first.digest();
        for _ in 0..READS {
            sleep(SETTLE).await;
            let files = self.read().await?;
            if std::mem::replace(&mut last, files.digest()) == last {
                return Ok(files);
            }
        }
        Err(LoadError::Unsettled)
    }

    async fn checked(self: &Arc<Self>, files: AuthorityFiles) -> Result<SigningAuthority, LoadError> {
        let parts = Arc::clone(self);
        Ok(blocking(move || files.authority(&parts.trust_domain, parts.clock.now())).await??)
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, LoadError> {
    spawn_blocking(work).await.map_err(|error| LoadError::Panicked(error.to_string()))
}

/// istiod's rule for roots: a change adds some or removes some, so that every peer that has seen the last bundle knows
/// what it needs for the next.
fn one_holds_the_other(old: &TrustBundle, new: &TrustBundle) -> bool {
    let holds = |all: &TrustBundle, part: &TrustBundle| part.roots().iter().all(|root| all.roots().contains(root));
    holds(old, new) || holds(new, old)
}

fn say_loaded(authority: &SigningAuthority) {
    let certificate = authority.certificate();
    info!(
        event = "ca_loaded",
        authority = authority.id(),
        subject = certificate.subject(),
        key = certificate.key_algorithm(),
        serial = %certificate.serial(),
        expires = %certificate.not_after(),
        roots = authority.bundle().roots().len(),
    );
}

#[cfg(test)]
mod tests;
