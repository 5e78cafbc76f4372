//! Who follows: agents, and other replicas.

use std::{fmt, sync::Arc};

use super::Follower;
use crate::domain::identity::SpiffeId;

/// Who follows.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Who {
    Agent(Follower),
    /// By its place, a pod or a slot: a process that was started anew there follows in its stead.
    Replica(Arc<str>),
}

impl Who {
    /// By the name of a process: its place and a random part behind that.
    pub(super) fn process(name: &str) -> Self {
        Self::Replica(name.rsplit_once('-').map_or(name, |(place, _)| place).into())
    }

    /// Whether it is one of this identity's agents.
    pub(super) fn is_of(&self, identity: &SpiffeId) -> bool {
        matches!(self, Self::Agent(follower) if follower.identity == *identity)
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Agent(Follower { identity, instance }) => write!(f, "agent {instance} of {identity}"),
            Self::Replica(place) => write!(f, "replica {place}"),
        }
    }
}
