//! Waiting for what may never come, in a `select!` with other things.

use std::{future::pending, time::Duration};

use tokio::{sync::watch, time::sleep};

/// Resolves with the next value. Never, once there is no sender: it has ended then, and says so itself.
pub(crate) async fn next<T>(receiver: &mut watch::Receiver<T>) {
    if receiver.changed().await.is_err() {
        pending().await
    }
}

/// For ever without a time.
pub(crate) async fn pause(time: Option<Duration>) {
    match time {
        Some(time) => sleep(time).await,
        None => pending().await,
    }
}
