//! Critical tasks: none of them may end unseen.

use std::{collections::HashMap, fmt, time::Duration};

use tokio::task::{Id, JoinError, JoinSet};

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

    /// The first task that ends, fails or panics. Waits for ever while there is none. May be dropped and called again.
    pub async fn first_end(&mut self) -> TaskEnded {
        match self.tasks.join_next_with_id().await {
            Some(end) => self.described(end),
            None => std::future::pending().await,
        }
    }

    /// Once shutdown was asked for: waits until all tasks have ended by themselves, at most for `limit`, and aborts the
    /// others.
    ///
    /// # Errors
    ///
    /// The first task that failed or panicked on its way out, or had to be aborted.
    pub async fn drain(mut self, limit: Duration) -> Result<(), TaskEnded> {
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
        supervisor.first_end().await.to_string()
    }

    #[tokio::test(start_paused = true)]
    async fn names_the_first_that_is_over() {
        assert_eq!(first(async { Ok(()) }).await, "critical task subject ended");
        assert_eq!(first(async { Err("disk full".into()) }).await, "critical task subject failed: disk full");
        assert_eq!(first(async { panic!("expected in this test") }).await, "critical task subject panicked");
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
