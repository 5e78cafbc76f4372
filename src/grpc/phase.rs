//! What the services on the workload socket are given to serve: something prepared once per change and shared by all
//! streams, or nothing yet, or notice to end.

use std::sync::Arc;

use tokio::sync::watch;
use tonic::Status;

/// The state that all streams of the socket watch.
pub(super) enum Phase<T> {
    /// No identity yet. Streams are held open: `PermissionDenied` would be final for some clients.
    Starting,
    /// The current state, ready to be sent.
    Serving(Arc<T>),
    /// The socket closes. Streams end with `Unavailable`, because some clients don't come back after an end with OK.
    Stopping,
}

/// One stream's view of the phases.
pub(super) struct Phases<T>(watch::Receiver<Phase<T>>);

impl<T> Phases<T> {
    pub(super) const fn new(receiver: watch::Receiver<Phase<T>>) -> Self {
        Self(receiver)
    }

    /// For a new stream: its first [`Phases::next`] gives what is current.
    pub(super) fn subscribe(&self) -> Self {
        let mut receiver = self.0.clone();
        receiver.mark_changed();
        Self(receiver)
    }

    /// Waits for a state that this stream has not seen. Can be dropped and called again without loss.
    ///
    /// # Errors
    ///
    /// `Unavailable` when the socket closes.
    pub(super) async fn next(&mut self) -> Result<Arc<T>, Status> {
        while self.0.changed().await.is_ok() {
            match &*self.0.borrow_and_update() {
                Phase::Starting => {}
                Phase::Serving(state) => return Ok(Arc::clone(state)),
                Phase::Stopping => break,
            }
        }
        Err(Status::unavailable("the workload socket is shutting down"))
    }
}
