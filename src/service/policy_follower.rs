//! A gateway's side of the policies: whom it may accept behind which Service, kept as a replica of the pair says it.
//!
//! What is known stays when no replica answers. How replicas are reached is [`PolicySource`]'s, how the result is served
//! `grpc`'s.

mod accepted_peers;

use std::{convert::Infallible, pin::pin, sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tracing::{info, warn};

use self::accepted_peers::Gathering;
pub use self::accepted_peers::{AcceptedPeers, ServiceKey};
use super::{metrics::Metrics, policy_view::PolicyUpdate, ports::BoxFuture};
use crate::domain::{
    clock::Clock,
    random::{SecureRandom, part_of},
};

/// Where policies are from.
pub trait PolicySource: Send + Sync {
    /// Opens a stream of them that goes on from `version`; from the beginning if it is empty. Then it says which of the `known`
    /// Services do not exist any more.
    ///
    /// # Errors
    ///
    /// What each replica said.
    fn watch<'a>(
        &'a self,
        version: &'a str,
        known: &'a [ServiceKey],
    ) -> BoxFuture<'a, Result<Box<dyn PolicyStream>, String>>;
}

/// Policies as they change.
pub trait PolicyStream: Send {
    /// The next change, or part of one. Can be dropped and called again without loss.
    ///
    /// # Errors
    ///
    /// Why there is none any more.
    fn next(&mut self) -> BoxFuture<'_, Result<PolicyUpdate, String>>;
}

/// `None` until everything is known for the first time.
pub type PeersReceiver = watch::Receiver<Option<Arc<AcceptedPeers>>>;

/// The task that follows.
pub struct PolicyFollower {
    source: Arc<dyn PolicySource>,
    published: watch::Sender<Option<Arc<AcceptedPeers>>>,
    gathering: Gathering,
    metrics: Arc<Metrics>,
    clock: Arc<dyn Clock>,
    random: Arc<dyn SecureRandom>,
}

/// So often it is noted that what is known still holds.
const CONFIRM_EVERY: Duration = Duration::from_secs(5);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// A pair that comes back is noticed within this.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

impl PolicyFollower {
    /// A follower, and what it will publish. Nothing happens before [`PolicyFollower::run`].
    pub fn new(
        source: Arc<dyn PolicySource>,
        metrics: Arc<Metrics>,
        clock: Arc<dyn Clock>,
        random: Arc<dyn SecureRandom>,
    ) -> (Self, PeersReceiver) {
        let (published, receiver) = watch::channel(None);
        (Self { source, published, gathering: Gathering::default(), metrics, clock, random }, receiver)
    }

    /// Follows for ever.
    pub async fn run(mut self) -> Infallible {
        let mut pause = FIRST_PAUSE;
        let mut said = String::new();
        loop {
            let (source, version) = (Arc::clone(&self.source), self.gathering.version().to_owned());
            let known = self.gathering.known();
            let why = match self.forgetting_meanwhile(source.watch(&version, &known)).await {
                Ok(mut stream) => {
                    let begun = Instant::now();
                    let why = self.follow(stream.as_mut()).await;
                    // one that ends as soon as it has begun is no better than none
                    if begun.elapsed() > CONFIRM_EVERY {
                        pause = FIRST_PAUSE;
                        said.clear();
                    }
                    why
                }
                Err(why) => why,
            };
            if why != said {
                warn!(event = "policy_stream_lost", why, "what is known of policies stays as it is");
                said = why;
            }
            let rest = sleep(self.jittered(pause));
            self.forgetting_meanwhile(rest).await;
            pause = LONGEST_PAUSE.min(pause * 2);
        }
    }

    /// Waits for `task`. Services that have left are forgotten in time also while nothing is heard.
    async fn forgetting_meanwhile<T>(&mut self, task: impl Future<Output = T>) -> T {
        let mut task = pin!(task);
        loop {
            self.forget();
            if let Ok(done) = timeout(CONFIRM_EVERY, task.as_mut()).await {
                return done;
            }
        }
    }

    fn forget(&mut self) {
        if let Some(fewer) = self.gathering.forget(Instant::now()) {
            self.publish(fewer);
        }
    }

    /// Until the stream ends; returns why.
    async fn follow(&mut self, stream: &mut dyn PolicyStream) -> String {
        loop {
            self.confirm();
            self.forget();
            let update = match timeout(CONFIRM_EVERY, stream.next()).await {
                Ok(Ok(update)) => update,
                Ok(Err(why)) => return why,
                Err(_nothing_new) => continue,
            };
            match self.gathering.take(update, Instant::now()) {
                Ok(Some(whole)) => self.publish(whole),
                Ok(None) => {}
                // nothing of a change that can't be read is used, and the next stream says everything anew
                Err(why) => return why,
            }
        }
    }

    fn publish(&self, peers: AcceptedPeers) {
        let (services, revision) = (self.gathering.services(), peers.revision());
        if self.published.send_replace(Some(Arc::new(peers))).is_none() {
            info!(event = "policy_known", services, revision);
        }
        self.metrics.set_policy_services(services);
    }

    fn confirm(&self) {
        if self.published.borrow().is_some() {
            self.metrics.policy_confirmed(self.clock.now());
        }
    }

    /// Up to a quarter less, so that the gateways of a pair that comes back don't all ask in the same moment.
    fn jittered(&self, pause: Duration) -> Duration {
        pause - part_of(pause / 4, self.random.as_ref())
    }
}

#[cfg(test)]
mod tests;
