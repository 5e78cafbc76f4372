//! The slots of a data directory: each replica holds one for its life, so that names, logs and sockets are used again by
//! the next process instead of piling up.

use std::{fmt, fs, fs::File, io, str::FromStr};

use serde::{Deserialize, Serialize};

use super::{data_dir::DataDir, files};
use crate::domain::random::{RandomUnavailable, SecureRandom};

/// A place for one replica: `replica-0`, `replica-1`, …
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Slot(u16);

/// A text is not the name of a slot.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a slot is named replica-N, not {0:?}")]
pub struct SlotNameError(String);

/// The lock on a slot, held until dropped. Whoever has it may open the slot's issuance log.
#[derive(Debug)]
pub struct SlotLock {
    slot: Slot,
    _file: File,
}

/// A replica's own slot.
#[derive(Debug)]
pub struct ReplicaSlot {
    lock: SlotLock,
    replica: String,
}

/// Why no slot was taken.
#[derive(Debug, thiserror::Error)]
pub enum SlotError {
    /// Every slot is held.
    #[error("all {} replica slots of this data directory are held by running processes", ReplicaSlot::MAX)]
    AllHeld,
    /// No randomness for the name.
    #[error(transparent)]
    Random(#[from] RandomUnavailable),
    /// A lock file can't be made or locked.
    #[error("the lock file of {slot} can't be used: {error}")]
    Io {
        /// The slot.
        slot: Slot,
        /// What the system said.
        error: io::Error,
    },
}

impl Slot {
    /// By its number.
    pub const fn new(number: u16) -> Self {
        Self(number)
    }

    /// Its number.
    pub const fn number(self) -> u16 {
        self.0
    }

    /// The slots that have an issuance log, in order.
    ///
    /// # Errors
    ///
    /// When the data directory can't be read.
    pub fn with_logs(data_dir: &DataDir) -> io::Result<Vec<Self>> {
        let mut slots = Vec::new();
        for entry in fs::read_dir(data_dir.issuance())? {
            slots.extend(entry?.file_name().to_str().and_then(|name| name.parse::<Self>().ok()));
        }
        slots.sort_unstable();
        Ok(slots)
    }
}

impl SlotLock {
    /// Takes the lock on `slot`; `None` if a living process has it.
    ///
    /// # Errors
    ///
    /// When the lock file can't be made or locked.
    pub fn try_take(data_dir: &DataDir, slot: Slot) -> io::Result<Option<Self>> {
        let file = files::try_lock(&data_dir.pair().join(format!("{slot}.lock")))?;
        Ok(file.map(|file| Self { slot, _file: file }))
    }

    /// Whose lock this is.
    pub const fn slot(&self) -> Slot {
        self.slot
    }
}

impl ReplicaSlot {
    const MAX: u16 = 64;

    /// Takes the first slot that no living process holds.
    ///
    /// # Errors
    ///
    /// When all are held, a lock file can't be used, or there is no randomness.
    pub fn take_first_free(data_dir: &DataDir, random: &dyn SecureRandom) -> Result<Self, SlotError> {
        for slot in (0..Self::MAX).map(Slot) {
            if let Some(lock) = SlotLock::try_take(data_dir, slot).map_err(|error| SlotError::Io { slot, error })? {
                let mut suffix = [0; 4];
                random.fill(&mut suffix)?;
                return Ok(Self { lock, replica: format!("{slot}-{:08x}", u32::from_be_bytes(suffix)) });
            }
        }
        Err(SlotError::AllHeld)
    }

    /// The slot.
    pub const fn slot(&self) -> Slot {
        self.lock.slot
    }

    /// The lock on it.
    pub const fn lock(&self) -> &SlotLock {
        &self.lock
    }

    /// The replica's name: its slot and a random part, so that no two processes ever have the same.
    pub fn replica(&self) -> &str {
        &self.replica
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

    struct Counting;

    impl SecureRandom for Counting {
        fn fill(&self, bytes: &mut [u8]) -> Result<(), RandomUnavailable> {
            bytes.fill(0xab);
            Ok(())
        }
    }

    #[test]
    fn takes_the_first_free_slot_and_frees_it_when_dropped() {
        let base = tempfile::tempdir().unwrap();
        let data_dir = DataDir::open(&base.path().join("data")).unwrap();
        let first = ReplicaSlot::take_first_free(&data_dir, &Counting).unwrap();
        let second = ReplicaSlot::take_first_free(&data_dir, &Counting).unwrap();
        assert_eq!((first.slot(), second.slot()), (Slot(0), Slot(1)));
        assert_eq!(first.replica(), "replica-0-abababab");
        assert!(SlotLock::try_take(&data_dir, first.slot()).unwrap().is_none());
        drop(first);
        assert_eq!(ReplicaSlot::take_first_free(&data_dir, &Counting).unwrap().slot(), Slot(0));
    }

    #[test]
    fn reads_only_its_own_spelling() {
        assert_eq!("replica-12".parse(), Ok(Slot(12)));
        for text in ["replica-", "replica-01", "replica-+1", "replica-70000", "replica", "x"] {
            assert_eq!(text.parse::<Slot>(), Err(SlotNameError(text.to_owned())));
        }
    }
}
