//! The state of a pair on one machine. Written in an order that a kill at any point leaves whole: first the database,
//! durable, then the manifest, then the answer. So the database may be one step ahead of the manifest, never behind.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{
    active_lock::ActiveLock,
    data_dir::DataDir,
    engine::{Batch, Engine, MAX_VALUE_BYTES},
    manifest::{Manifest, RootOf},
    state_files::{self, StateFiles, acknowledged, read},
    state_record::{OBJECTS, StateRecord, key},
};
use crate::{
    domain::leadership::Term,
    service::ports::{StateError, StateObject, StateStore, Versioned},
};

/// The state store of the active. Holds on to the active's lock until it is closed.
pub struct EmbeddedStateStore {
    data_dir: DataDir,
    root_of: RootOf,
    inner: Mutex<Inner>,
}

enum Inner {
    Open(Box<OpenStore>),
    /// A write may or may not have reached the disk; only opening the store again can tell.
    Failed(String),
    Closed,
}

struct OpenStore {
    engine: Engine,
    manifest: Manifest,
    _lock: Arc<ActiveLock>,
}

impl EmbeddedStateStore {
    /// Opens the store under the active's lock. A directory that never had a state gets an empty one.
    ///
    /// # Errors
    ///
    /// [`StateError::Damaged`], with what was found and the recovery command, when anything is missing, unreadable,
    /// older than the manifest says, of another root, or written by a newer version; [`StateError::Io`] when the file
    /// system refuses.
    pub fn open(data_dir: DataDir, lock: impl Into<Arc<ActiveLock>>, root_of: RootOf) -> Result<Self, StateError> {
        let existing = match state_files::open(&data_dir, root_of)? {
            Some(existing) => existing,
            None => state_files::create(&data_dir)?,
        };
        let current = existing.summary(root_of);
        if existing.manifest.as_ref() != Some(&current) {
            current.write(&data_dir).map_err(|error| StateError::Io(format!("the manifest: {error}")))?;
        }
        let StateFiles { engine, .. } = existing;
        let store = OpenStore { engine, manifest: current, _lock: lock.into() };
        Ok(Self { data_dir, root_of, inner: Mutex::new(Inner::Open(Box::new(store))) })
    }

    /// The highest term that has ever claimed an object.
    ///
    /// # Errors
    ///
    /// When the store has failed or is closed.
    pub fn highest_term(&self) -> Result<Term, StateError> {
        Ok(self.locked().opened()?.manifest.highest_term())
    }

    /// Claims every object for `term`, before its holder's first write. Durable when it returns.
    ///
    /// # Errors
    ///
    /// [`StateError::Fenced`] unless the term is higher than every one before; else when the store can't be read or
    /// written.
    pub fn claim(&self, term: Term) -> Result<(), StateError> {
        self.change(|store| {
            let found = store.manifest.highest_term();
            if term <= found {
                return Err(StateError::Fenced { own: term, found });
            }
            let mut changed = Vec::new();
            for object in OBJECTS {
                changed.push((object, StateRecord { claimed: term, ..read(&self.data_dir, &store.engine, object)? }));
            }
            Ok(changed)
        })
    }

    /// Closes the store and then lets go of the active's lock. What is asked of the store afterwards fails.
    ///
    /// # Errors
    ///
    /// When the last flush fails; everything that was acknowledged is durable all the same.
    pub fn close(&self) -> Result<(), StateError> {
        let inner = std::mem::replace(&mut *self.locked(), Inner::Closed);
        match inner {
            Inner::Open(store) => {
                let OpenStore { engine, manifest: _, _lock } = *store;
                engine.close().map_err(|error| StateError::Io(error.to_string()))
            }
            Inner::Failed(_) | Inner::Closed => Ok(()),
        }
    }

    /// Writes the records that `make` returns: database, manifest, in this order. After a failed write nothing is
    /// answered any more, because nobody knows what the disk holds.
    fn change(
        &self,
        make: impl FnOnce(&OpenStore) -> Result<Vec<(StateObject, StateRecord)>, StateError>,
    ) -> Result<(), StateError> {
        let mut inner = self.locked();
        let store = inner.opened()?;
        let changed = make(store)?;
        let written = self.write(store, &changed);
        if let Err(reason) = &written {
            *inner = Inner::Failed(reason.clone());
        }
        written.map_err(StateError::Io)
    }

    fn write(&self, store: &mut OpenStore, changed: &[(StateObject, StateRecord)]) -> Result<(), String> {
        let mut batch = Batch::default();
        let mut manifest = store.manifest.clone();
        for (object, record) in changed {
            batch.insert(key(*object), record.encode(*object).as_slice());
            manifest.objects.insert(key(*object).to_owned(), acknowledged(record));
            if *object == StateObject::Authority && record.version > 0 {
                manifest.root = (self.root_of)(&record.content);
            }
        }
        store.engine.commit(batch).map_err(|error| error.to_string())?;
        manifest.write(&self.data_dir).map_err(|error| format!("the manifest: {error}"))?;
        store.manifest = manifest;
        Ok(())
    }

    /// A panic under this lock leaves a whole value behind, so a poisoned lock is a lock.
    fn locked(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StateStore for EmbeddedStateStore {
    fn claim(&self, term: Term) -> Result<(), StateError> {
        Self::claim(self, term)
    }

    fn close(&self) {
        if let Err(error) = Self::close(self) {
            tracing::warn!(event = "state_close_failed", %error);
        }
    }

    fn load(&self, object: StateObject) -> Result<Option<Versioned>, StateError> {
        let mut inner = self.locked();
        let record = read(&self.data_dir, &inner.opened()?.engine, object)?;
        let StateRecord { version, writer, claimed: _, content } = record;
        Ok((version > 0).then_some(Versioned { version, term: writer, content }))
    }

    fn compare_and_swap(
        &self,
        object: StateObject,
        expected: u64,
        term: Term,
        content: &[u8],
    ) -> Result<u64, StateError> {
        if content.len() > MAX_VALUE_BYTES {
            let size = content.len();
            return Err(StateError::Io(format!("{object:?} has {size} bytes, the limit is {MAX_VALUE_BYTES}")));
        }
        let version = expected.saturating_add(1);
        self.change(|store| {
            let old = read(&self.data_dir, &store.engine, object)?;
            if old.claimed > term {
                return Err(StateError::Fenced { own: term, found: old.claimed });
            }
            if old.version != expected {
                return Err(StateError::Conflict { object, expected, found: old.version });
            }
            Ok(vec![(object, StateRecord { version, writer: term, claimed: term, content: content.to_vec().into() })])
        })?;
        Ok(version)
    }
}

impl Inner {
    fn opened(&mut self) -> Result<&mut OpenStore, StateError> {
        match self {
            Self::Open(store) => Ok(store),
            Self::Failed(reason) => Err(StateError::Io(format!("a write failed before: {reason}"))),
            Self::Closed => Err(StateError::Io("it is closed".into())),
        }
    }
}

#[cfg(test)]
#[path = "state_store_tests.rs"]
mod tests;
