//! Critical tasks: none of them may end unseen.

use std::{collections::HashMap, fmt, time::Duration};

use tokio::task::{Id, JoinError, JoinSet};

use super::shutdown::Shutdown;

/// The named tasks without which the process is of no use.
#[derive(Debug, Default)]
pub struct Supervisor {
    tasks: JoinSet<Result<(), String>>,
    names: HashMap<Id, &'static str>,
}

/// A critical task is over: the process ends with [`super::commands::EXIT_ERROR`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("critical task {task} {how}")]
pub struct TaskEnded {
    /// Its name.
    pub task: &'static str,
    /// `ended`, `panicked`, or `failed: …`. Never the text of a panic, which the panic hook has written already.
    pub how: String,
}

impl Supervisor {
    /// Starts a task. Call it within a runtime.
    pub fn spawn<E: fmt::Display>(
        &mut self,
        name: &'static str,
        task: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        let handle = self.tasks.spawn(async move { task.await.map_err(|error| error.to_string()) });
        self.names.insert(handle.id(), name);
    }

    /// Watches over all tasks until shutdown is asked for, then lets them end by themselves, at most for `drain_limit`.
    ///
    /// # Errors
    ///
    /// The first task that ends before shutdown was asked for, or does not end well after it.
    pub async fn run(mut self, shutdown: &Shutdown, drain_limit: Duration) -> Result<(), TaskEnded> {
        let end = tokio::select! {
            biased;
            () = shutdown.requested() => None,
            Some(end) = self.tasks.join_next_with_id() => Some(end),
        };
        match end {
            // a task may hear of the shutdown, and end, before this one does
            Some(Ok((id, Ok(())))) if shutdown.is_requested() => _ = self.names.remove(&id),
            Some(end) => return Err(self.described(end)),
            None => {}
        }
        self.drain(drain_limit).await
    }

    /// Once shutdown was asked for: waits until all tasks have ended by themselves, at most for `limit`, and aborts the
    /// others.
    ///
    /// # Errors
    ///
    /// The first task that failed or panicked on its way out, or had to be aborted.
    async fn drain(mut self, limit: Duration) -> Result<(), TaskEnded> {
        let deadline = tokio::time::Instant::now() + limit;
        let mut first_failure = None;
        while !self.tasks.is_empty() {
            match tokio::time::timeout_at(deadline, self.tasks.join_next_with_id()).await {
                Ok(Some(Ok((id, Ok(()))))) => {
                    self.names.remove(&id);
                }
                Ok(Some(end)) => {
                    let end = self.described(end);
                    first_failure.get_or_insert(end);
                }
                Ok(None) => break,
                Err(_elapsed) => {
                    let task = self.names.values().copied().min().unwrap_or("unnamed");
                    first_failure.get_or_insert(TaskEnded { task, how: format!("did not end within {limit:?}") });
                    break;
                }
            }
        }
        self.tasks.shutdown().await;
        first_failure.map_or(Ok(()), Err)
    }

    fn described(&mut self, end: Result<(Id, Result<(), String>), JoinError>) -> TaskEnded {
        let (id, how) = match end {
            Ok((id, Ok(()))) => (id, "ended".to_owned()),
            Ok((id, Err(error))) => (id, format!("failed: {error}")),
            Err(error) => (error.id(), if error.is_panic() { "panicked" } else { "was aborted" }.to_owned()),
        };
        TaskEnded { task: self.names.remove(&id).unwrap_or("unnamed"), how }
    }
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, future::pending};

    use super::*;

    async fn first(task: impl Future<Output = Result<(), String>> + Send + 'static) -> String {
        let mut supervisor = Supervisor::default();
        supervisor.spawn("other", pending::<Result<(), Infallible>>());
        supervisor.spawn("subject", task);
        let (_trigger, shutdown) = Shutdown::channel();
        supervisor.run(&shutdown, Duration::ZERO).await.unwrap_err().to_string()
    }

    #[tokio::test(start_paused = true)]
    async fn names_the_first_that_is_over() {
        assert_eq!(first(async { Ok(()) }).await, "critical task subject ended");
        assert_eq!(first(async { Err("disk full".into()) }).await, "critical task subject failed: disk full");
        assert_eq!(first(async { panic!("expected in this test") }).await, "critical task subject panicked");
    }

    #[tokio::test]
    async fn a_task_that_hears_of_the_shutdown_first_has_not_failed() {
        let (trigger, shutdown) = Shutdown::channel();
        let mut supervisor = Supervisor::default();
        supervisor.spawn("first to hear", async move {
            trigger.request();
            Ok::<_, Infallible>(())
        });
        supervisor.spawn("second", async {
            tokio::task::yield_now().await;
            Ok::<_, Infallible>(())
        });
        assert_eq!(supervisor.run(&shutdown, Duration::from_secs(5)).await, Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn drains_within_its_limit() {
        let limit = Duration::from_secs(5);
        let mut supervisor = Supervisor::default();
        supervisor.spawn("quick", async {
            tokio::time::sleep(Duration::from_secs(4)).await;
            Ok::<_, Infallible>(())
        });
        assert_eq!(supervisor.drain(limit).await, Ok(()));

        let mut supervisor = Supervisor::default();
        supervisor.spawn("quick", async { Ok::<_, Infallible>(()) });
        supervisor.spawn("stuck", pending::<Result<(), Infallible>>());
        let end = supervisor.drain(limit).await.unwrap_err();
        assert_eq!(end.to_string(), "critical task stuck did not end within 5s");
    }
}
