//! Saving and putting back the state of an embedded pair whose replicas have ended, or never ran.

use std::{collections::BTreeSet, io};

use super::{active_lock::ActiveLock, data_dir::DataDir, manifest::RootOf, state_store::EmbeddedStateStore};
use crate::{
    domain::leadership::Term,
    service::{
        authority_backup::{Backup, BackupError},
        ports::{StateError, StateObject, StateStore},
        signing_state::{ImportedState, InItsPlace, ReplacementRefused},
    },
};

/// The state of a data directory on which no replica is active, held so that none becomes so.
pub struct StoppedState {
    store: EmbeddedStateStore,
    root_of: RootOf,
}

/// Why nothing was saved or put back.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// A replica has the state open.
    #[error("a replica is active: stop every `countersign serve` on this data directory first")]
    Running,
    /// The lock can't be used.
    #[error("the data directory can't be used: {0}")]
    Io(#[from] io::Error),
    /// The state can't be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// It was not asked for expressly.
    #[error(transparent)]
    Replacement(#[from] ReplacementRefused),
    /// There is no backup to be had.
    #[error(transparent)]
    Backup(#[from] BackupError),
}

impl StoppedState {
    /// Takes hold of the state of a data directory.
    ///
    /// # Errors
    ///
    /// When a replica is active on it, or the state can't be used.
    pub fn open(data_dir: DataDir, root_of: RootOf) -> Result<Self, TransferError> {
        let lock = ActiveLock::try_take(&data_dir)?.ok_or(TransferError::Running)?;
        Ok(Self { store: EmbeddedStateStore::open(data_dir, lock, root_of)?, root_of })
    }

    /// What is in it.
    ///
    /// # Errors
    ///
    /// When there is nothing, or it can't be read.
    pub fn backup(&self) -> Result<Backup, TransferError> {
        Ok(Backup::of(&self.store, self.store.highest_term()?)?)
    }

    /// Puts a state in the place of what is there, in a term above all others. What is in order, or of another root, gives
    /// way only to `replace`. Returns the term.
    ///
    /// # Errors
    ///
    /// When it may not be replaced, or the state can't be written.
    pub fn import(&self, mut imported: ImportedState, replace: bool) -> Result<Term, TransferError> {
        let authority = self.store.load(StateObject::Authority)?;
        let trust = self.store.load(StateObject::Trust)?;
        if !replace {
            let root = authority.as_ref().and_then(|authority| (self.root_of)(&authority.content));
            let found = InItsPlace { roots: BTreeSet::from_iter(root), usable: authority.is_some() };
            found.may_give_way_to(&imported)?;
        }
        if let Some(trust) = &trust {
            imported.supersede(&trust.content)?;
        }
        let term = self.store.highest_term()?.max(Term::new(imported.standing().term)).next();
        self.store.claim(term)?;
        let put = |object, version, content: &[u8]| self.store.compare_and_swap(object, version, term, content);
        put(StateObject::Authority, authority.map_or(0, |found| found.version), imported.authority())?;
        // a backup beside a plugged-in authority may have none: what is denied here stays denied
        if let Some(content) = imported.trust()? {
            put(StateObject::Trust, trust.map_or(0, |found| found.version), &content)?;
        }
        Ok(term)
    }

    /// Lets go of it.
    ///
    /// # Errors
    ///
    /// When the last write fails.
    pub fn close(self) -> Result<(), TransferError> {
        Ok(self.store.close()?)
    }
}
