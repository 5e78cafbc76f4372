//! The election of an embedded pair: the lock file of the data directory, and the state store that is opened under it.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::task::spawn_blocking;
use tracing::warn;

use super::{active_lock::ActiveLock, data_dir::DataDir, manifest::RootOf, state_store::EmbeddedStateStore};
use crate::{
    domain::leadership::{Action, Event},
    service::{
        leadership::Election,
        line_limit::{Line, LineLimit},
        ports::{BoxFuture, StateError, StateStore},
    },
};

/// The lock, from when it is taken until it is released. A store that is open under it holds on to it as well.
#[derive(Clone)]
pub struct EmbeddedElection {
    data_dir: DataDir,
    held: Arc<Mutex<Option<Arc<ActiveLock>>>>,
    lines: Arc<LineLimit<()>>,
}

impl EmbeddedElection {
    /// Nobody has the lock yet.
    pub fn new(data_dir: DataDir) -> Self {
        Self { data_dir, held: Arc::default(), lines: Arc::default() }
    }

    /// Opens the state store under the lock.
    ///
    /// # Errors
    ///
    /// When the lock is not held, or the store can't be opened.
    pub fn open_store(&self, root_of: RootOf) -> Result<Arc<dyn StateStore>, StateError> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let lock = held.ok_or_else(|| StateError::Io("the active's lock is not held".into()))?;
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
                if let Some(lock) = taken {
                    *election.held.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(lock));
                }
                Ok::<_, std::io::Error>(acquired)
            });
            match taken.await.map_err(std::io::Error::other).flatten() {
                Ok(true) => Event::LockAcquired,
                Ok(false) => Event::LockHeld,
                Err(error) => {
                    if let Some(Line { left_out }) = self.lines.line((), ()) {
                        warn!(event = "lock_failed", %error, left_out);
                    }
                    Event::LockHeld
                }
            }
        })
    }

    fn release(&self) {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}
