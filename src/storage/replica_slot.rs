//! Taking a slot of a data directory: each replica holds one for its life.

use std::{fs::File, io};

use super::{data_dir::DataDir, files, slot::Slot};
use crate::domain::random::{RandomUnavailable, SecureRandom};

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
        for slot in (0..Self::MAX).map(Slot::new) {
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
        assert_eq!((first.slot(), second.slot()), (Slot::new(0), Slot::new(1)));
        assert_eq!(first.replica(), "replica-0-abababab");
        assert!(SlotLock::try_take(&data_dir, first.slot()).unwrap().is_none());
        drop(first);
        assert_eq!(ReplicaSlot::take_first_free(&data_dir, &Counting).unwrap().slot(), Slot::new(0));
    }
}
