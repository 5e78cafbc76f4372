//! The child processes: each is this very program, writes to files of its own, and never outlives the quickstart.

use std::{env, ffi::OsStr, fmt::Write as _, future::pending, io, path::PathBuf, process::Stdio, time::Duration};

use futures_util::future::select_all;
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    fs::{self, File},
    process::{Child, Command},
    time::timeout,
};

/// How many lines of each child's log an error shows.
const LAST_WORDS: usize = 4;
/// How long a child has to leave on SIGTERM.
const LEAVE_LIMIT: Duration = Duration::from_secs(2);

/// The running ones, and where all of them write.
pub(super) struct Children {
    folder: PathBuf,
    running: Vec<(&'static str, Child)>,
    names: Vec<&'static str>,
}

impl Children {
    pub(super) const fn new(folder: PathBuf) -> Self {
        Self { folder, running: Vec::new(), names: Vec::new() }
    }

    /// Starts this program with other arguments, with nothing of its environment. Gives the process ID.
    pub(super) async fn start(&mut self, name: &'static str, arguments: &[&OsStr]) -> io::Result<u32> {
        let output = File::create(self.folder.join(format!("{name}.out"))).await?.into_std().await;
        let log = File::create(self.log(name)).await?.into_std().await;
        let mut command = Command::new(env::current_exe()?);
        command.args(arguments).env_clear().stdin(Stdio::null()).stdout(output).stderr(log).kill_on_drop(true);
        let child = command.spawn()?;
        let pid = child.id().ok_or_else(|| io::Error::other(format!("{name} ended at once")))?;
        self.running.push((name, child));
        self.names.push(name);
        Ok(pid)
    }

    /// The first that ends, in words. None should, but for one that was killed.
    pub(super) async fn first_end(&mut self) -> String {
        if self.running.is_empty() {
            return pending().await;
        }
        let ends = self.running.iter_mut().map(|(name, child)| Box::pin(async move { (*name, child.wait().await) }));
        match select_all(ends).await.0 {
            (name, Ok(status)) => format!("{name} ended with {status}"),
            (name, Err(error)) => format!("{name}: {error}"),
        }
    }

    /// `kill -9`, without waiting for what follows.
    pub(super) fn kill(&mut self, pid: u32) -> io::Result<()> {
        let found = self.running.iter().position(|(_, child)| child.id() == Some(pid));
        let index = found.ok_or_else(|| io::Error::other(format!("process {pid} is no child of this one")))?;
        let (_, mut child) = self.running.swap_remove(index);
        child.start_kill()
    }

    /// Ends all of them: asked first, then killed.
    pub(super) async fn end(&mut self) {
        for (_, child) in &self.running {
            if let Some(pid) = child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?)) {
                let _ended_already = kill_process(pid, Signal::TERM);
            }
        }
        for (_, mut child) in self.running.drain(..) {
            if timeout(LEAVE_LIMIT, child.wait()).await.is_err() {
                let _ended_already = child.kill().await;
            }
        }
    }

    /// The last lines of each log.
    pub(super) async fn last_words(&self) -> String {
        let mut text = String::new();
        for name in &self.names {
            let log = fs::read(self.log(name)).await.unwrap_or_default();
            let log = String::from_utf8_lossy(&log);
            let lines: Vec<&str> = log.lines().collect();
            for line in lines.iter().skip(lines.len().saturating_sub(LAST_WORDS)) {
                let _never_fails = writeln!(text, "  {name}: {line}");
            }
        }
        text
    }

    fn log(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.log"))
    }
}
