//! What a replica tells the outside once it is active: the trust bundle as a file, its name to the others, and the
//! operator's socket.

use std::{io, sync::Arc};

use tokio::{
    sync::watch,
    task::{JoinHandle, spawn_blocking},
};
use tracing::warn;

use super::place::private;
use crate::{
    domain::x509::TrustBundle,
    grpc::{pair_server::serve_operator, unix_listener::WorkloadListener},
    service::{issuance_history::IssuanceHistory, signing_session::SigningSession},
    storage::{
        data_dir::{DataDir, write_atomically},
        pair_directory::{ActiveEntry, PairDirectory, ReplicaEntry},
    },
};

/// The trust bundle is public.
const READABLE: u32 = 0o644;

/// Follows the sessions of this replica.
pub(super) struct Announcer {
    pub(super) data_dir: DataDir,
    pub(super) pair: PairDirectory,
    pub(super) entry: ReplicaEntry,
    pub(super) bundle: watch::Sender<Option<Arc<TrustBundle>>>,
    pub(super) history: Arc<dyn IssuanceHistory>,
}

impl Announcer {
    /// Announces each session. Never returns: an election that has ended says so itself.
    pub(super) async fn run(self, mut sessions: watch::Receiver<Option<Arc<SigningSession>>>) {
        let mut operator: Option<JoinHandle<()>> = None;
        loop {
            let session = sessions.borrow_and_update().clone();
            if let Some(task) = operator.take() {
                task.abort();
            }
            if let Some(session) = session {
                let mut changes = session.authority_changes();
                self.announce(&session).await;
                operator = self.open_operator_socket().await;
                loop {
                    tokio::select! {
                        Ok(()) = changes.changed() => self.announce(&session).await,
                        ended = sessions.changed() => match ended {
                            Ok(()) => break,
                            Err(_) => std::future::pending().await,
                        }
                    }
                }
            } else if sessions.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    async fn announce(&self, session: &SigningSession) {
        self.bundle.send_replace(Some(Arc::new(session.authority().bundle().clone())));
        if let Err(error) = self.write(session).await {
            // others find this replica by asking again; the file is put right by the next term at the latest
            warn!(event = "announcement_failed", %error);
        }
    }

    async fn write(&self, session: &SigningSession) -> io::Result<()> {
        let active = ActiveEntry {
            replica: self.entry.replica.clone(),
            term: session.term(),
            pair_socket: self.entry.pair_socket.clone(),
        };
        let (pair, root_cert) = (self.pair.clone(), self.data_dir.root_cert());
        let authority = session.authority();
        let written = spawn_blocking(move || {
            pair.announce_active(&active)?;
            write_atomically(&root_cert, READABLE, authority.roots_pem().as_bytes())
        });
        written.await.map_err(io::Error::other)?
    }

    async fn open_operator_socket(&self) -> Option<JoinHandle<()>> {
        match WorkloadListener::bind(&self.data_dir.admin_socket(), private()).await {
            Ok(listener) => {
                let history = Arc::clone(&self.history);
                Some(tokio::spawn(async move {
                    if let Err(error) = serve_operator(listener, history).await {
                        warn!(event = "operator_socket_failed", %error);
                    }
                }))
            }
            Err(error) => {
                warn!(event = "operator_socket_failed", %error);
                None
            }
        }
    }
}
