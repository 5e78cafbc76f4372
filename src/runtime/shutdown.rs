//! SIGTERM and SIGINT as a value that every part of the process can wait for.

use std::io;

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

/// Whether the process was asked to leave, and whether it was asked again. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Shutdown(watch::Receiver<Asked>);

/// Asks for it; what signals do, and what a test does in their place.
#[derive(Debug)]
pub struct ShutdownTrigger(watch::Sender<Asked>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Asked {
    Never,
    Once,
    Again,
}

/// Why a process did not run to its end.
#[derive(Debug, thiserror::Error)]
pub enum ShutdownError {
    /// It could not be told to leave.
    #[error("signals can't be handled: {0}")]
    Signals(#[from] io::Error),
    /// Whoever asks twice doesn't want to wait for what is in progress.
    #[error("it was told to leave twice, and left at once")]
    Insisted,
}

/// Runs `work` until it ends, which it does when it is told to leave by a signal; a second signal ends it where it is.
///
/// # Errors
///
/// When the handlers can't be installed, or there was a second signal.
pub async fn run<T>(work: impl AsyncFnOnce(Shutdown) -> T) -> Result<T, ShutdownError> {
    let shutdown = Shutdown::on_signal()?;
    tokio::select! {
        result = work(shutdown.clone()) => Ok(result),
        () = shutdown.insisted_on() => Err(ShutdownError::Insisted),
    }
}

impl Shutdown {
    /// Not asked for yet. A trigger that is dropped has asked.
    pub fn channel() -> (ShutdownTrigger, Self) {
        let (sender, receiver) = watch::channel(Asked::Never);
        (ShutdownTrigger(sender), Self(receiver))
    }

    /// Asked for by the first SIGTERM or SIGINT, and asked again by the second. Call it within a runtime, before anything is announced as started.
    ///
    /// # Errors
    ///
    /// When the handlers can't be installed.
    pub fn on_signal() -> io::Result<Self> {
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let (trigger, shutdown) = Self::channel();
        tokio::spawn(async move {
            for event in ["leaving", "leaving_at_once"] {
                tokio::select! {
                    _ = terminate.recv() => tracing::info!(event, signal = "SIGTERM"),
                    _ = interrupt.recv() => tracing::info!(event, signal = "SIGINT"),
                }
                trigger.request();
            }
            // a trigger that is dropped has asked
            std::future::pending::<()>().await;
        });
        Ok(shutdown)
    }

    /// Returns once it was asked for; at once if that lies in the past.
    pub async fn requested(&self) {
        let mut receiver = self.0.clone();
        // An error means that the trigger is gone: nobody is left who could ask, so that counts as asking.
        let _sender_gone = receiver.wait_for(|asked| *asked >= Asked::Once).await;
    }

    /// Returns once it was asked for again. Never if that can't be any more.
    async fn insisted_on(&self) {
        let mut receiver = self.0.clone();
        if receiver.wait_for(|asked| *asked == Asked::Again).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Whether it was asked for already.
    pub fn is_requested(&self) -> bool {
        *self.0.borrow() >= Asked::Once || self.0.has_changed().is_err()
    }
}

impl ShutdownTrigger {
    /// Asks everybody to leave; the second time at once.
    pub fn request(&self) {
        self.0.send_modify(|asked| *asked = if *asked == Asked::Never { Asked::Once } else { Asked::Again });
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
    async fn who_asks_twice_insists() {
        let (trigger, shutdown) = Shutdown::channel();
        let insisting = tokio::spawn({
            let shutdown = shutdown.clone();
            async move { shutdown.insisted_on().await }
        });
        trigger.request();
        shutdown.requested().await;
        tokio::task::yield_now().await;
        assert!(!insisting.is_finished());
        trigger.request();
        insisting.await.unwrap();
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
