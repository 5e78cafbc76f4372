//! The election of an embedded pair: the lock file of the data directory, and the state store that is opened under it.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::task::spawn_blocking;
use tracing::warn;

use super::{
    active_lock::ActiveLock,
    data_dir::DataDir,
    state_store::{EmbeddedStateStore, RootOf},
};
use crate::{
    domain::leadership::{Action, Event},
    service::{
        leadership::Election,
        ports::{BoxFuture, StateError, StateStore},
    },
};

/// The lock while it is held and no store has been opened under it yet.
#[derive(Clone)]
pub struct EmbeddedElection {
    data_dir: DataDir,
    held: Arc<Mutex<Option<ActiveLock>>>,
}

impl EmbeddedElection {
    /// Nobody has the lock yet.
    pub fn new(data_dir: DataDir) -> Self {
        Self { data_dir, held: Arc::default() }
    }

    /// Opens the state store under the lock, which the store then keeps until it is closed.
    ///
    /// # Errors
    ///
    /// When the store can't be opened, or the lock is not held any more (an earlier attempt that failed let go of it).
    pub fn open_store(&self, root_of: RootOf) -> Result<Arc<dyn StateStore>, StateError> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner).take();
        let lock = match held {
            Some(lock) => Some(lock),
            None => ActiveLock::try_take(&self.data_dir).map_err(|error| StateError::Io(error.to_string()))?,
        };
        let lock = lock.ok_or_else(|| StateError::Unusable("another replica has taken the active's lock".into()))?;
        Ok(Arc::new(EmbeddedStateStore::open(self.data_dir.clone(), lock, root_of)?))
    }
}

impl Election for EmbeddedElection {
    fn request(&self, action: Action) -> BoxFuture<'_, Event> {
        let election = self.clone();
        Box::pin(async move {
            if action != Action::TryLock {
                // a machine of lock tenure never asks for a lease
                return Event::LeaseUnknown;
            }
            let taken = spawn_blocking(move || {
                let taken = ActiveLock::try_take(&election.data_dir)?;
                let acquired = taken.is_some();
                *election.held.lock().unwrap_or_else(PoisonError::into_inner) = taken;
                Ok::<_, std::io::Error>(acquired)
            });
            match taken.await.map_err(std::io::Error::other).flatten() {
                Ok(true) => Event::LockAcquired,
                Ok(false) => Event::LockHeld,
                Err(error) => {
                    warn!(event = "lock_failed", %error);
                    Event::LockHeld
                }
            }
        })
    }

    fn release(&self) {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}
