//! What a replica tells the outside: the trust bundle as a file and, on one machine, its name to the others, once it is active;
//! and the operator's socket.

use std::{convert::Infallible, io, sync::Arc, time::Duration};

use tokio::{sync::watch, task::spawn_blocking, time::sleep};
use tracing::warn;

use super::listeners::private;
use crate::{
    domain::leadership::Term,
    grpc::{pair_server::serve_operator, unix_listener::WorkloadListener},
    service::{
        authority_export::AuthorityExport, authority_rotation::AuthorityRotation, denial::IssuanceDenial,
        federation::Federation, issuance_history::IssuanceHistory, policy_publisher::PolicyPublisher,
        signing_session::SigningSession, signing_state::AuthorityReceiver,
    },
    storage::{
        data_dir::{DataDir, write_atomically},
        pair_directory::{ActiveEntry, PairDirectory, ReplicaEntry},
        slot::Slot,
    },
};

/// A disk that is full now may have room in a moment, and the socket's last owner may have ended.
const RETRY: Duration = Duration::from_secs(1);
/// The trust bundle is public.
const READABLE: u32 = 0o644;

/// How others learn who is active.
pub(super) enum Announced {
    /// From the data directory that they share, in which only the active has the operator's socket.
    InDataDir(PairDirectory, ReplicaEntry),
    /// From the lease. The data directory is this replica's own, and the operator's socket in it is there all the time: who is
    /// not active passes on.
    #[cfg(feature = "kubernetes")]
    InLease,
}

impl Announced {
    /// The directory in which the replicas find each other, and this one's slot in it.
    pub(super) fn pair(&self) -> Option<(PairDirectory, Slot)> {
        match self {
            Self::InDataDir(pair, entry) => Some((pair.clone(), entry.slot)),
            #[cfg(feature = "kubernetes")]
            Self::InLease => None,
        }
    }
}

/// Follows the sessions of this replica.
pub(super) struct Announcer {
    pub(super) data_dir: DataDir,
    pub(super) announced: Announced,
    pub(super) history: Arc<dyn IssuanceHistory>,
    /// The term that stands in the files; readiness waits for it.
    pub(super) written: watch::Sender<Option<Term>>,
    pub(super) denial: Arc<IssuanceDenial>,
    pub(super) export: Arc<AuthorityExport>,
    pub(super) rotation: Option<Arc<AuthorityRotation>>,
    pub(super) federation: Arc<Federation>,
    pub(super) policy: Option<Arc<PolicyPublisher>>,
}

impl Announcer {
    /// Announces each session. Never returns: an election that has ended says so itself.
    pub(super) async fn run(self, sessions: watch::Receiver<Option<Arc<SigningSession>>>) {
        match self.announced {
            Announced::InDataDir(..) => self.follow(sessions).await,
            #[cfg(feature = "kubernetes")]
            Announced::InLease => {
                let (never, ()) = tokio::join!(self.serve_operator_for_ever(), self.follow(sessions));
                match never {}
            }
        }
    }

    async fn follow(&self, mut sessions: watch::Receiver<Option<Arc<SigningSession>>>) {
        loop {
            let session = sessions.borrow_and_update().clone();
            let changed = tokio::select! {
                changed = sessions.changed() => changed,
                never = self.announce(session) => match never {},
            };
            if changed.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Says everything, and where nobody does so already, serves the operator until the session ends: dropped then, this lets go
    /// of the socket.
    async fn announce(&self, session: Option<Arc<SigningSession>>) -> Infallible {
        let Some(session) = session else { return std::future::pending().await };
        let (mut changes, mut trust) = (session.authority_changes(), session.trust());
        self.say(&session).await;
        self.written.send_replace(Some(session.term()));
        let serve_operator = async {
            match self.announced {
                Announced::InDataDir(..) => self.serve_operator_for_ever().await,
                #[cfg(feature = "kubernetes")]
                Announced::InLease => std::future::pending().await,
            }
        };
        tokio::join!(serve_operator, async {
            while tokio::select! { changed = changed(&mut changes) => changed, changed = trust.changed() => changed }
                .is_ok()
            {
                self.say(&session).await;
            }
        })
        .0
    }

    /// Says who is active, and the roots: to those who ask here, and in the files.
    async fn say(&self, session: &SigningSession) {
        while let Err(error) = self.write(session).await {
            warn!(event = "announcement_failed", %error);
            sleep(RETRY).await;
        }
    }

    async fn serve_operator_for_ever(&self) -> Infallible {
        loop {
            if let Err(error) = self.serve_operator().await {
                warn!(event = "operator_socket_failed", %error);
            }
            sleep(RETRY).await;
        }
    }

    async fn write(&self, session: &SigningSession) -> io::Result<()> {
        let named = match &self.announced {
            Announced::InDataDir(pair, ReplicaEntry { replica, slot, .. }) => {
                Some((pair.clone(), ActiveEntry { replica: replica.clone(), term: session.term(), slot: *slot }))
            }
            #[cfg(feature = "kubernetes")]
            Announced::InLease => None,
        };
        let (root_cert, roots) = (self.data_dir.root_cert(), roots_pem(session)?);
        let written = spawn_blocking(move || {
            if let Some((pair, active)) = named {
                pair.announce_active(&active)?;
            }
            write_atomically(&root_cert, READABLE, roots.as_bytes())
        });
        written.await.map_err(io::Error::other)?
    }

    async fn serve_operator(&self) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let listener = WorkloadListener::bind(&self.data_dir.admin_socket(), private()).await?;
        let (history, denial, export) = (Arc::clone(&self.history), Arc::clone(&self.denial), Arc::clone(&self.export));
        let (rotation, federation) = (self.rotation.clone(), Some(Arc::clone(&self.federation)));
        let policy = self.policy.clone();
        Ok(serve_operator(listener, history, denial, export, rotation, federation, policy).await?)
    }
}

async fn changed(authority: &mut Option<AuthorityReceiver>) -> Result<(), watch::error::RecvError> {
    match authority {
        Some(authority) => authority.changed().await,
        None => std::future::pending().await,
    }
}

/// As the own authority has them, and where istiod signs, as they are published.
fn roots_pem(session: &SigningSession) -> io::Result<String> {
    if let Some(authority) = session.authority() {
        return Ok(authority.roots_pem().to_owned());
    }
    let trust = session.trust().borrow().clone();
    let roots = trust.ok_or_else(|| io::Error::other("nothing is published yet"))?.own_roots();
    Ok(roots.map_err(io::Error::other)?.to_pem())
}
