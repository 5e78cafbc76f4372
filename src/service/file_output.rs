//! Keeps an SVID in files, for gateways that read files: the whole set is replaced at once, read back, and whoever reads it is
//! told. Nothing here touches what the workload socket serves.
//!
//! An SVID that expires without a successor stays in its files: a gateway refuses to use it by itself, whereas one that finds no
//! files may not start at all, nor serve its other routes.

mod file_set;

use std::{convert::Infallible, fmt, sync::Arc, time::Duration};

use tokio::{
    task::spawn_blocking,
    time::{sleep, timeout},
};
use tracing::{info, warn};

pub use self::file_set::{FileSet, OutputFile};
use super::{
    metrics::{Metrics, NoticeOutcome, OutputOutcome},
    ports::BoxFuture,
    readiness::Latch,
    svid_publisher::{IdentityReceiver, WorkloadIdentity},
};
use crate::domain::{
    clock::{Clock, Timestamp},
    x509::Certificate,
};

/// Where the files are. Both block: call them off the runtime.
pub trait FileStore: Send + Sync {
    /// Whether exactly these files stand there, each as it is read by its name.
    ///
    /// # Errors
    ///
    /// When that can't be found out.
    fn holds(&self, files: &FileSet) -> Result<bool, FileError>;

    /// Puts these files in the place of those of before, all at once and durably. Whatever fails or dies in between, what stood
    /// there before still does.
    ///
    /// # Errors
    ///
    /// Names what could not be written, and the fix where there is one.
    fn replace(&self, files: &FileSet) -> Result<(), FileError>;

    /// Removes what a writer that was killed left behind.
    ///
    /// # Errors
    ///
    /// When the directory can't be used, or another process writes there.
    fn tidy(&self) -> Result<(), FileError>;
}

/// Why files are not as they should be; names the path.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct FileError(pub String);

/// Tells whoever reads the files that there are others.
pub trait Notice: Send + Sync {
    /// Tells once. Whoever calls bounds the time; to drop the future gives it up.
    fn give(&self) -> BoxFuture<'_, Result<(), NoticeError>>;
}

/// Why nobody was told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NoticeError(pub String);

/// The use case.
pub struct FileOutput {
    /// Where the files are.
    pub store: Arc<dyn FileStore>,
    /// Who is told.
    pub notice: Option<Arc<dyn Notice>>,
    /// For when they were verified.
    pub clock: Arc<dyn Clock>,
    /// Where it is counted.
    pub metrics: Arc<Metrics>,
}

/// This output's name in metrics.
const NAME: &str = "files";
/// How often the files are read again: somebody may have changed them.
const VERIFY_EVERY: Duration = Duration::from_secs(30);
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// A file system that takes longer is said to hang; it is still waited for, because nothing can stop it.
const HANGS_AFTER: Duration = Duration::from_secs(10);
const NOTICE_LIMIT: Duration = Duration::from_secs(10);

/// What is to be in the files, and what is.
#[derive(Default)]
struct Kept {
    wanted: Option<Wanted>,
    is_withdrawn: bool,
    held: Option<Held>,
    failures: u32,
    problem: Option<String>,
    /// Why nobody could be told of the files of now.
    unheard: Option<String>,
}

struct Wanted {
    files: Arc<FileSet>,
    revision: u64,
    leaf: Certificate,
}

/// What was read from the files.
#[derive(Clone)]
struct Held {
    revision: u64,
    leaf: Certificate,
    verified_at: Timestamp,
}

impl FileOutput {
    /// Keeps the files for as long as it is polled. `latch` is not ready until the first set stands; from then on it tells how it
    /// stands, and is ready: a gateway goes on with the files it has.
    pub async fn run(self, mut identity: IdentityReceiver, latch: Latch) -> Infallible {
        self.metrics.output_begins(NAME);
        let mut kept = Kept::default();
        let store = Arc::clone(&self.store);
        if let Err(error) = self.done(&mut kept, &latch, move || store.tidy()).await {
            self.failed(&mut kept, &error);
        }
        loop {
            let published = identity.borrow_and_update().clone();
            if let Some(published) = published {
                kept.see(&published);
            }
            let pause = self.keep(&mut kept, &latch).await;
            kept.show(&latch);
            tokio::select! {
                changed = identity.changed() => if changed.is_err() {
                    // the publisher has ended, and says so itself
                    std::future::pending::<()>().await;
                },
                () = sleep(pause) => {}
            }
        }
    }

    /// Brings the files to what is wanted, once. Returns when to look again.
    async fn keep(&self, kept: &mut Kept, latch: &Latch) -> Duration {
        let Some(Wanted { files, revision, leaf }) = &kept.wanted else { return VERIFY_EVERY };
        let (files, revision, leaf) = (Arc::clone(files), *revision, leaf.clone());
        let is_new = kept.held.as_ref().is_none_or(|held| held.revision != revision);
        let store = Arc::clone(&self.store);
        let written = self.done(kept, latch, move || ensure(store.as_ref(), &files)).await;
        match written {
            Ok(is_written) => {
                let (now, before) = (self.clock.now(), kept.held.as_ref().map(|held| held.verified_at));
                // what has expired is the same as before, and right no more
                let (serial, not_after) = (leaf.serial(), leaf.not_after());
                let verified_at = if now < not_after { now } else { before.unwrap_or(not_after) };
                self.metrics.output_verified(NAME, &leaf, verified_at);
                if is_written {
                    self.metrics.output_written(NAME, OutputOutcome::Written);
                    info!(event = "output_written", output = NAME, %serial, %not_after, put_right = !is_new);
                }
                kept.held = Some(Held { revision, leaf, verified_at });
                (kept.failures, kept.problem) = (0, None);
                // a write may have been found wanting after the files were there, and its retry finds nothing to do
                if is_written || is_new {
                    kept.unheard = self.tell().await;
                }
                VERIFY_EVERY
            }
            Err(error) => {
                self.failed(kept, &error);
                FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(kept.failures.saturating_sub(1))).min(LONGEST_PAUSE)
            }
        }
    }

    fn failed(&self, kept: &mut Kept, error: &FileError) {
        self.metrics.output_written(NAME, OutputOutcome::Failed);
        kept.failures = kept.failures.saturating_add(1);
        let problem = error.to_string();
        if kept.problem.as_ref() != Some(&problem) {
            warn!(event = "output_failed", output = NAME, error = problem);
        }
        kept.problem = Some(problem);
    }

    /// Does something that blocks. Says so if that takes long.
    async fn done<T: Send + 'static>(
        &self,
        kept: &mut Kept,
        latch: &Latch,
        work: impl FnOnce() -> Result<T, FileError> + Send + 'static,
    ) -> Result<T, FileError> {
        let mut task = spawn_blocking(work);
        loop {
            match timeout(HANGS_AFTER, &mut task).await {
                Ok(done) => return done.map_err(|error| FileError(error.to_string())).flatten(),
                Err(_elapsed) => {
                    let problem = format!("the file system has not answered within {HANGS_AFTER:?}");
                    if kept.problem.as_ref() != Some(&problem) {
                        warn!(event = "output_hangs", output = NAME, error = problem);
                    }
                    kept.problem = Some(problem);
                    kept.show(latch);
                }
            }
        }
    }

    /// Tells whoever reads the files. It is not tried again before there are others: whoever was told twice may have begun twice.
    async fn tell(&self) -> Option<String> {
        let notice = self.notice.as_ref()?;
        let given = timeout(NOTICE_LIMIT, notice.give()).await;
        let given = given.unwrap_or_else(|_elapsed| Err(NoticeError(format!("not done within {NOTICE_LIMIT:?}"))));
        match given {
            Ok(()) => {
                self.metrics.output_notified(NoticeOutcome::Given);
                None
            }
            Err(error) => {
                self.metrics.output_notified(NoticeOutcome::Failed);
                warn!(event = "output_notice_failed", output = NAME, %error);
                Some(error.to_string())
            }
        }
    }
}

/// Makes sure that the files stand there. Returns whether they had to be written.
fn ensure(store: &dyn FileStore, files: &FileSet) -> Result<bool, FileError> {
    // a directory that can't be read may be one that has to be made
    if store.holds(files).unwrap_or(false) {
        return Ok(false);
    }
    store.replace(files)?;
    if store.holds(files)? { Ok(true) } else { Err(FileError("what was written is not what is read back".into())) }
}

impl Kept {
    fn see(&mut self, published: &WorkloadIdentity) {
        self.is_withdrawn = published.svid.is_none();
        let is_known = self.wanted.as_ref().is_some_and(|wanted| wanted.revision == published.revision);
        if let Some(svid) = published.svid.as_ref().filter(|_| !is_known) {
            self.wanted = Some(Wanted {
                files: Arc::new(FileSet::new(svid, &published.bundle)),
                revision: published.revision,
                leaf: svid.leaf().clone(),
            });
            self.failures = 0;
        }
    }

    fn show(&self, latch: &Latch) {
        if self.held.is_some() { latch.ready(self.to_string()) } else { latch.not_ready(self.to_string()) }
    }
}

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.held {
            None => f.write_str("none yet")?,
            Some(Held { leaf, verified_at, .. }) => {
                let (serial, not_after) = (leaf.serial(), leaf.not_after());
                write!(f, "serial {serial} until {not_after}, verified at {verified_at}")?;
            }
        }
        if self.is_withdrawn {
            f.write_str("; the SVID has expired and could not be renewed, the files are left as they are")?;
        }
        if let Some(problem) = &self.problem {
            write!(f, "; not written: {problem}")?;
        }
        match &self.unheard {
            Some(problem) => write!(f, "; nobody was told: {problem}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
