//! Child processes that never outlive their test and show what they said when it fails.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

use super::wait::wait_until;

const SHOWN_LINES: usize = 40;

/// A running child. It is killed, by its own id, when this is dropped.
pub(crate) struct Process {
    name: String,
    child: Child,
    output: PathBuf,
    errors: PathBuf,
}

impl Process {
    /// Starts `command` with its two output streams going to `NAME.out` and `NAME.err` in the folder `logs`.
    pub(crate) fn start(name: &str, logs: &Path, command: &mut Command) -> Self {
        let (output, errors) = (logs.join(format!("{name}.out")), logs.join(format!("{name}.err")));
        let child = command
            .stdin(Stdio::null())
            .stdout(File::create(&output).unwrap())
            .stderr(File::create(&errors).unwrap())
            .spawn()
            .unwrap_or_else(|error| panic!("{} does not start: {error}", command.get_program().display()));
        Self { name: name.to_owned(), child, output, errors }
    }

    /// The same for a child that is held longer than its test, in a `static`, where nothing is ever dropped: the system
    /// kills it when this process ends, in whatever way.
    pub(crate) fn start_tied(name: &str, logs: &Path, command: &Command) -> Self {
        let mut tied = Command::new("setpriv");
        tied.args(["--pdeathsig", "KILL"]).arg(command.get_program()).args(command.get_args());
        tied.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let (name, logs) = (name.to_owned(), logs.to_owned());
        let (started, process) = mpsc::channel();
        // the signal comes when the thread that started the child ends, so this one never does
        thread::spawn(move || {
            started.send(Self::start(&name, &logs, &mut tied)).unwrap();
            loop {
                thread::park();
            }
        });
        process.recv().expect("setpriv, of util-linux, starts it")
    }

    /// Its process ID.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it wrote to its standard output so far.
    pub(crate) fn output(&self) -> String {
        read_lossy(&self.output).unwrap_or_default()
    }

    /// What it wrote to its standard error so far.
    pub(crate) fn errors(&self) -> String {
        read_lossy(&self.errors).unwrap_or_default()
    }

    /// The exit status, when it has ended.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits for its end by itself.
    pub(crate) fn wait_for_end(&mut self, within: Duration) -> ExitStatus {
        let what = format!("the end of {}", self.name);
        wait_until(within, &what, || self.ended().ok_or("it is running"))
    }

    /// Waits for success; a failure shows what it wrote.
    pub(crate) fn wait_for_success(&mut self, within: Duration) {
        let status = self.wait_for_end(within);
        assert!(status.success(), "{} ended with {status}", self.name);
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Stops it, and returns once it stands still: the signal alone is only noticed when one of its threads runs next,
    /// and until then the others go on.
    pub(crate) fn pause(&self) {
        self.signal(Signal::STOP);
        let tasks = format!("/proc/{}/task", self.child.id());
        wait_until(Duration::from_secs(10), "a stopped process", || {
            for task in fs::read_dir(&tasks).unwrap() {
                // one that ended meanwhile runs no more
                let state = fs::read_to_string(task.unwrap().path().join("stat")).unwrap_or_default();
                let state = state.rsplit_once(") ").map_or('T', |(_, rest)| rest.chars().next().unwrap());
                if state != 'T' {
                    return Err(format!("a thread in state {state}"));
                }
            }
            Ok(())
        });
    }

    /// Ends a [`pause`](Self::pause).
    pub(crate) fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// `kill -9`, and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn show(&self) {
        for (stream, text) in [("stdout", self.output()), ("stderr", self.errors())] {
            let lines: Vec<&str> = text.lines().collect();
            let shown = &lines[lines.len().saturating_sub(SHOWN_LINES)..];
            eprintln!(
                "--- {} {stream}, last {} of {} lines\n{}",
                self.name,
                shown.len(),
                lines.len(),
                shown.join("\n")
            );
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let ended_before = self.child.kill().is_err();
        let status = self.child.wait();
        if thread::panicking() {
            let end = if ended_before { "had ended" } else { "was running" };
            eprintln!("--- {} {end}: {status:?}", self.name);
            self.show();
        }
    }
}

fn read_lossy(path: &Path) -> io::Result<String> {
    Ok(String::from_utf8_lossy(&fs::read(path)?).into_owned())
}
