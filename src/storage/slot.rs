//! The names of a data directory's slots: logs and sockets are used again by the next process instead of piling up.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// A place for one replica: `replica-0`, `replica-1`, …
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Slot(u16);

/// A text is not the name of a slot.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a slot is named replica-N, not {0:?}")]
pub struct SlotNameError(String);

impl Slot {
    /// By its number.
    pub const fn new(number: u16) -> Self {
        Self(number)
    }

    /// Its number.
    pub const fn number(self) -> u16 {
        self.0
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "replica-{}", self.0)
    }
}

impl FromStr for Slot {
    type Err = SlotNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = text.strip_prefix("replica-").and_then(|number| number.parse().ok()).map(Self);
        // Only the one spelling: no sign, no leading zero.
        number.filter(|slot| slot.to_string() == text).ok_or_else(|| SlotNameError(text.to_owned()))
    }
}

impl TryFrom<String> for Slot {
    type Error = SlotNameError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Slot> for String {
    fn from(slot: Slot) -> Self {
        slot.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_only_its_own_spelling() {
        assert_eq!("replica-12".parse(), Ok(Slot(12)));
        for text in ["replica-", "replica-01", "replica-+1", "replica-70000", "replica", "x"] {
            assert_eq!(text.parse::<Slot>(), Err(SlotNameError(text.to_owned())));
        }
    }
}
