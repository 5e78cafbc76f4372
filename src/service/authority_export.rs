//! A backup of the signing authority by a replica that has it in memory: by the active, also when what is stored is damaged, and
//! by one whose term has ended, only then. The key never goes to another replica for it.

use std::sync::Arc;

use tokio::{sync::watch, task::spawn_blocking};
use tracing::info;

use super::{
    authority_backup::{Backup, BackupError, Cover, Passphrase},
    ports::{ActiveReplica, KeptState, StateError},
    signing_session::{InSession, SigningSession},
    signing_state::{SigningState, root_of},
};
use crate::domain::{clock::Clock, random::SecureRandom};

/// The use case.
pub struct AuthorityExport {
    session: watch::Receiver<Option<Arc<SigningSession>>>,
    state: Arc<SigningState>,
    kept: Option<Arc<dyn KeptState>>,
    active: watch::Receiver<Option<ActiveReplica>>,
    clock: Arc<dyn Clock>,
    random: Arc<dyn SecureRandom>,
}

/// A backup that was made.
#[derive(Debug)]
pub struct Exported {
    /// The file, encrypted.
    pub file: Vec<u8>,
    /// Whether it is of a term that has ended: what was stored since is not in it.
    pub is_of_ended_term: bool,
}

/// Why there is no backup.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExportError {
    /// Another replica is, or may be.
    #[error("this replica is not active{}", active_of(.0.as_ref()))]
    NotActive(Option<ActiveReplica>),
    /// There is none to be had.
    #[error(transparent)]
    Backup(#[from] BackupError),
}

/// The name of a replica in Kubernetes begins with its pod's UID, and its address is the pod's.
fn active_of(active: Option<&ActiveReplica>) -> String {
    match active {
        Some(ActiveReplica { replica, endpoint, .. }) => {
            format!("; {replica} at {endpoint} is: run `countersign authority export` there")
        }
        None => ": run the command again when one is".into(),
    }
}

impl AuthorityExport {
    /// Exports from `state` while `session` lasts. Otherwise it names the replica that is `active`; if none is, and the stored
    /// state is lost, it exports what `kept` has.
    pub fn new(
        session: watch::Receiver<Option<Arc<SigningSession>>>,
        state: Arc<SigningState>,
        kept: Option<Arc<dyn KeptState>>,
        active: watch::Receiver<Option<ActiveReplica>>,
        clock: Arc<dyn Clock>,
        random: Arc<dyn SecureRandom>,
    ) -> Self {
        Self { session, state, kept, active, clock, random }
    }

    /// The backup file, in the name of the user `actor_uid`.
    ///
    /// # Errors
    ///
    /// When the state can't be read, or this replica is not active and another one is, or what is stored is all right as far as
    /// it can see, or it has nothing in memory.
    pub async fn export(self: &Arc<Self>, passphrase: Passphrase, actor_uid: u32) -> Result<Exported, ExportError> {
        let this = Arc::clone(self);
        let sealed = spawn_blocking(move || match this.entered() {
            Some(session) => {
                let backup = this.state.backup(session.term())?;
                this.sealed(&backup, &passphrase, actor_uid, false)
            }
            None => {
                // what it has stored since is newer than anything kept here
                let active = this.active.borrow().clone();
                if active.is_some() {
                    return Err(ExportError::NotActive(active));
                }
                let kept = this.kept.as_ref().and_then(|kept| kept.kept_if_lost());
                let kept = kept.ok_or(ExportError::NotActive(None))?;
                this.sealed(&Backup::of_kept(kept), &passphrase, actor_uid, true)
            }
        });
        sealed.await.map_err(|error| BackupError::State(StateError::Io(error.to_string())))?
    }

    fn entered(&self) -> Option<InSession> {
        self.session.borrow().as_ref()?.enter(self.clock.boot())
    }

    fn sealed(
        &self,
        backup: &Backup,
        passphrase: &Passphrase,
        actor_uid: u32,
        is_of_ended_term: bool,
    ) -> Result<Exported, ExportError> {
        let root = root_of(&backup.authority);
        let cover = Cover { root: root.clone(), made: self.clock.now() };
        let file = backup.seal(&cover, passphrase, self.random.as_ref())?;
        let (root, standing) = (root.unwrap_or_default(), backup.standing);
        info!(
            event = "audit",
            action = "authority export",
            actor_uid,
            term = standing.term,
            authority_version = standing.authority,
            trust_version = standing.trust,
            of = if is_of_ended_term { "copy in memory of a term that has ended" } else { "the active's state" },
            root,
        );
        Ok(Exported { file, is_of_ended_term })
    }
}
