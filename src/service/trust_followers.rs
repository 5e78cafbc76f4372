//! Who follows the trust live, and how far each has come: what a step of a rotation waits for. A follower is known as long as a
//! stream of it is open and a little longer, so that one that only changes from one replica to another stays known. Whoever ends
//! says so; whoever is lost without a word may go on with what it has, and is remembered for as long as that is of use to it.

mod lost;
mod streams;
mod who;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::watch;

pub use self::streams::TooManyFollowers;
use self::{
    streams::{Origin, Streams},
    who::Who,
};
use super::ports::Followers;
use crate::domain::{authority::rotation::Reached, identity::SpiffeId, leadership::Term};

/// So long after a change of the active nobody can say who follows: followers come back from elsewhere, and other replicas tell
/// of theirs.
const GATHERING: Duration = Duration::from_secs(15);

/// An agent that follows.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Follower {
    /// As whom it has proven itself.
    pub identity: SpiffeId,
    /// Its own name among others of its identity.
    pub instance: Arc<str>,
}

/// How it stands with a follower.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It follows, and this sequence is in effect there.
    Follows(u64),
    /// It has said that it ends.
    Left,
}

/// All followers of a replica, those that others have told it of, and these others.
#[derive(Debug)]
pub struct TrustFollowers {
    streams: Mutex<Streams>,
    changed: watch::Sender<()>,
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

impl Default for TrustFollowers {
    fn default() -> Self {
        Self { streams: Mutex::default(), changed: watch::Sender::new(()) }
    }
}

impl Followers for TrustFollowers {
    fn begin_term(&self, term: Term) {
        self.locked().begin(term);
    }

    fn reached(&self) -> Vec<Reached> {
        Self::reached(self)
    }

    fn lost_agents(&self) -> Vec<Reached> {
        self.locked().lost().agents()
    }

    fn lost_by_others(&self) -> Option<Reached> {
        self.locked().lost().by_others()
    }
}

impl TrustFollowers {
    /// An agent has opened a stream here.
    ///
    /// # Errors
    ///
    /// When there are too many.
    pub fn open(self: &Arc<Self>, follower: Follower) -> Result<FollowerStream, TooManyFollowers> {
        self.open_from(Origin::Here, Who::Agent(follower))
    }

    /// The replica in the pod of this UID has opened a stream here: its bundle endpoint and its agents go by what it knows.
    ///
    /// # Errors
    ///
    /// When there are too many.
    pub fn open_pod(self: &Arc<Self>, uid: &str) -> Result<FollowerStream, TooManyFollowers> {
        self.open_from(Origin::OtherReplica, Who::Replica(uid.into()))
    }

    /// The same of a replica that only says itself how its process is called.
    ///
    /// # Errors
    ///
    /// When there are too many.
    pub fn open_process(self: &Arc<Self>, name: &str) -> Result<FollowerStream, TooManyFollowers> {
        self.open_from(Origin::OtherReplica, Who::process(name))
    }

    /// Another replica has begun to tell of its own.
    pub fn passed(self: &Arc<Self>) -> PassedFollowers {
        PassedFollowers { followers: Arc::clone(self), streams: HashMap::new() }
    }

    /// This replica is active in `term` from now on, and does not know yet who follows at others. If another one was active since
    /// its own last term, whoever it had lost most likely went on there, and what became of them was said to that one: whom that
    /// one had lost is not known by name. The replica that was active before it, if that did not say that it ends, has what it
    /// had then.
    pub fn take_over(&self, term: Term, before: Option<(&str, u64)>) {
        let mut streams = self.locked();
        streams.begin(term);
        if let Some((name, sequence)) = before {
            streams.lose(Who::process(name), sequence);
        }
    }

    /// Those that follow at this replica itself, or have just said that they end.
    pub fn here(&self) -> Vec<(Follower, Standing)> {
        self.locked().here()
    }

    /// Tells of each change of [`Self::here`].
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Everybody, and replicas that were lost, with the sequence that each has said is in effect. As long as it is not known who
    /// there is, one more that has none.
    pub fn reached(&self) -> Vec<Reached> {
        let mut streams = self.locked();
        let mut reached = streams.reached();
        reached.extend(streams.lost().replicas());
        if let Some(left) = streams.gathering_for() {
            let seconds = left.as_secs() + 1;
            let who =
                format!("whoever has not come to the new active replica yet, for which there are {seconds} s left,");
            reached.push(Reached { who, sequence: 0 });
        }
        reached
    }

    fn open_from(self: &Arc<Self>, origin: Origin, who: Who) -> Result<FollowerStream, TooManyFollowers> {
        let number = self.locked().open(origin, who)?;
        Ok(FollowerStream { followers: Arc::clone(self), number })
    }

    fn change(&self, change: impl FnOnce(&mut Streams) -> bool) {
        // not within the condition: whoever is told asks at once
        let is_here = change(&mut self.locked());
        if is_here {
            self.changed.send_replace(());
        }
    }

    fn locked(&self) -> MutexGuard<'_, Streams> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FollowerStream {
    /// This sequence is in effect there.
    pub fn says(&self, in_effect: u64) {
        self.followers.change(|streams| streams.says(self.number, in_effect));
    }

    /// It ends, and nothing is to be waited for.
    pub fn leaves(self) {
        self.followers.change(|streams| streams.leaves(self.number));
    }
}

impl Drop for FollowerStream {
    fn drop(&mut self) {
        self.followers.change(|streams| streams.end(self.number));
    }
}

impl PassedFollowers {
    /// All that it has now. Whoever is not among them has gone.
    ///
    /// # Errors
    ///
    /// When there are too many.
    pub fn are(&mut self, all: Vec<(Follower, Standing)>) -> Result<(), TooManyFollowers> {
        let mut before = std::mem::take(&mut self.streams);
        for (follower, standing) in all {
            let stream = before.remove(&follower);
            match standing {
                Standing::Follows(in_effect) => {
                    let stream = match stream {
                        Some(stream) => stream,
                        None => self.followers.open_from(Origin::OtherReplica, Who::Agent(follower.clone()))?,
                    };
                    stream.says(in_effect);
                    self.streams.insert(follower, stream);
                }
                Standing::Left => self.followers.change(|streams| streams.left(&Who::Agent(follower))),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
