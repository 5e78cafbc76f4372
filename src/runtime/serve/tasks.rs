//! How the tasks of a replica begin and end.

use std::time::Duration;

use tokio::{runtime::Handle, sync::watch, time::sleep};

use super::ServeFailed;
use crate::runtime::shutdown::Shutdown;

/// For answers of the admin port and between replicas, which are short.
const GRACE: Duration = Duration::from_millis(500);

/// Never returns when the election failed: that ends the process, and is the reason to be shown.
pub(super) async fn gone(mut left: watch::Receiver<bool>) {
    if left.wait_for(|left| *left).await.is_err() {
        // whoever was to say so has failed: the process ends with that, not with the end of another task
        std::future::pending::<()>().await;
    }
}

/// Ends a server some time after it was told to leave, however slowly its clients read.
pub(super) async fn cut_after_grace<E>(
    server: impl Future<Output = Result<(), E>>,
    left: watch::Receiver<bool>,
) -> Result<(), E> {
    tokio::select! {
        result = server => result,
        () = async { gone(left).await; sleep(GRACE).await } => Ok(()),
    }
}

/// Runs a task that ends with a reason until shutdown is asked for.
pub(super) fn until_failed(
    shutdown: &Shutdown,
    task: impl Future<Output = &'static str> + Send + 'static,
) -> impl Future<Output = Result<(), ServeFailed>> + Send + 'static {
    let shutdown = shutdown.clone();
    async move {
        tokio::select! {
            reason = task => Err(ServeFailed(reason.into())),
            () = shutdown.requested() => Ok(()),
        }
    }
}

/// Runs a task that would go on for ever until shutdown is asked for.
pub(super) fn until(
    shutdown: &Shutdown,
    task: impl Future<Output = ()> + Send + 'static,
) -> impl Future<Output = Result<(), ServeFailed>> + Send + 'static {
    until_failed(shutdown, async move {
        task.await;
        "it came to its end"
    })
}

/// Runs a task on another runtime.
pub(super) fn on<E: std::fmt::Display + Send + 'static>(
    runtime: &Handle,
    task: impl Future<Output = Result<(), E>> + Send + 'static,
) -> impl Future<Output = Result<(), ServeFailed>> + Send + 'static {
    let task = runtime.spawn(task);
    async move { task.await.map_err(ServeFailed::of)?.map_err(ServeFailed::of) }
}
