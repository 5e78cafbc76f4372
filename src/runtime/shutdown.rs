//! SIGTERM and SIGINT as a value that every part of the process can wait for.

use std::io;

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

/// Whether the process was asked to leave. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Shutdown(watch::Receiver<bool>);

/// Asks for it; what signals do, and what a test does in their place.
#[derive(Debug)]
pub struct ShutdownTrigger(watch::Sender<bool>);

impl Shutdown {
    /// Not asked for yet. A trigger that is dropped has asked.
    pub fn channel() -> (ShutdownTrigger, Self) {
        let (sender, receiver) = watch::channel(false);
        (ShutdownTrigger(sender), Self(receiver))
    }

    /// Asked for by the first SIGTERM or SIGINT. Call it within a runtime, before anything is announced as started.
    ///
    /// # Errors
    ///
    /// When the handlers can't be installed.
    pub fn on_signal() -> io::Result<Self> {
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let (trigger, shutdown) = Self::channel();
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => tracing::info!(signal = "SIGTERM", "leaving"),
                _ = interrupt.recv() => tracing::info!(signal = "SIGINT", "leaving"),
            }
            trigger.request();
        });
        Ok(shutdown)
    }

    /// Returns once it was asked for; at once if that lies in the past.
    pub async fn requested(&self) {
        let mut receiver = self.0.clone();
        // An error means that the trigger is gone: nobody is left who could ask, so that counts as asking.
        let _sender_gone = receiver.wait_for(|requested| *requested).await;
    }

    /// Whether it was asked for already.
    pub fn is_requested(&self) -> bool {
        *self.0.borrow() || self.0.has_changed().is_err()
    }
}

impl ShutdownTrigger {
    /// Asks everybody to leave.
    pub fn request(&self) {
        self.0.send_replace(true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn everybody_hears_it_also_afterwards() {
        let (trigger, shutdown) = Shutdown::channel();
        assert!(!shutdown.is_requested());
        let waiting = tokio::spawn({
            let shutdown = shutdown.clone();
            async move { shutdown.requested().await }
        });
        tokio::task::yield_now().await;
        trigger.request();
        waiting.await.unwrap();
        shutdown.requested().await;
        assert!(shutdown.is_requested());
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_trigger_has_asked() {
        let (trigger, shutdown) = Shutdown::channel();
        drop(trigger);
        shutdown.requested().await;
        assert!(shutdown.is_requested());
    }
}
