//! The streams of followers, by number.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tokio::time::Instant;

use super::{Follower, GATHERING, Standing, lost::Lost, who::Who};
use crate::domain::{authority::rotation::Reached, identity::SpiffeId, leadership::Term};

/// A follower comes back to some replica within this, if it comes back.
pub(super) const KNOWN_FOR: Duration = Duration::from_secs(12);
/// Streams that are open or just gone. Room for as many as are served, and for as many again that come back.
const STREAMS_AT_MOST: usize = 16_384;
/// Of one identity: beyond these its oldest that is gone makes room, so that opening and closing takes no place from others.
pub(super) const OF_ONE_IDENTITY: usize = STREAMS_AT_MOST / 4;

/// There is no room for one more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{STREAMS_AT_MOST} streams follow the trust already")]
pub struct TooManyFollowers;

/// Whose a stream is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    Here,
    OtherReplica,
}

#[derive(Debug, Default)]
pub(super) struct Streams {
    opened: u64,
    /// By number: of one follower the last counts.
    known: BTreeMap<u64, Known>,
    /// Of agents that have made room before their time: the lowest sequence, and when the last one went.
    made_room: Option<(u64, Instant)>,
    lost: Lost,
    /// Of this replica.
    last_term: Option<Term>,
    /// Until when it is not known who there is.
    gathering_until: Option<Instant>,
}

#[derive(Debug)]
struct Known {
    who: Who,
    in_effect: u64,
    origin: Origin,
    gone: Option<Gone>,
}

#[derive(Clone, Copy, Debug)]
struct Gone {
    at: Instant,
    /// Whether it has said that it ends.
    has_left: bool,
}

impl Streams {
    pub(super) fn open(&mut self, origin: Origin, who: Who) -> Result<u64, TooManyFollowers> {
        self.forget();
        if let Who::Agent(Follower { identity, .. }) = &who {
            self.make_room_among(identity);
        }
        if self.known.len() >= STREAMS_AT_MOST {
            return Err(TooManyFollowers);
        }
        self.lost.found(&who);
        self.opened += 1;
        self.known.insert(self.opened, Known { who, in_effect: 0, origin, gone: None });
        Ok(self.opened)
    }

    /// Who makes room counts as before, though without a name.
    fn make_room_among(&mut self, identity: &SpiffeId) {
        let own = self.known.iter().filter(|(_, known)| known.who.is_of(identity));
        if self.known.len() < OF_ONE_IDENTITY || own.clone().count() < OF_ONE_IDENTITY {
            return;
        }
        let gone = own.filter_map(|(number, known)| Some((known.gone?.at, *number)));
        let Some(Known { who, in_effect, gone: Some(gone), .. }) =
            gone.min().and_then(|(_, number)| self.known.remove(&number))
        else {
            return;
        };
        if !gone.has_left && self.known.values().all(|known| known.who != who) {
            let (lowest, last) = self.made_room.get_or_insert((in_effect, gone.at));
            (*lowest, *last) = ((*lowest).min(in_effect), gone.at.max(*last));
            self.lost.lose_unnamed(in_effect, gone.at);
        }
    }

    /// As all changes: whether it is of those here.
    pub(super) fn says(&mut self, number: u64, in_effect: u64) -> bool {
        self.known.get_mut(&number).is_some_and(|known| {
            known.in_effect = in_effect;
            known.origin == Origin::Here
        })
    }

    pub(super) fn end(&mut self, number: u64) -> bool {
        self.known.get_mut(&number).is_some_and(|known| {
            known.gone.get_or_insert_with(|| Gone { at: Instant::now(), has_left: false });
            known.origin == Origin::Here
        })
    }

    pub(super) fn leaves(&mut self, number: u64) -> bool {
        let who = self.known.get(&number).map(|known| known.who.clone());
        who.is_some_and(|who| match &who {
            Who::Agent(_) => self.left(&who),
            // another process may have come to its place already, on a newer stream
            Who::Replica(_) => self.left_until(&who, number),
        })
    }

    /// Wherever it followed: a process that ends does so as a whole.
    pub(super) fn left(&mut self, who: &Who) -> bool {
        self.left_until(who, self.opened)
    }

    fn left_until(&mut self, who: &Who, newest: u64) -> bool {
        self.lost.found(who);
        let mut is_here = false;
        for (_, known) in self.known.range_mut(..=newest).filter(|(_, known)| known.who == *who) {
            known.gone = Some(Gone { at: Instant::now(), has_left: true });
            is_here |= known.origin == Origin::Here;
        }
        is_here
    }

    pub(super) fn lose(&mut self, who: Who, in_effect: u64) {
        self.lost.lose(who, in_effect, Instant::now());
    }

    /// A term of this replica, which remembers those that it has lost only if that follows its last one. Whoever says so later
    /// says nothing new.
    pub(super) fn begin(&mut self, term: Term) {
        let last = self.last_term;
        if last.is_some_and(|last| last >= term) {
            return;
        }
        self.last_term = Some(term);
        let now = Instant::now();
        self.gathering_until = Some(now + GATHERING);
        if last.is_none_or(|last| last.next() != term) {
            self.lost = Lost::by_others_until(now);
        }
    }

    pub(super) fn gathering_for(&self) -> Option<Duration> {
        let left = self.gathering_until?.saturating_duration_since(Instant::now());
        (!left.is_zero()).then_some(left)
    }

    pub(super) fn here(&mut self) -> Vec<(Follower, Standing)> {
        self.forget();
        let here = self.known.values().filter(|known| known.origin == Origin::Here);
        let newest: BTreeMap<_, _> = here.map(|known| (&known.who, known.standing())).collect();
        let agents = newest.into_iter().filter_map(|(who, standing)| match who {
            Who::Agent(follower) => Some((follower.clone(), standing)),
            Who::Replica(_) => None,
        });
        agents.collect()
    }

    /// Of each follower what it said on the stream that it opened last.
    pub(super) fn reached(&mut self) -> Vec<Reached> {
        self.forget();
        let newest: BTreeMap<_, _> = self.known.values().map(|known| (&known.who, known.standing())).collect();
        let reached = newest.into_iter().filter_map(|(who, standing)| match standing {
            Standing::Follows(sequence) => Some(Reached { who: who.to_string(), sequence }),
            Standing::Left => None,
        });
        let made_room = self.made_room.map(|(sequence, _)| {
            let who = "one of the agents that have made room for others of their identity".to_owned();
            Reached { who, sequence }
        });
        reached.chain(made_room).collect()
    }

    /// Those that were lost sight of.
    pub(super) fn lost(&mut self) -> &Lost {
        self.forget();
        &self.lost
    }

    fn forget(&mut self) {
        let is_over = |gone: Gone| gone.at.elapsed() >= KNOWN_FOR;
        let over: Vec<_> = self.known.extract_if(.., |_, known| known.gone.is_some_and(is_over)).collect();
        // after a failover thousands of streams are opened at once
        let there: BTreeSet<_> =
            if over.is_empty() { BTreeSet::new() } else { self.known.values().map(|known| &known.who).collect() };
        for (_, Known { who, in_effect, gone, .. }) in over {
            if let Some(Gone { at, has_left: false }) = gone
                && !there.contains(&who)
            {
                self.lost.lose(who, in_effect, at);
            }
        }
        self.made_room = self.made_room.filter(|(_, last)| last.elapsed() < KNOWN_FOR);
        self.lost.forget();
    }
}

impl Known {
    const fn standing(&self) -> Standing {
        match self.gone {
            Some(Gone { has_left: true, .. }) => Standing::Left,
            _ => Standing::Follows(self.in_effect),
        }
    }
}
