//! Keeps what a term publishes in step with its authorities, and rotates those that come to their end, for as long as the term
//! lasts.

use std::{convert::Infallible, sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    task::spawn_blocking,
    time::{sleep, timeout},
};
use tracing::{info, warn};

use super::{
    authority_rotation::{AuthorityRotation, RotationError},
    ports::AuthorityKind,
    signing_session::SigningSession,
};

/// How often it is looked whether a step is due: as SPIRE does.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Follows the sessions of this replica. Never returns.
pub async fn keep(mut sessions: watch::Receiver<Option<Arc<SigningSession>>>, rotation: Arc<AuthorityRotation>) {
    loop {
        let session = sessions.borrow_and_update().clone();
        let changed = tokio::select! {
            changed = sessions.changed() => changed,
            never = keep_session(session, &rotation) => match never {},
        };
        if changed.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

async fn keep_session(session: Option<Arc<SigningSession>>, rotation: &Arc<AuthorityRotation>) -> Infallible {
    let Some(session) = session else { return std::future::pending().await };
    let Some(state) = session.state().cloned() else { return std::future::pending().await };
    let mut changes = session.authority_changes();
    let mut last = None;
    loop {
        let (state, rotation) = (Arc::clone(&state), Arc::clone(rotation));
        let done = spawn_blocking(move || {
            state.settle()?;
            for kind in [AuthorityKind::X509, AuthorityKind::Jwt] {
                rotation.take_due_step(&state, kind)?;
            }
            Ok::<_, RotationError>(())
        });
        let trouble = match done.await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(panicked) => Some(panicked.to_string()),
        };
        if trouble != last {
            match &trouble {
                Some(trouble) => warn!(event = "authority_upkeep_waits", reason = trouble),
                None => info!(event = "authority_upkeep_goes_on"),
            }
            last = trouble;
        }
        if let Ok(Err(_no_more_changes)) = timeout(LOOK_EVERY, changes.changed()).await {
            sleep(LOOK_EVERY).await;
        }
    }
}
