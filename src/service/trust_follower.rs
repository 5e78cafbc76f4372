//! A workload's side of the trust: what the pair publishes, live, beside the SVID that it signs.
//!
//! While a stream is open, what comes on it is right, and what came with an SVID does not count; while none is, it is the other
//! way round. Bundles of other trust domains and keys of JWT-SVIDs, which come on no other way, stay as they were.

use std::{convert::Infallible, sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use tracing::{debug, info, warn};

use super::{
    ca_roots::RootsFollower,
    ports::BoxFuture,
    published_trust::{PublishedTrust, TrustReceiver},
};
use crate::domain::{
    identity::TrustDomain,
    random::{SecureRandom, part_of},
    x509::BundleError,
};

/// Where the trust is from.
pub trait TrustSource: Send + Sync {
    /// Opens a stream, and says what is in effect here. `None` if it is none that publishes anything, as istiod is.
    ///
    /// # Errors
    ///
    /// What each replica said.
    fn open(&self, in_effect: u64) -> BoxFuture<'_, Result<Option<Box<dyn TrustStream>>, String>>;
}

/// The trust as it changes.
pub trait TrustStream: Send {
    /// The whole of it. Can be dropped and called again without loss.
    ///
    /// # Errors
    ///
    /// Why there is none any more.
    fn next(&mut self) -> BoxFuture<'_, Result<PublishedTrust, String>>;

    /// Says what is in effect from now on.
    ///
    /// # Errors
    ///
    /// When the stream has ended.
    fn says(&mut self, in_effect: u64) -> BoxFuture<'_, Result<(), String>>;

    /// Says that this process ends, and waits a moment until that is heard.
    fn leave(&mut self) -> BoxFuture<'_, ()>;
}

/// The task that follows.
pub struct TrustFollower {
    source: Arc<dyn TrustSource>,
    trust_domain: TrustDomain,
    /// Where the roots of the own trust domain go, unless they are from elsewhere.
    roots: Option<RootsFollower>,
    published: watch::Sender<Option<Arc<PublishedTrust>>>,
    /// Whether the authority has said that it publishes nothing.
    has_nothing: watch::Sender<bool>,
    /// Whether the authority was asked, and what it said, if anything, is published.
    was_asked: watch::Sender<bool>,
    /// The sequence that clients of the socket get.
    served: watch::Receiver<u64>,
    random: Arc<dyn SecureRandom>,
}

/// What can't be used of what comes.
#[derive(Debug, thiserror::Error)]
enum UnusableTrust {
    #[error("the pair publishes the trust of {found}: trustDomain is {expected}")]
    OtherTrustDomain { found: TrustDomain, expected: TrustDomain },
    #[error("the pair publishes no roots that could be used: {0}")]
    Roots(#[from] BundleError),
}

const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// A pair that comes back is noticed within this.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// For an authority that publishes nothing: it may be replaced by one that does.
const RARELY: Duration = Duration::from_secs(600);

impl TrustFollower {
    /// A follower for SVIDs of `trust_domain`, and what it will publish. `served` is what clients get of it. Nothing happens
    /// before [`TrustFollower::run`].
    pub fn new(
        source: Arc<dyn TrustSource>,
        trust_domain: TrustDomain,
        roots: Option<RootsFollower>,
        served: watch::Receiver<u64>,
        random: Arc<dyn SecureRandom>,
    ) -> (Self, TrustReceiver) {
        let (published, receiver) = watch::channel(None);
        let [has_nothing, was_asked] = [false; 2].map(watch::Sender::new);
        (Self { source, trust_domain, roots, published, has_nothing, was_asked, served, random }, receiver)
    }

    /// Whether the authority has said, the last time that it was asked, that it publishes nothing, as istiod does.
    pub fn has_nothing(&self) -> watch::Receiver<bool> {
        self.has_nothing.subscribe()
    }

    /// Whether the authority was asked once, and what came of that is published: there is nothing more to be waited for.
    pub fn was_asked(&self) -> watch::Receiver<bool> {
        self.was_asked.subscribe()
    }

    /// Follows until `leaving`, and then says so.
    pub async fn run(mut self, leaving: impl Future<Output = ()>) {
        let mut stream = None;
        tokio::select! {
            never = self.follow_on(&mut stream) => match never {},
            () = leaving => {}
        }
        if let Some(mut stream) = stream {
            stream.leave().await;
        }
    }

    async fn follow_on(&mut self, opened: &mut Option<Box<dyn TrustStream>>) -> Infallible {
        let (mut pause, mut said) = (FIRST_PAUSE, String::new());
        loop {
            let in_effect = *self.served.borrow_and_update();
            let answered = self.source.open(in_effect).await;
            if !matches!(answered, Ok(Some(_))) {
                self.was_asked.send_replace(true);
            }
            let why = match answered {
                Ok(Some(stream)) => {
                    self.has_nothing.send_replace(false);
                    let begun = Instant::now();
                    let why = self.follow(opened.insert(stream).as_mut()).await;
                    *opened = None;
                    self.was_asked.send_replace(true);
                    if begun.elapsed() > LONGEST_PAUSE {
                        pause = FIRST_PAUSE;
                        said.clear();
                    }
                    self.go_by_answers(&why);
                    why
                }
                Ok(None) => {
                    self.has_nothing.send_replace(true);
                    debug!(event = "trust_not_published", "the certificate authority publishes no trust to follow");
                    sleep(self.jittered(RARELY)).await;
                    continue;
                }
                Err(why) => why,
            };
            if why != said {
                debug!(event = "trust_stream_lost", why, "what came with the SVID counts meanwhile");
                said = why;
            }
            sleep(self.jittered(pause)).await;
            pause = LONGEST_PAUSE.min(pause * 2);
        }
    }

    /// Until the stream ends; returns why.
    async fn follow(&mut self, stream: &mut dyn TrustStream) -> String {
        loop {
            tokio::select! {
                next = stream.next() => match next {
                    Ok(trust) => {
                        if let Err(error) = self.take(trust) {
                            warn!(event = "trust_unusable", %error, "what came with the SVID counts");
                            return error.to_string();
                        }
                        self.was_asked.send_replace(true);
                    }
                    Err(why) => return why,
                },
                Ok(()) = self.served.changed() => {
                    let in_effect = *self.served.borrow_and_update();
                    if let Err(why) = stream.says(in_effect).await {
                        return why;
                    }
                }
            }
        }
    }

    /// A replica that has not heard of everything yet changes nothing.
    fn take(&self, trust: PublishedTrust) -> Result<(), UnusableTrust> {
        if trust.own.trust_domain != self.trust_domain {
            let (found, expected) = (trust.own.trust_domain, self.trust_domain.clone());
            return Err(UnusableTrust::OtherTrustDomain { found, expected });
        }
        let roots = trust.own_roots()?;
        let (sequence, federated) = (trust.sequence(), trust.federated.len());
        let known = self.published.borrow().clone();
        if known.as_ref().is_some_and(|known| sequence < known.sequence()) {
            info!(event = "trust_outdated", sequence, "the replica has not heard of the newest trust yet");
            return Ok(());
        }
        if known.is_none_or(|known| *known != trust) {
            info!(event = "trust_changed", sequence, roots = roots.roots().len(), federated, tainted = ?trust.tainted);
            self.published.send_replace(Some(Arc::new(trust)));
        }
        if let Some(follower) = &self.roots {
            follower.found(roots.to_pem().as_bytes()).map_err(BundleError::from)?;
        }
        Ok(())
    }

    /// What is published stays until an answer brings something else.
    fn go_by_answers(&self, why: &str) {
        if let Some(roots) = &self.roots {
            roots.forget(why);
        }
    }

    /// Up to a quarter less, so that the agents of a pair that comes back don't all ask in the same moment.
    fn jittered(&self, pause: Duration) -> Duration {
        pause - part_of(pause / 4, self.random.as_ref())
    }
}

#[cfg(test)]
mod tests;
