//! Keeps what a term publishes in step with its signing authority, for as long as the term lasts.

use std::{convert::Infallible, sync::Arc, time::Duration};

use tokio::{sync::watch, task::spawn_blocking, time::sleep};
use tracing::warn;

use super::signing_session::SigningSession;

/// After a write that failed.
const RETRY: Duration = Duration::from_secs(1);

/// Follows the sessions of this replica. Never returns.
pub async fn keep(mut sessions: watch::Receiver<Option<Arc<SigningSession>>>) {
    loop {
        let session = sessions.borrow_and_update().clone();
        let changed = tokio::select! {
            changed = sessions.changed() => changed,
            never = keep_session(session) => match never {},
        };
        if changed.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

async fn keep_session(session: Option<Arc<SigningSession>>) -> Infallible {
    let Some((session, state)) = session.and_then(|session| Some((Arc::clone(&session), Arc::clone(session.state()?))))
    else {
        return std::future::pending().await;
    };
    let mut changes = session.authority_changes();
    loop {
        let published = Arc::clone(&state);
        match spawn_blocking(move || published.publish_plugged_in()).await {
            Ok(Ok(())) => {
                if changes.changed().await.is_err() {
                    return std::future::pending().await;
                }
            }
            Ok(Err(error)) => {
                warn!(event = "trust_not_published", %error);
                sleep(RETRY).await;
            }
            Err(error) => {
                warn!(event = "trust_not_published", %error);
                sleep(RETRY).await;
            }
        }
    }
}
