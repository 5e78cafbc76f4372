//! The trust as a replica knows it, active or not: of its own term, of the active, or what was kept. Of two terms the later is
//! right, and within one term the sequence never falls.

mod stored;

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::watch,
    task::spawn_blocking,
    time::{Instant, sleep, sleep_until, timeout},
};
use tracing::{debug, info, warn};

pub use self::stored::StoredTrust;
use super::{
    ports::{ActiveReplica, BoxFuture, Pair, PairEndpoint},
    published_trust::{PublishedTrust, TrustReceiver},
    signing_session::SigningSession,
    trust_followers::{Follower, Standing, TrustFollowers},
    waiting::next,
};
use crate::domain::leadership::Term;

/// The trust of a term.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TermTrust {
    /// In which it was said.
    pub term: Term,
    /// It.
    pub trust: Arc<PublishedTrust>,
}

impl TermTrust {
    /// Of two the one of the higher rank is right.
    pub fn rank(&self) -> (Term, u64) {
        (self.term, self.trust.sequence())
    }
}

/// The latest, with the term that it is of.
pub type TermTrustReceiver = watch::Receiver<Option<TermTrust>>;

/// A term of this replica.
pub trait TrustSession: Send + Sync + 'static {
    /// Which.
    fn term(&self) -> Term;

    /// What is published in it.
    fn trust(&self) -> TrustReceiver;
}

impl TrustSession for SigningSession {
    fn term(&self) -> Term {
        self.term()
    }

    fn trust(&self) -> TrustReceiver {
        self.trust()
    }
}

/// How the active is asked.
pub trait TrustOfActive: Send + Sync {
    /// Opens a stream of what it knows.
    ///
    /// # Errors
    ///
    /// Why there is none, for people.
    fn open<'a>(&'a self, active: &'a ActiveReplica) -> BoxFuture<'a, Result<Box<dyn PairTrustStream>, String>>;
}

/// What another replica knows, as it changes.
pub trait PairTrustStream: Send {
    /// The next. Can be dropped and called again without loss.
    ///
    /// # Errors
    ///
    /// Why there is none any more.
    fn next(&mut self) -> BoxFuture<'_, Result<ActiveSays, String>>;

    /// Tells how it stands here.
    ///
    /// # Errors
    ///
    /// When the stream has ended.
    fn tell(&mut self, here: StandbySays) -> BoxFuture<'_, Result<(), String>>;

    /// Tells that this replica ends, and waits a moment until that is heard.
    fn leave(&mut self) -> BoxFuture<'_, ()>;
}

/// What comes from the replica that is followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ActiveSays {
    /// The whole of it.
    Trust(TermTrust),
    /// It ends: whatever it served, it serves no more.
    Leaves,
}

/// What it is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StandbySays {
    /// The sequence that is known here, and served; 0 if none is.
    pub known: u64,
    /// Those who follow here, all of them.
    pub followers: Vec<(Follower, Standing)>,
}

/// What is left of the trust while nobody is active.
pub trait KeptTrust: Send + Sync {
    /// What was kept last, if anything was. Blocks: call it off the runtime.
    ///
    /// # Errors
    ///
    /// Why it can't be read, for people.
    fn load(&self) -> Result<Option<TermTrust>, String>;

    /// Keeps what the active publishes, where the stored state does not do so, unless something of a higher rank is kept: a write
    /// may end after the term that it was begun in. Blocks: call it off the runtime.
    ///
    /// # Errors
    ///
    /// Why it can't be written, for people.
    fn keep(&self, trust: &TermTrust) -> Result<(), String>;
}

/// The task.
pub struct PairTrust {
    pair: Arc<dyn Pair>,
    source: Arc<dyn TrustOfActive>,
    kept: Arc<dyn KeptTrust>,
    followers: Arc<TrustFollowers>,
    known: watch::Sender<Option<TermTrust>>,
    published: watch::Sender<Option<Arc<PublishedTrust>>>,
    /// Whether what is known is of the own term, or comes from the active.
    is_live: AtomicBool,
}

/// Whom this replica follows, or did last.
#[derive(Default)]
struct Followed {
    stream: Option<Box<dyn PairTrustStream>>,
    /// Its name, unless it has said that it ends.
    active: Option<String>,
}

/// For a stream to be there, and for what is told on it.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);
/// Changes of followers within this are told together.
const PACE: Duration = Duration::from_millis(100);
/// So often they are told of anyway.
const CONFIRM_EVERY: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(200);
/// For an active of a version that publishes nothing, and for what can't be read.
const LONG_PAUSE: Duration = Duration::from_secs(5);
/// Between two attempts to keep what can't be kept.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

impl PairTrust {
    /// Of a replica whose pair is `pair`, and what it will publish. Nothing happens before [`PairTrust::run`].
    pub fn new(
        pair: Arc<dyn Pair>,
        source: Arc<dyn TrustOfActive>,
        kept: Arc<dyn KeptTrust>,
        followers: Arc<TrustFollowers>,
    ) -> (Self, TrustReceiver) {
        let (published, receiver) = watch::channel(None);
        let known = watch::Sender::new(None);
        (Self { pair, source, kept, followers, known, published, is_live: AtomicBool::new(false) }, receiver)
    }

    /// The same with terms, for other replicas.
    pub fn with_terms(&self) -> TermTrustReceiver {
        self.known.subscribe()
    }

    /// Follows the own terms in `sessions`, and the active while there is none, until `leaving`; then it says so to the active.
    pub async fn run<S: TrustSession>(
        self,
        sessions: watch::Receiver<Option<Arc<S>>>,
        leaving: impl Future<Output = ()>,
    ) {
        let mut followed = Followed::default();
        tokio::select! {
            never = self.follow_all(sessions, &mut followed) => match never {},
            never = self.look_at_kept() => match never {},
            () = leaving => {}
        }
        if let Some(mut stream) = followed.stream {
            stream.leave().await;
        }
    }

    async fn follow_all<S: TrustSession>(
        &self,
        mut sessions: watch::Receiver<Option<Arc<S>>>,
        followed: &mut Followed,
    ) -> Infallible {
        loop {
            let session = sessions.borrow_and_update().clone();
            tokio::select! {
                () = next(&mut sessions) => {}
                never = self.follow(session, followed) => match never {},
            }
            followed.stream = None;
            self.is_live.store(false, Ordering::Relaxed);
        }
    }

    async fn follow<S: TrustSession>(&self, session: Option<Arc<S>>, followed: &mut Followed) -> Infallible {
        let Some(session) = session else { return self.follow_active(followed).await };
        let known = self.known.borrow().as_ref().map_or(0, |known| known.trust.sequence());
        let (term, mut trust) = (session.term(), session.trust());
        self.followers.take_over(term, followed.active.take().as_deref().map(|active| (active, known)));
        loop {
            let now = trust.borrow_and_update().clone();
            let Some(now) = now else {
                next(&mut trust).await;
                continue;
            };
            let now = TermTrust { term, trust: now };
            self.is_live.store(true, Ordering::Relaxed);
            self.take(now.clone());
            self.keep_until_changed(now, &mut trust).await;
        }
    }

    async fn follow_active(&self, followed: &mut Followed) -> Infallible {
        let mut active = self.pair.active();
        let mut said = String::new();
        loop {
            let now = active.borrow_and_update().clone();
            let Some(now) = now else {
                next(&mut active).await;
                continue;
            };
            let why = tokio::select! {
                why = self.follow_at(&now, followed) => Some(why),
                () = next(&mut active) => None,
            };
            followed.stream = None;
            self.is_live.store(false, Ordering::Relaxed);
            let Some(why) = why else { continue };
            let is_news = why != said;
            debug!(event = "pair_trust_not_followed", active = now.replica, why, is_news);
            sleep(if is_news { PAUSE } else { LONG_PAUSE }).await;
            said = why;
        }
    }

    /// Until the stream ends; returns why.
    async fn follow_at(&self, active: &ActiveReplica, followed: &mut Followed) -> String {
        let opened = match timeout(ANSWER_LIMIT, self.source.open(active)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(why)) => return why,
            Err(_elapsed) => return format!("no answer within {ANSWER_LIMIT:?}"),
        };
        let stream = followed.stream.insert(opened);
        // on one machine whoever is gone serves nobody
        followed.active = matches!(active.endpoint, PairEndpoint::Tcp(_)).then(|| active.replica.clone());
        let mut changes = self.followers.changes();
        let mut tell_at = Instant::now();
        loop {
            tokio::select! {
                said = stream.next() => match said {
                    Ok(ActiveSays::Trust(trust)) => {
                        self.is_live.store(true, Ordering::Relaxed);
                        self.take(trust);
                        tell_at = tell_at.min(Instant::now() + PACE);
                    }
                    Ok(ActiveSays::Leaves) => {
                        followed.active = None;
                        return "it ends".into();
                    }
                    Err(why) => return why,
                },
                Ok(()) = changes.changed() => tell_at = tell_at.min(Instant::now() + PACE),
                () = sleep_until(tell_at) => {
                    match timeout(ANSWER_LIMIT, stream.tell(self.here())).await {
                        Ok(Ok(())) => tell_at = Instant::now() + CONFIRM_EVERY,
                        Ok(Err(why)) => return why,
                        Err(_elapsed) => return format!("nothing is taken within {ANSWER_LIMIT:?}"),
                    }
                }
            }
        }
    }

    fn here(&self) -> StandbySays {
        let known = self.known.borrow().as_ref().map_or(0, |known| known.trust.sequence());
        StandbySays { known, followers: self.followers.here() }
    }

    /// What is older than what is known is left alone.
    fn take(&self, next: TermTrust) {
        let held = self.known.borrow().clone();
        if let Some(held) = &held {
            if next.rank() < held.rank() || next == *held {
                return;
            }
            if next.trust.sequence() < held.trust.sequence() {
                let (was, is) = (held.trust.sequence(), next.trust.sequence());
                warn!(event = "trust_sequence_fell", was, is, "agents that have seen the higher one wait for it");
            }
        }
        if held.is_none_or(|held| held.trust != next.trust) {
            let TermTrust { term, trust } = &next;
            info!(event = "trust_known", %term, sequence = trust.sequence(), federated = trust.federated.len());
            self.published.send_replace(Some(Arc::clone(trust)));
        }
        self.known.send_replace(Some(next));
    }

    /// Returns when there is another trust. No write is left while it is under way: it could end after the next one.
    async fn keep_until_changed(&self, trust: TermTrust, changes: &mut TrustReceiver) {
        let (mut again, mut said) = (PAUSE, None);
        while let Err(error) = self.keep(trust.clone()).await {
            if said.as_ref() != Some(&error) {
                warn!(
                    event = "trust_not_kept",
                    error, "while nobody is active, a replica that starts does not know it"
                );
            }
            said = Some(error);
            if timeout(again, next(changes)).await.is_ok() {
                return;
            }
            again = (again * 2).min(LONGEST_PAUSE);
        }
        if said.is_some() {
            info!(event = "trust_kept_again");
        }
        next(changes).await;
    }

    async fn keep(&self, trust: TermTrust) -> Result<(), String> {
        let kept = Arc::clone(&self.kept);
        spawn_blocking(move || kept.keep(&trust)).await.map_err(|error| error.to_string()).flatten()
    }

    /// While nobody active is heard: whoever is cut off from the others alone learns of what they publish by what is stored.
    async fn look_at_kept(&self) -> Infallible {
        loop {
            if !self.is_live.load(Ordering::Relaxed) {
                let kept = Arc::clone(&self.kept);
                match spawn_blocking(move || kept.load()).await.map_err(|error| error.to_string()).flatten() {
                    Ok(Some(trust)) => self.take(trust),
                    Ok(None) => {}
                    Err(error) => debug!(event = "kept_trust_not_read", error),
                }
            }
            sleep(LONG_PAUSE).await;
        }
    }
}

#[cfg(test)]
mod tests;
