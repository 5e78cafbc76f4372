//! A backup of the signing authority by the active, which has it in memory also when what is stored is damaged.

use std::sync::Arc;

use tokio::{sync::watch, task::spawn_blocking};
use tracing::info;

use super::{
    authority_backup::{BackupError, Cover, Passphrase},
    ports::StateError,
    signing_session::SigningSession,
    signing_state::{SigningState, root_of},
};
use crate::domain::{clock::Clock, random::SecureRandom};

/// The use case.
pub struct AuthorityExport {
    session: watch::Receiver<Option<Arc<SigningSession>>>,
    state: Arc<SigningState>,
    clock: Arc<dyn Clock>,
    random: Arc<dyn SecureRandom>,
}

/// Why there is no backup.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExportError {
    /// Another replica may be.
    #[error("this replica is not active: run the command again when one is")]
    NotActive,
    /// There is none to be had.
    #[error(transparent)]
    Backup(#[from] BackupError),
}

impl AuthorityExport {
    /// Exports from `state` while `session` lasts.
    pub fn new(
        session: watch::Receiver<Option<Arc<SigningSession>>>,
        state: Arc<SigningState>,
        clock: Arc<dyn Clock>,
        random: Arc<dyn SecureRandom>,
    ) -> Self {
        Self { session, state, clock, random }
    }

    /// The backup file, encrypted, in the name of the user `actor_uid`.
    ///
    /// # Errors
    ///
    /// When this replica is not active, or the state can't be read.
    pub async fn export(&self, passphrase: Passphrase, actor_uid: u32) -> Result<Vec<u8>, ExportError> {
        let session = self.session.borrow().clone();
        let session = session.and_then(|session| session.enter(self.clock.boot())).ok_or(ExportError::NotActive)?;
        let (state, random, made) = (Arc::clone(&self.state), Arc::clone(&self.random), self.clock.now());
        let sealed = spawn_blocking(move || {
            let backup = state.backup(session.term())?;
            let root = root_of(&backup.authority);
            let file = backup.seal(&Cover { root: root.clone(), made }, &passphrase, random.as_ref())?;
            let term = session.term();
            info!(event = "audit", action = "authority export", actor_uid, %term, root = root.unwrap_or_default());
            Ok(file)
        });
        sealed.await.map_err(|error| BackupError::State(StateError::Io(error.to_string())))?
    }
}
