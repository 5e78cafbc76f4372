//! What `countersign recover` does: it says what is wrong with a data directory, and, if told to, puts aside what can't
//! be used, so that the next start makes a new root. Nothing is deleted.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{
    active_lock::ActiveLock,
    data_dir::DataDir,
    files,
    log_reader::{LogReadError, LogReader},
    manifest::{Manifest, RootOf},
    pair_directory::PairDirectory,
    replica_slot::SlotLock,
    slot::Slot,
    state_files,
    state_store::EmbeddedStateStore,
};
use crate::{
    domain::{clock::Timestamp, issuance::IssuanceEvent, leadership::Term},
    service::ports::StateError,
};

/// A data directory whose replicas have all ended, held so that none can start.
pub struct Recovery {
    data_dir: DataDir,
    root_of: RootOf,
    lock: ActiveLock,
    slots: Vec<SlotLock>,
}

/// Why nothing was done.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    /// A replica holds the directory.
    #[error("{0} is running: stop every `countersign serve` on this data directory first")]
    Running(String),
    /// The file system refused.
    #[error("the data directory can't be examined: {0}")]
    Io(#[from] io::Error),
    /// A new state could not be made; what was put aside stays there.
    #[error("no new state could be made: {0}")]
    State(#[from] StateError),
}

/// What was found in a data directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Findings {
    /// State and manifest together.
    pub state: Condition,
    /// Each slot's issuance log.
    pub logs: Vec<(Slot, Condition)>,
}

/// How one part is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// All there; in words what.
    Sound(String),
    /// Not to be trusted; in words why.
    Damaged(String),
    /// It could not be told, because the file system refused.
    Unreadable(String),
}

/// What was put aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quarantine {
    /// The directory that holds it now.
    pub path: PathBuf,
    /// What was moved there, as it was named before.
    pub moved: Vec<PathBuf>,
}

impl Findings {
    /// Whether everything can be used as it is.
    pub fn is_sound(&self) -> bool {
        let sound = |condition: &Condition| matches!(condition, Condition::Sound(_));
        sound(&self.state) && self.logs.iter().all(|(_, condition)| sound(condition))
    }
}

impl Recovery {
    /// Takes hold of a data directory.
    ///
    /// # Errors
    ///
    /// When a replica runs on it, or its locks can't be used.
    pub fn begin(data_dir: DataDir, root_of: RootOf) -> Result<Self, RecoveryError> {
        let Some(lock) = ActiveLock::try_take(&data_dir)? else {
            return Err(RecoveryError::Running("an active replica".into()));
        };
        let mut slots = Vec::new();
        for slot in slots_of(&data_dir)? {
            let Some(lock) = SlotLock::try_take(&data_dir, slot)? else {
                return Err(RecoveryError::Running(slot.to_string()));
            };
            slots.push(lock);
        }
        Ok(Self { data_dir, root_of, lock, slots })
    }

    /// Looks at everything: the state, the manifest, every record of every log. Opens them as the next start would, so what
    /// a kill broke off is finished or taken back.
    pub fn examine(self) -> Findings {
        let logs = self.slots.iter().map(|slot| (slot.slot(), self.examine_log(slot).0)).collect();
        let state = match state_files::open(&self.data_dir, self.root_of) {
            Ok(None) => Condition::Sound("nothing yet: the next start makes a root".into()),
            Ok(Some(found)) => {
                let root = found.summary(self.root_of).root;
                Condition::Sound(root.map_or_else(|| "no root yet".into(), |root| format!("root {root}")))
            }
            Err(error) => Condition::from(error),
        };
        Findings { state, logs }
    }

    /// Puts state, manifest, `root-cert.pem` and every damaged log aside and makes an empty state, whose terms go on
    /// where the old ones ended as far as that can still be read. The next start makes a new root: every client of the
    /// old one has to get the new bundle.
    ///
    /// # Errors
    ///
    /// When something can't be moved, or the new state can't be written. What was moved stays in quarantine.
    pub fn make_way_for_new_root(self, now: Timestamp) -> Result<Quarantine, RecoveryError> {
        let mut highest_term = self.manifest_term();
        let active = PairDirectory::new(self.data_dir.clone()).active().unwrap_or_default();
        highest_term = highest_term.max(active.map_or(Term::NONE, |active| active.term));
        let mut aside = vec![self.data_dir.state(), self.data_dir.manifest(), self.data_dir.root_cert()];
        for slot in &self.slots {
            let (condition, term) = self.examine_log(slot);
            highest_term = highest_term.max(term);
            if matches!(condition, Condition::Damaged(_)) {
                aside.push(self.data_dir.issuance_of(slot.slot()));
            }
        }
        let quarantine = self.move_aside(aside, now)?;
        self.begin_anew(highest_term)?;
        Ok(quarantine)
    }

    /// Puts every damaged issuance log aside, and nothing else: root and state stay, and the next start begins a new log.
    /// `None` if none is damaged.
    ///
    /// # Errors
    ///
    /// When something can't be moved.
    pub fn set_logs_aside(self, now: Timestamp) -> Result<Option<Quarantine>, RecoveryError> {
        let damaged = self.slots.iter().filter(|slot| matches!(self.examine_log(slot).0, Condition::Damaged(_)));
        let aside: Vec<PathBuf> = damaged.map(|slot| self.data_dir.issuance_of(slot.slot())).collect();
        if aside.is_empty() { Ok(None) } else { Ok(Some(self.move_aside(aside, now)?)) }
    }

    fn move_aside(&self, parts: Vec<PathBuf>, now: Timestamp) -> Result<Quarantine, RecoveryError> {
        let path = self.data_dir.quarantine(now);
        files::create_private_directory(&path)?;
        // before anything is moved: what is in it shows that there was an earlier life
        files::sync_directory(self.data_dir.path())?;
        let mut moved = Vec::new();
        for part in parts {
            if part.try_exists()? {
                fs::rename(&part, path.join(part.file_name().unwrap_or_default()))?;
                moved.push(part);
            }
        }
        files::sync_directory(&path)?;
        files::sync_directory(self.data_dir.path())?;
        files::sync_directory(&self.data_dir.issuance())?;
        Ok(Quarantine { path, moved })
    }

    /// Also of a state that can't be used any more.
    fn manifest_term(&self) -> Term {
        Manifest::read(&self.data_dir).ok().flatten().map_or(Term::NONE, |manifest| manifest.highest_term())
    }

    /// An empty state with a manifest, so that the logs that stay are no sign of a state that was lost.
    fn begin_anew(self, highest_term: Term) -> Result<(), StateError> {
        let empty = state_files::create(&self.data_dir)?;
        let written = empty.summary(self.root_of).write(&self.data_dir);
        written.map_err(|error| StateError::Io(format!("the manifest: {error}")))?;
        drop(empty);
        let store = EmbeddedStateStore::open(self.data_dir, self.lock, self.root_of)?;
        if highest_term > Term::NONE {
            store.claim(highest_term)?;
        }
        store.close()
    }

    /// How a log is, and the highest term of its records, as far as that can be read.
    fn examine_log(&self, slot: &SlotLock) -> (Condition, Term) {
        let read = || {
            let Some(reader) = LogReader::open(&self.data_dir, slot)? else { return Ok((0, Term::NONE)) };
            reader.verify(0)?;
            let newest = reader.newest()?;
            Ok(newest.map_or((0, Term::NONE), |record| (record.sequence, term_of(&record.event))))
        };
        match read() {
            Ok((last, term)) => (Condition::Sound(format!("records up to {last}")), term),
            Err(LogReadError::Damaged(found)) => (Condition::Damaged(found), Term::NONE),
            Err(error @ LogReadError::Io(_)) => (Condition::Unreadable(error.to_string()), Term::NONE),
        }
    }
}

impl From<StateError> for Condition {
    fn from(error: StateError) -> Self {
        match error {
            StateError::Damaged(found) | StateError::Unusable(found) => Self::Damaged(found),
            StateError::Io(_) | StateError::Conflict { .. } | StateError::Fenced { .. } => {
                Self::Unreadable(error.to_string())
            }
        }
    }
}

const fn term_of(event: &IssuanceEvent) -> Term {
    match event {
        IssuanceEvent::Issued(issuance) => issuance.term,
        IssuanceEvent::Withheld { term, .. } => *term,
    }
}

/// Every slot that has a log or was ever held.
fn slots_of(data_dir: &DataDir) -> io::Result<Vec<Slot>> {
    let mut slots = data_dir.slots_with_logs()?;
    for entry in fs::read_dir(data_dir.pair())? {
        let name = entry?.file_name();
        slots.extend(Path::new(&name).file_stem().and_then(|stem| stem.to_str()?.parse::<Slot>().ok()));
    }
    slots.sort_unstable();
    slots.dedup();
    Ok(slots)
}

#[cfg(test)]
#[path = "recovery_tests.rs"]
mod tests;
