//! The files with the SVID beside the socket, wired; and how whoever reads them is told.

use std::{path::PathBuf, process::Stdio, sync::Arc};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{fs::File, io::AsyncReadExt, process::Command};

use crate::{
    runtime::{
        config::{NoticeConfig, OutputConfig},
        seams::SystemClock,
        shutdown::Shutdown,
        supervisor::Supervisor,
    },
    service::{
        file_output::{FileOutput, Notice, NoticeError},
        metrics::Metrics,
        ports::BoxFuture,
        readiness::Readiness,
        svid_publisher::IdentityReceiver,
    },
    storage::svid_directory::SvidDirectory,
};

/// Keeps the files until shutdown.
pub(super) fn start(
    config: OutputConfig,
    identity: IdentityReceiver,
    metrics: Arc<Metrics>,
    readiness: &Readiness,
    shutdown: &Shutdown,
    supervisor: &mut Supervisor,
) {
    let output = FileOutput {
        store: Arc::new(SvidDirectory::new(config.dir, config.mode)),
        notice: config.notice.map(notice),
        clock: Arc::new(SystemClock),
        metrics,
    };
    let latch = readiness.latch("output files", "none yet");
    let asked = shutdown.clone();
    supervisor.spawn("output files", async move {
        tokio::select! {
            never = output.run(identity, latch) => match never {},
            () = asked.requested() => Ok::<_, &str>(()),
        }
    });
}

fn notice(config: NoticeConfig) -> Arc<dyn Notice> {
    match config {
        NoticeConfig::Command { program, arguments, withheld } => Arc::new(ByCommand { program, arguments, withheld }),
        NoticeConfig::Signal { signal, pid_file } => Arc::new(BySignal { signal, pid_file }),
    }
}

/// Runs a program, without a shell. What it writes to its standard error goes where ours goes. It has our environment, without
/// the secrets in it.
struct ByCommand {
    program: String,
    arguments: Vec<String>,
    withheld: Vec<String>,
}

/// Sends a signal.
struct BySignal {
    signal: Signal,
    pid_file: PathBuf,
}

/// A process ID has at most seven digits.
const PID_FILE_AT_MOST: u64 = 16;

impl Notice for ByCommand {
    fn give(&self) -> BoxFuture<'_, Result<(), NoticeError>> {
        Box::pin(async move {
            let named = |what: String| NoticeError(format!("{}: {what}", self.program));
            let mut command = Command::new(&self.program);
            for name in &self.withheld {
                command.env_remove(name);
            }
            command.args(&self.arguments).stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true);
            let status = command.status().await.map_err(|error| named(error.to_string()))?;
            if status.success() { Ok(()) } else { Err(named(status.to_string())) }
        })
    }
}

impl Notice for BySignal {
    fn give(&self) -> BoxFuture<'_, Result<(), NoticeError>> {
        Box::pin(async move {
            let named = |what: String| NoticeError(format!("{}: {what}", self.pid_file.display()));
            let file = File::open(&self.pid_file).await.map_err(|error| named(error.to_string()))?;
            let mut text = String::new();
            let read = file.take(PID_FILE_AT_MOST).read_to_string(&mut text).await;
            read.map_err(|error| named(error.to_string()))?;
            // 0 and below are groups, and 1 is whoever holds this container together
            let pid = text.trim().parse().ok().filter(|pid| *pid > 1).and_then(Pid::from_raw);
            let pid = pid.ok_or_else(|| named(format!("holds no process ID: {text:?}")))?;
            kill_process(pid, self.signal).map_err(|error| named(format!("process {}: {error}", pid.as_raw_nonzero())))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::process::ExitStatusExt, time::Duration};

    use tokio::time::timeout;

    use super::*;

    fn by_command(words: &[&str]) -> ByCommand {
        let mut words = words.iter().map(|word| (*word).to_owned());
        ByCommand { program: words.next().unwrap(), arguments: words.collect(), withheld: Vec::new() }
    }

    #[tokio::test]
    async fn a_command_gets_its_arguments_as_they_are_and_its_failure_is_named() {
        by_command(&["test", "$HOME", "=", "$HOME"]).give().await.unwrap();
        let error = by_command(&["false"]).give().await.unwrap_err().to_string();
        assert!(error.starts_with("false: exit status: 1"), "{error}");
        let error = by_command(&["/no/such/program"]).give().await.unwrap_err().to_string();
        assert!(error.contains("/no/such/program: No such file"), "{error}");
    }

    #[tokio::test]
    async fn a_command_has_the_environment_without_what_is_withheld() {
        let with_all = by_command(&["printenv", "PATH"]);
        with_all.give().await.unwrap();
        let error = ByCommand { withheld: vec!["PATH".to_owned()], ..with_all }.give().await.unwrap_err().to_string();
        assert_eq!(error, "printenv: exit status: 1");
    }

    #[tokio::test]
    async fn a_command_that_is_given_up_is_killed() {
        let folder = tempfile::tempdir().unwrap();
        let pid_file = folder.path().join("pid");
        let script = format!("echo $$ > {}; exec sleep 1000", pid_file.display());
        timeout(Duration::from_secs(1), by_command(&["sh", "-c", &script]).give()).await.unwrap_err();
        let pid: i32 = tokio::fs::read_to_string(&pid_file).await.unwrap().trim().parse().unwrap();
        let stat = PathBuf::from(format!("/proc/{pid}/cmdline"));
        for _ in 0..500 {
            // a zombie has no command line
            if tokio::fs::read(&stat).await.unwrap_or_default().is_empty() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("process {pid} still runs");
    }

    #[tokio::test]
    async fn a_signal_reaches_the_process_that_the_file_names_and_no_group_nor_the_first_process() {
        let folder = tempfile::tempdir().unwrap();
        let pid_file = folder.path().join("pid");
        // HUP may be ignored by whoever started the tests, and is then by the child too
        let notice = BySignal { signal: Signal::USR1, pid_file: pid_file.clone() };
        assert!(notice.give().await.unwrap_err().to_string().contains("No such file"));
        for text in ["", "0", "1", "-5", "x", "99999999999999999999"] {
            tokio::fs::write(&pid_file, text).await.unwrap();
            let error = notice.give().await.unwrap_err().to_string();
            assert!(error.contains("holds no process ID"), "{text:?}: {error}");
        }
        let mut child = Command::new("sleep").arg("1000").kill_on_drop(true).spawn().unwrap();
        tokio::fs::write(&pid_file, format!("{}\n", child.id().unwrap())).await.unwrap();
        notice.give().await.unwrap();
        let status = timeout(Duration::from_secs(10), child.wait()).await.unwrap().unwrap();
        assert_eq!(status.signal(), Some(Signal::USR1.as_raw()));
    }
}
