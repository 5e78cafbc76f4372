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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        domain::{
            authority::testing::{NOW, TestRandom},
            clock::{BootInstant, Timestamp},
            leadership::Term,
        },
        service::{
            ports::{Kept, PairEndpoint, Versioned},
            signing_state::Origin,
        },
    };

    struct TestClock;

    impl Clock for TestClock {
        fn now(&self) -> Timestamp {
            NOW
        }

        fn boot(&self) -> BootInstant {
            BootInstant::from_nanos(0)
        }
    }

    /// Of a term that has ended, while what is stored is lost.
    struct KeptAlone;

    impl KeptState for KeptAlone {
        fn kept_if_lost(&self) -> Option<Kept> {
            let content = br#"{"key":"of then"}"#.to_vec().into();
            let authority = Versioned { version: 2, term: Term::new(1), content };
            Some(Kept { term: Term::new(1), authority, trust: None })
        }
    }

    fn passphrase() -> Passphrase {
        Passphrase::new("correct horse".to_owned().into()).unwrap()
    }

    /// By a replica that is not active.
    async fn exported(
        active: Option<ActiveReplica>,
        kept: Option<Arc<dyn KeptState>>,
    ) -> Result<Exported, ExportError> {
        let (clock, random) = (Arc::new(TestClock), Arc::new(TestRandom));
        let state = SigningState::new(
            Box::new(|| panic!("the store is the active's alone")),
            Origin::SelfSigned,
            "cluster.local".parse().unwrap(),
            Arc::clone(&clock) as _,
            Arc::clone(&random) as _,
        );
        let (session, active) = (watch::channel(None).1, watch::channel(active).1);
        let export = AuthorityExport::new(session, Arc::new(state), kept, active, clock, random);
        Arc::new(export).export(passphrase(), 0).await
    }

    #[tokio::test]
    async fn while_another_replica_is_active_that_one_is_named_and_nothing_older_is_exported() {
        let endpoint = PairEndpoint::Tcp("10.0.0.7:15013".parse().unwrap());
        let active = ActiveReplica { replica: "pod-b-1f".to_owned(), term: Term::new(1), endpoint };
        for kept in [Some(Arc::new(KeptAlone) as _), None] {
            let error = exported(Some(active.clone()), kept).await.unwrap_err();
            assert_eq!(error, ExportError::NotActive(Some(active.clone())));
            assert_eq!(
                error.to_string(),
                "this replica is not active; pod-b-1f at 10.0.0.7:15013 is: run `countersign authority export` there"
            );
        }
    }

    #[tokio::test]
    async fn while_nobody_is_active_what_was_kept_is_exported_and_said_to_be_old() {
        let exported_now = exported(None, Some(Arc::new(KeptAlone))).await.unwrap();
        assert!(exported_now.is_of_ended_term);
        let (backup, _) = Backup::open(&exported_now.file, &passphrase()).unwrap();
        assert_eq!(backup.authority.as_slice(), br#"{"key":"of then"}"#);

        let error = exported(None, None).await.unwrap_err();
        assert_eq!(error.to_string(), "this replica is not active: run the command again when one is");
    }
}
