//! What has been seen of how far a bundle has come.

use std::{fmt, time::Duration};

use crate::domain::clock::Timestamp;

/// How far the bundle has come, as far as anybody has said so.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    /// Everybody who follows it live (agents), with the sequence that each acknowledged last.
    pub followers: Vec<Reached>,
    /// Every place that it is written to (ConfigMaps), with the sequence that was read back from each.
    pub places: Vec<Reached>,
    /// When the present sequence was first offered on the bundle endpoint, and how often others are asked to read it; `None`
    /// where there is no endpoint.
    pub endpoint: Option<Offered>,
}

/// Somebody, and the sequence that is known to have reached them; 0 if none is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reached {
    /// In words.
    pub who: String,
    /// Sequence.
    pub sequence: u64,
}

/// What strangers can fetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offered {
    /// Since when.
    pub since: Timestamp,
    /// `spiffe_refresh_hint`.
    pub hint: Duration,
}

/// Why a step has to wait. In words it is what an operator is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// Somebody goes by an older bundle.
    NotReached {
        /// Whom.
        who: WhoWouldBreak,
        /// What they have.
        has: u64,
        /// What they need.
        needs: u64,
    },
    /// Those who federate have not had the time to read it.
    NotFetched {
        /// When they have had it.
        until: Timestamp,
    },
    /// Somebody holds what would not be believed any more, or goes by what they got with it.
    StillHeld {
        /// When the last of it ends.
        until: Timestamp,
    },
}

/// Somebody in words.
pub type WhoWouldBreak = String;

/// SPIFFE Federation 5.2.2: three to five times the hint before first use.
const HINTS: u32 = 3;
/// Whatever the hint, SPIRE reads no more often: four times in a hint, and takes a shorter one for a minute.
const SHORTEST_PAUSE: Duration = Duration::from_secs(15);

impl Evidence {
    /// Who has said to have an older bundle than that of this sequence.
    pub(super) fn behind(&self, sequence: u64) -> impl Iterator<Item = Obstacle> {
        self.unreached(sequence).filter(|obstacle| !matches!(obstacle, Obstacle::NotReached { has: 0, .. }))
    }

    /// Who has not been reached by the bundle of this sequence.
    pub(super) fn not_reached(&self, sequence: u64, now: Timestamp) -> Vec<Obstacle> {
        let pauses = |hint: Duration| hint.max(SHORTEST_PAUSE).saturating_mul(HINTS);
        let fetched_by = self.endpoint.map(|offered| offered.since.plus(pauses(offered.hint)));
        let strangers = fetched_by.filter(|until| *until > now).map(|until| Obstacle::NotFetched { until });
        self.unreached(sequence).chain(strangers).collect()
    }

    /// Whoever has not said to have the bundle of this sequence, or a newer one.
    pub fn unreached(&self, sequence: u64) -> impl Iterator<Item = Obstacle> {
        let behind = self.followers.iter().chain(&self.places).filter(move |reached| reached.sequence < sequence);
        behind.map(move |reached| Obstacle::NotReached {
            who: reached.who.clone(),
            has: reached.sequence,
            needs: sequence,
        })
    }
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotReached { who, has: 0, needs } => write!(f, "{who} has not said that it has bundle {needs}"),
            Self::NotReached { who, has, needs } => write!(f, "{who} has bundle {has}, not {needs}"),
            Self::NotFetched { until } => {
                write!(f, "others that federate may not have read the bundle before {until}")
            }
            Self::StillHeld { until } => write!(f, "SVIDs that it would break end at {until} only"),
        }
    }
}
