//! Where bundles are: endpoints that answer, and files that somebody keeps up to date here.

use std::{io, path::Path, sync::Arc, time::Duration};

use tokio::{
    task::spawn_blocking,
    time::{sleep, timeout},
};

use super::{Federation, digest_of};
use crate::{
    domain::{
        bundle::{
            BundleEndpoint, BundleSource, FallingSequence, Partner, SpiffeBundle, SpiffeBundleError, handed_over,
            interval_after, pause_after,
        },
        identity::TrustDomain,
        random::part_of,
    },
    service::{
        ports::StateError,
        signing_session::SigningSession,
        signing_state::{Partners, PartnersError},
    },
};

/// Reads files that others keep up to date.
pub trait BundleFiles: Send + Sync {
    /// What such a file holds now. Blocks.
    ///
    /// # Errors
    ///
    /// When it is not there, or can't be read.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;
}

/// Why what is kept was not replaced.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FetchRefused {
    /// The endpoint could not be asked, or is not who it should be; or the file can't be read.
    #[error("{0}")]
    Unreachable(String),
    /// It answers no bundle of that trust domain.
    #[error(transparent)]
    Document(#[from] SpiffeBundleError),
    /// It is a file without one.
    #[error("{0}")]
    File(String),
    /// It answers an old one.
    #[error(transparent)]
    Order(#[from] FallingSequence),
    /// It is a file that is not delivered yet, as it seems.
    #[error(
        "the file has what was replaced by the active of before: until it changes, or is like that for 90 s, the newer one stays"
    )]
    Behind,
    /// It could not be kept.
    #[error(transparent)]
    Partners(#[from] PartnersError),
    /// The relationship has ended meanwhile.
    #[error("it was ended meanwhile")]
    Ended,
}

impl From<StateError> for FetchRefused {
    fn from(error: StateError) -> Self {
        Self::Partners(error.into())
    }
}

/// Of one fetch, redirects included.
pub(super) const FETCH_LIMIT: Duration = Duration::from_secs(10);
/// How often a file is read, be it there or not.
const READ_EVERY: Duration = Duration::from_secs(5);
/// How often a file is said to be read: whoever looks at that looks less often than it is.
const SHOWN_INTERVAL: Duration = Duration::from_secs(60);
/// Between two readings of a changed file that must agree: whoever writes it is done by then.
const SETTLE: Duration = Duration::from_millis(100);
/// The longest that what a kubelet mounts is behind the object that it comes from.
const BEHIND: Duration = Duration::from_secs(90);

impl Federation {
    pub(super) async fn answered(
        &self,
        trust_domain: &TrustDomain,
        endpoint: &BundleEndpoint,
        partners: &Partners,
        session: &SigningSession,
    ) -> Result<SpiffeBundle, FetchRefused> {
        let own = session.trust().borrow().clone();
        let own = own.ok_or_else(|| FetchRefused::Unreachable("the own bundle is not known yet".into()))?;
        let authentication = self.authentication(&endpoint.profile, partners, &own.own);
        let authentication = authentication.map_err(FetchRefused::Unreachable)?;
        let answered = timeout(FETCH_LIMIT, self.parts.fetcher.fetch(&endpoint.url, authentication)).await;
        let document = answered
            .map_err(|_elapsed| FetchRefused::Unreachable(format!("no answer within {FETCH_LIMIT:?}")))?
            .map_err(FetchRefused::Unreachable)?;
        Ok(SpiffeBundle::from_json(trust_domain.clone(), &document)?)
    }

    /// What a file holds, once that stays the same. Without a limit, which would leave one thread more behind at each reading of
    /// a file system that hangs: nobody else waits for this one.
    pub(super) async fn in_file(
        &self,
        trust_domain: &TrustDomain,
        path: &Path,
        kept: Option<&Partner>,
    ) -> Result<SpiffeBundle, FetchRefused> {
        let content = self.content_of(path).await?;
        let bundle = handed_over(trust_domain.clone(), &content).map_err(FetchRefused::File)?;
        if kept.and_then(|partner| partner.bundle.as_ref()) == Some(&bundle) {
            return Ok(bundle);
        }
        sleep(SETTLE).await;
        if self.content_of(path).await? != content {
            return Err(FetchRefused::File("it is being written".to_owned()));
        }
        let replaced = kept.and_then(|partner| partner.replaced.as_ref());
        if replaced == Some(&digest_of(bundle.to_json().as_bytes())) && self.may_be_behind(trust_domain) {
            return Err(FetchRefused::Behind);
        }
        Ok(bundle)
    }

    async fn content_of(&self, path: &Path) -> Result<Vec<u8>, FetchRefused> {
        let (files, path) = (Arc::clone(&self.parts.files), path.to_owned());
        let read = spawn_blocking(move || files.read(&path)).await.map_err(io::Error::other).flatten();
        read.map_err(|error| FetchRefused::Unreachable(error.to_string()))
    }

    /// Whether the file of this replica may not have what another one's had when that was active: it has not been seen to change
    /// since this one is, and a kubelet may still bring it.
    fn may_be_behind(&self, trust_domain: &TrustDomain) -> bool {
        let polling = self.polling();
        polling.get(trust_domain).is_none_or(|polled| polled.last_success.is_none() && polled.first.elapsed() < BEHIND)
    }

    /// From a success to the next fetch.
    pub(super) fn until_next(&self, source: &BundleSource, bundle: &SpiffeBundle) -> Duration {
        match source {
            BundleSource::Endpoint(_) => self.jittered(interval_after(Some(bundle))),
            BundleSource::File(_) => READ_EVERY,
        }
    }

    /// From so many failures in a row to the next attempt.
    pub(super) fn until_retry(&self, source: &BundleSource, failures: u32, known: Option<&SpiffeBundle>) -> Duration {
        match source {
            BundleSource::Endpoint(_) => self.jittered(pause_after(failures, known)),
            BundleSource::File(_) => READ_EVERY,
        }
    }

    /// Up to a tenth shorter, so that replicas of many pairs don't ask in step.
    fn jittered(&self, pause: Duration) -> Duration {
        pause - part_of(pause / 10, self.parts.random.as_ref())
    }
}

/// How often a bundle is to be read, for whoever looks at how old it is.
pub(super) fn shown_interval(source: &BundleSource, bundle: &SpiffeBundle) -> Duration {
    match source {
        BundleSource::Endpoint(_) => interval_after(Some(bundle)),
        BundleSource::File(_) => SHOWN_INTERVAL,
    }
}
