//! What a replica tells the outside once it is active: the trust bundle as a file, its name to the others, and the
//! operator's socket.

use std::{convert::Infallible, io, sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    task::{JoinHandle, spawn_blocking},
    time::sleep,
};
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

/// A disk that is full now may have room in a moment.
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
        let mut operator: Option<JoinHandle<()>> = None;
        loop {
            let session = sessions.borrow_and_update().clone();
            if let Some(task) = operator.take() {
                task.abort();
            }
            if let Some(session) = &session {
                self.bundle.send_replace(Some(Arc::new(session.authority().bundle().clone())));
                operator = self.open_operator_socket().await;
            }
            let changed = tokio::select! {
                changed = sessions.changed() => changed,
                never = self.write_until_written(session) => match never {},
            };
            if changed.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    async fn write_until_written(&self, session: Option<Arc<SigningSession>>) -> Infallible {
        while let Some(session) = &session {
            match self.write(session).await {
                Ok(()) => {
                    self.announced.send_replace(Some(session.term()));
                    break;
                }
                Err(error) => {
                    warn!(event = "announcement_failed", %error);
                    sleep(RETRY).await;
                }
            }
        }
        std::future::pending().await
    }

    async fn write(&self, session: &SigningSession) -> io::Result<()> {
        let active = ActiveEntry { replica: self.entry.replica.clone(), term: session.term(), slot: self.entry.slot };
        let (pair, root_cert) = (self.pair.clone(), self.data_dir.root_cert());
        let bundle = session.authority().bundle().to_pem();
        let written = spawn_blocking(move || {
            pair.announce_active(&active)?;
            write_atomically(&root_cert, READABLE, bundle.as_bytes())
        });
        written.await.map_err(io::Error::other)?
    }

    async fn open_operator_socket(&self) -> Option<JoinHandle<()>> {
        match WorkloadListener::bind(&self.data_dir.admin_socket(), private()).await {
            Ok(listener) => {
                let (history, denial) = (Arc::clone(&self.history), Arc::clone(&self.denial));
                Some(tokio::spawn(async move {
                    if let Err(error) = serve_operator(listener, history, denial).await {
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
