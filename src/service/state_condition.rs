//! How the stored state is, as the active sees it while it signs from memory.

use std::fmt;

/// What the last look at the stored state showed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StateCondition {
    /// Not looked at: this replica has no state of its own to compare with.
    Unwatched,
    /// What was acknowledged is there.
    Sound,
    /// It was changed or deleted by a hand that is not a replica's. In words what was found, and what to do.
    Altered(String),
    /// It could not be read, for this reason.
    Unknown(String),
}

impl fmt::Display for StateCondition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unwatched => f.write_str("not watched, the active does that"),
            Self::Sound => f.write_str("as it was acknowledged"),
            Self::Altered(what) => write!(f, "altered: {what}"),
            Self::Unknown(why) => write!(f, "not known: {why}"),
        }
    }
}
