//! What a replica tells the outside once it is active: the trust bundle as a file, its name to the others, and the
//! operator's socket.

use std::{convert::Infallible, io, sync::Arc, time::Duration};

use tokio::{sync::watch, task::spawn_blocking, time::sleep};
use tracing::warn;

use super::place::private;
use crate::{
    domain::{leadership::Term, x509::TrustBundle},
    grpc::{pair_server::serve_operator, unix_listener::WorkloadListener},
    service::{denial::IssuanceDenial, issuance_history::IssuanceHistory, signing_session::SigningSession},
    storage::{
        data_dir::{DataDir, write_atomically},
        pair_directory::{ActiveEntry, PairDirectory, ReplicaEntry},
    },
};

/// A disk that is full now may have room in a moment, and the socket's last owner may have ended.
const RETRY: Duration = Duration::from_secs(1);
/// The trust bundle is public.
const READABLE: u32 = 0o644;

/// Follows the sessions of this replica.
pub(super) struct Announcer {
    pub(super) data_dir: DataDir,
    pub(super) pair: PairDirectory,
    pub(super) entry: ReplicaEntry,
    pub(super) bundle: watch::Sender<Option<Arc<TrustBundle>>>,
    pub(super) history: Arc<dyn IssuanceHistory>,
    /// The term that stands in the files; readiness waits for it.
    pub(super) announced: watch::Sender<Option<Term>>,
    pub(super) denial: Arc<IssuanceDenial>,
}

impl Announcer {
    /// Announces each session. Never returns: an election that has ended says so itself.
    pub(super) async fn run(self, mut sessions: watch::Receiver<Option<Arc<SigningSession>>>) {
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

    /// Says everything, and serves the operator until the session ends: dropped then, this lets go of the socket.
    async fn announce(&self, session: Option<Arc<SigningSession>>) -> Infallible {
        let Some(session) = session else { return std::future::pending().await };
        let mut changes = session.authority_changes();
        self.say(&session).await;
        self.announced.send_replace(Some(session.term()));
        tokio::join!(self.serve_operator_for_ever(), async {
            while changes.changed().await.is_ok() {
                self.say(&session).await;
            }
        })
        .0
    }

    /// Says who is active, and the roots: to those who ask here, and in the files.
    async fn say(&self, session: &SigningSession) {
        self.bundle.send_replace(Some(Arc::new(session.authority().bundle().clone())));
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
        let active = ActiveEntry { replica: self.entry.replica.clone(), term: session.term(), slot: self.entry.slot };
        let (pair, root_cert) = (self.pair.clone(), self.data_dir.root_cert());
        let authority = session.authority();
        let written = spawn_blocking(move || {
            pair.announce_active(&active)?;
            write_atomically(&root_cert, READABLE, authority.roots_pem().as_bytes())
        });
        written.await.map_err(io::Error::other)?
    }

    async fn serve_operator(&self) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let listener = WorkloadListener::bind(&self.data_dir.admin_socket(), private()).await?;
        Ok(serve_operator(listener, Arc::clone(&self.history), Arc::clone(&self.denial)).await?)
    }
}
