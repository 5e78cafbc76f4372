//! Where the steps take place: each ends in time with a line to print, or the quickstart ends with what went wrong.

use std::{
    ffi::OsStr,
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::time::timeout;

use super::{QuickstartError, children::Children, say};
use crate::{
    domain::clock::{BootInstant, Clock},
    runtime::seams::SystemClock,
};

/// A step that takes longer has failed.
const STEP_LIMIT: Duration = Duration::from_secs(10);

/// The folder, the processes, and the time.
pub(super) struct Stage {
    folder: PathBuf,
    children: Children,
    begun: BootInstant,
    step_begun: BootInstant,
}

impl Stage {
    pub(super) fn new(folder: &Path) -> Self {
        let now = SystemClock.boot();
        Self { folder: folder.to_owned(), children: Children::new(folder.to_owned()), begun: now, step_begun: now }
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Since the beginning.
    pub(super) fn elapsed(&self) -> Duration {
        SystemClock.boot().since(self.begun)
    }

    /// Starts a child, and with it a step.
    pub(super) async fn start(&mut self, name: &'static str, arguments: &[&OsStr]) -> Result<u32, QuickstartError> {
        match self.children.start(name, arguments).await {
            Ok(pid) => Ok(pid),
            Err(error) => Err(self.failure(name, error.to_string()).await),
        }
    }

    /// Kills a child with SIGKILL.
    pub(super) fn kill(&mut self, pid: u32) -> io::Result<()> {
        self.children.kill(pid)
    }

    /// Waits for what a step waits for, while all children live, and says how long it took since the last step.
    pub(super) async fn step<T>(
        &mut self,
        name: &'static str,
        work: impl Future<Output = Result<(T, String), String>>,
    ) -> Result<T, QuickstartError> {
        let outcome = tokio::select! {
            done = timeout(STEP_LIMIT, work) => done.unwrap_or_else(|_| Err(format!("not done within {STEP_LIMIT:?}"))),
            ended = self.children.first_end() => Err(ended),
        };
        match outcome {
            Ok((value, line)) => {
                let now = SystemClock.boot();
                say(&format!("{:>6} ms  {line}", now.since(self.step_begun).as_millis()))?;
                self.step_begun = now;
                Ok(value)
            }
            Err(problem) => Err(self.failure(name, problem).await),
        }
    }

    /// Ends all children.
    pub(super) async fn clear(&mut self) {
        self.children.end().await;
    }

    async fn failure(&self, step: &'static str, problem: String) -> QuickstartError {
        let last_words = self.children.last_words().await;
        QuickstartError::Step { step, problem, last_words, folder: self.folder.display().to_string() }
    }
}
