//! Who follows the trust live, and how far each has come: what a step of a rotation waits for. A follower is known as long as a
//! stream of it is open and a little longer, so that one that only changes from one replica to another stays known.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::watch, time::Instant};

use super::ports::Followers;
use crate::domain::{authority::rotation::Reached, identity::SpiffeId};

/// A follower comes back to some replica within this, if it comes back.
const KNOWN_FOR: Duration = Duration::from_secs(12);
/// So long after a change of the active nobody can say who follows: followers come back from elsewhere, and other replicas tell
/// of theirs.
const GATHERING: Duration = Duration::from_secs(15);
/// Streams that are open or just gone. Room for as many as are served, and for as many again that come back.
const STREAMS_AT_MOST: usize = 16_384;

/// A process that follows.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Follower {
    /// As whom it has proven itself.
    pub identity: SpiffeId,
    /// Its own name among others of its identity.
    pub instance: Arc<str>,
}

/// All followers of a replica, and those that others have told it of.
#[derive(Debug)]
pub struct TrustFollowers {
    streams: Mutex<Streams>,
    changed: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct Streams {
    opened: u64,
    /// By number: of one follower the last counts.
    known: BTreeMap<u64, Known>,
    /// Until when it is not known who there is.
    gathering_until: Option<Instant>,
}

#[derive(Debug)]
struct Known {
    follower: Follower,
    in_effect: u64,
    origin: Origin,
    gone: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    Here,
    OtherReplica,
}

/// A follower's open stream. It is gone when this is dropped.
#[derive(Debug)]
pub struct FollowerStream {
    followers: Arc<TrustFollowers>,
    number: u64,
}

/// What another replica says of its followers, on one stream.
#[derive(Debug)]
pub struct PassedFollowers {
    followers: Arc<TrustFollowers>,
    streams: HashMap<Follower, FollowerStream>,
}

/// There is no room for one more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{STREAMS_AT_MOST} streams follow the trust already")]
pub struct TooManyFollowers;

impl Default for TrustFollowers {
    fn default() -> Self {
        Self { streams: Mutex::default(), changed: watch::Sender::new(()) }
    }
}

impl Followers for TrustFollowers {
    fn begin_term(&self) {
        Self::begin_term(self);
    }

    fn reached(&self) -> Vec<Reached> {
        Self::reached(self)
    }
}

impl TrustFollowers {
    /// A follower has opened a stream here.
    ///
    /// # Errors
    ///
    /// When there are too many.
    pub fn open(self: &Arc<Self>, follower: Follower) -> Result<FollowerStream, TooManyFollowers> {
        self.open_from(Origin::Here, follower)
    }

    /// Another replica has begun to tell of its own.
    pub fn passed(self: &Arc<Self>) -> PassedFollowers {
        PassedFollowers { followers: Arc::clone(self), streams: HashMap::new() }
    }

    /// This replica is active from now on, and does not know yet who follows at others.
    pub fn begin_term(&self) {
        self.locked().gathering_until = Some(Instant::now() + GATHERING);
    }

    /// Those that follow at this replica itself, each with the sequence that is in effect there.
    pub fn here(&self) -> Vec<(Follower, u64)> {
        let here = self.locked().newest(|known| known.origin == Origin::Here);
        here.into_iter().collect()
    }

    /// Tells of each change of [`Self::here`].
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Everybody, with the sequence that each has said is in effect. As long as it is not known who there is, one more that has
    /// none.
    pub fn reached(&self) -> Vec<Reached> {
        let mut streams = self.locked();
        let everybody = streams.newest(|_| true).into_iter();
        let mut reached: Vec<_> = everybody
            .map(|(follower, sequence)| Reached {
                who: format!("agent {} of {}", follower.instance, follower.identity),
                sequence,
            })
            .collect();
        let left = streams.gathering_until.map(|until| until.saturating_duration_since(Instant::now()));
        if let Some(left) = left.filter(|left| !left.is_zero()) {
            let seconds = left.as_secs() + 1;
            let who =
                format!("whoever has not come to the new active replica yet, for which there are {seconds} s left,");
            reached.push(Reached { who, sequence: 0 });
        }
        reached
    }

    fn open_from(self: &Arc<Self>, origin: Origin, follower: Follower) -> Result<FollowerStream, TooManyFollowers> {
        let mut streams = self.locked();
        streams.forget();
        if streams.known.len() >= STREAMS_AT_MOST {
            return Err(TooManyFollowers);
        }
        streams.opened += 1;
        let number = streams.opened;
        streams.known.insert(number, Known { follower, in_effect: 0, origin, gone: None });
        Ok(FollowerStream { followers: Arc::clone(self), number })
    }

    fn change(&self, number: u64, change: impl FnOnce(&mut Known)) {
        let mut streams = self.locked();
        let Some(known) = streams.known.get_mut(&number) else { return };
        change(known);
        let is_here = known.origin == Origin::Here;
        drop(streams);
        if is_here {
            self.changed.send_replace(());
        }
    }

    fn locked(&self) -> MutexGuard<'_, Streams> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Streams {
    fn forget(&mut self) {
        self.known.retain(|_, known| known.gone.is_none_or(|gone| gone.elapsed() < KNOWN_FOR));
    }

    /// Of each follower what it said on the stream that it opened last.
    fn newest(&mut self, counts: impl Fn(&Known) -> bool) -> BTreeMap<Follower, u64> {
        self.forget();
        let known = self.known.values().filter(|known| counts(known));
        known.map(|known| (known.follower.clone(), known.in_effect)).collect()
    }
}

impl FollowerStream {
    /// This sequence is in effect there.
    pub fn says(&self, in_effect: u64) {
        self.followers.change(self.number, |known| known.in_effect = in_effect);
    }
}

impl Drop for FollowerStream {
    fn drop(&mut self) {
        self.followers.change(self.number, |known| known.gone = Some(Instant::now()));
    }
}

impl PassedFollowers {
    /// All that it has now. Whoever is not among them has gone.
    ///
    /// # Errors
    ///
    /// When there are too many.
    pub fn are(&mut self, all: Vec<(Follower, u64)>) -> Result<(), TooManyFollowers> {
        let mut before = std::mem::take(&mut self.streams);
        for (follower, in_effect) in all {
            let stream = match before.remove(&follower) {
                Some(stream) => stream,
                None => self.followers.open_from(Origin::OtherReplica, follower.clone())?,
            };
            stream.says(in_effect);
            self.streams.insert(follower, stream);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    fn follower(name: &str) -> Follower {
        Follower { identity: "spiffe://td/gateway".parse().unwrap(), instance: name.into() }
    }

    fn reached(followers: &TrustFollowers) -> Vec<(String, u64)> {
        followers.reached().into_iter().map(|Reached { who, sequence }| (who, sequence)).collect()
    }

    fn one(name: &str, sequence: u64) -> (String, u64) {
        (format!("agent {name} of spiffe://td/gateway"), sequence)
    }

    #[tokio::test(start_paused = true)]
    async fn a_follower_stays_known_for_a_while_and_what_it_said_last_counts() {
        let followers = Arc::new(TrustFollowers::default());
        let first = followers.open(follower("a")).unwrap();
        assert_eq!(reached(&followers), [one("a", 0)]);
        first.says(3);
        let second = followers.open(follower("a")).unwrap();
        assert_eq!(reached(&followers), [one("a", 0)], "the new stream has said nothing yet");
        second.says(4);
        drop(first);
        assert_eq!(reached(&followers), [one("a", 4)]);
        drop(second);
        advance(KNOWN_FOR - Duration::from_millis(1)).await;
        assert_eq!(reached(&followers), [one("a", 4)]);
        advance(Duration::from_millis(1)).await;
        assert_eq!(reached(&followers), []);
    }

    #[tokio::test(start_paused = true)]
    async fn what_another_replica_passes_on_is_known_here_and_not_passed_on_again() {
        let followers = Arc::new(TrustFollowers::default());
        let (_own, mut passed) = (followers.open(follower("own")).unwrap(), followers.passed());
        passed.are(vec![(follower("a"), 1), (follower("b"), 2)]).unwrap();
        assert_eq!(reached(&followers), [one("a", 1), one("b", 2), one("own", 0)]);
        assert_eq!(followers.here(), [(follower("own"), 0)]);
        passed.are(vec![(follower("a"), 2)]).unwrap();
        assert_eq!(reached(&followers), [one("a", 2), one("b", 2), one("own", 0)], "b may be on its way here");
        advance(KNOWN_FOR).await;
        assert_eq!(reached(&followers), [one("a", 2), one("own", 0)]);
        drop(passed);
        advance(KNOWN_FOR).await;
        assert_eq!(reached(&followers), [one("own", 0)]);
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_change_of_the_active_nobody_counts_as_reached_for_a_while() {
        let followers = TrustFollowers::default();
        followers.begin_term();
        let [(who, 0)] = &reached(&followers)[..] else { panic!("nothing is waited for") };
        assert!(who.contains("15 s left") || who.contains("16 s left"), "{who}");
        advance(GATHERING).await;
        assert_eq!(reached(&followers), []);
    }

    #[tokio::test]
    async fn changes_of_those_here_are_told() {
        let followers = Arc::new(TrustFollowers::default());
        let mut changes = followers.changes();
        let mut passed = followers.passed();
        passed.are(vec![(follower("a"), 1)]).unwrap();
        assert!(!changes.has_changed().unwrap(), "it is told of elsewhere");
        let stream = followers.open(follower("b")).unwrap();
        stream.says(1);
        assert!(changes.has_changed().unwrap());
        changes.mark_unchanged();
        drop(stream);
        assert!(changes.has_changed().unwrap());
    }
}
