//! Two replicas on one data directory that give SVIDs of a few seconds, and the command line.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::{
    countersign::{Agent, Serve, countersign},
    http::{self, free_port, loopback},
    wait::wait_until,
};

/// Of an SVID. Half of it is time enough for a failover on a busy machine.
pub(crate) const TTL: Duration = Duration::from_secs(8);

const FLAGS: [&str; 6] = ["--svid-ttl", "8s", "--max-svid-ttl", "8s", "--bundle-refresh-hint", "2s"];
const CHANGE: Duration = Duration::from_secs(10);
/// The longest that a step waits: for three readings of the bundle endpoint by whoever reads it least often.
pub(crate) const GATE: Duration = Duration::from_secs(60);

/// The pair.
pub(crate) struct Pair {
    replicas: [Serve; 2],
    folder: TempDir,
    starts: usize,
}

impl Pair {
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let start = |name| {
            let data = folder.path().join("data");
            let replica = Serve::spawn(name, folder.path(), &data, free_port(), &FLAGS);
            replica.wait_until_ready();
            replica
        };
        let replicas = [start("serve-0"), start("serve-1")];
        Self { replicas, folder, starts: 2 }
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    pub(crate) fn logs(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn ports(&self) -> [u16; 2] {
        self.replicas.each_ref().map(|replica| replica.port)
    }

    /// Where clients reach them.
    pub(crate) fn addresses(&self) -> [SocketAddr; 2] {
        self.ports().map(loopback)
    }

    pub(crate) fn agent(&self, name: &str) -> Agent {
        let addresses = self.replicas.each_ref().map(Serve::address);
        Agent::start(name, self.logs(), &self.data(), &format!("default/{name}"), &addresses, "8s")
    }

    fn active(&self) -> usize {
        wait_until(CHANGE, "one of the two active", || {
            let roles = self.replicas.each_ref().map(|replica| http::get(loopback(replica.admin_port), "/readyz"));
            let is_active = |role: &Result<String, String>| role.as_ref().is_ok_and(|role| role.contains("(active in"));
            roles.iter().position(is_active).ok_or_else(|| format!("{roles:?}"))
        })
    }

    pub(crate) fn active_log(&self) -> String {
        self.replicas[self.active()].process.errors()
    }

    /// Kills the active, waits until the other one has taken over, and starts the killed one anew.
    pub(crate) fn kill_active(&mut self) {
        let active = self.active();
        self.replicas[active].process.kill();
        self.replace(active);
    }

    /// Kills the active as soon as it has written something of a step, and replaces it. What the command said.
    pub(crate) fn killed_amid(&mut self, kind: &str, step: &[&str]) -> Result<String, String> {
        let output = wait_until(CHANGE, &format!("{step:?} begun"), || self.kill_amid(kind, step));
        self.replace(output.0);
        said(&output.1)
    }

    fn kill_amid(&mut self, kind: &str, step: &[&str]) -> Result<(usize, Output), String> {
        let manifest = self.data().join("manifest");
        let acknowledged = || fs::read(&manifest).unwrap();
        let (active, before, begun) = (self.active(), acknowledged(), Instant::now());
        let mut command = self.command(kind, step);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // whoever looks seldom sees the step only when it is over
        while acknowledged() == before && child.try_wait().unwrap().is_none() {
            assert!(begun.elapsed() < CHANGE, "{step:?} neither ends nor writes");
            thread::sleep(Duration::from_micros(100));
        }
        let is_begun = acknowledged() != before;
        if is_begun {
            self.replicas[active].process.kill();
        }
        let output = child.wait_with_output().unwrap();
        if is_begun { Ok((active, output)) } else { Err(format!("nothing was written: {:?}", said(&output))) }
    }

    fn replace(&mut self, killed: usize) {
        wait_until(CHANGE, "the standby active", || {
            let role = http::get(loopback(self.replicas[1 - killed].admin_port), "/readyz");
            if role.as_ref().is_ok_and(|role| role.contains("(active in")) { Ok(()) } else { Err(format!("{role:?}")) }
        });
        self.starts += 1;
        let (name, port) = (format!("serve-{}", self.starts), self.replicas[killed].port);
        self.replicas[killed] = Serve::spawn(&name, self.logs(), &self.data(), port, &FLAGS);
        self.replicas[killed].wait_until_ready();
    }

    /// Those in a phase.
    pub(crate) fn ids(&self, kind: &str, phase: &str) -> Vec<String> {
        let shown: Value = serde_json::from_str(&self.done(kind, &["show", "-o", "json"])).unwrap();
        let all = shown["authorities"].as_array().unwrap().iter();
        all.filter(|one| one["phase"] == phase).map(|one| one["id"].as_str().unwrap().to_owned()).collect()
    }

    /// The one in a phase.
    pub(crate) fn only(&self, kind: &str, phase: &str) -> String {
        let found = self.ids(kind, phase);
        assert_eq!(found.len(), 1, "{phase}: {found:?}");
        found.into_iter().next().unwrap()
    }

    /// What `authority KIND STEP` prints, or why it fails, as soon as somebody answers: a replica is active a moment before its
    /// admin.sock is there.
    pub(crate) fn run(&self, kind: &str, step: &[&str]) -> Result<String, String> {
        wait_until(CHANGE, "an answer", || match said(&self.command(kind, step).output().unwrap()) {
            Err(error) if error.contains("is active: start") => Err(error),
            answer => Ok(answer),
        })
    }

    fn command(&self, kind: &str, step: &[&str]) -> Command {
        let mut command = countersign();
        command.args(["authority", kind]).args(step).arg("--data-dir").arg(self.data());
        command
    }

    pub(crate) fn done(&self, kind: &str, step: &[&str]) -> String {
        self.run(kind, step).unwrap_or_else(|error| panic!("{kind} {step:?}: {error}"))
    }

    pub(crate) fn refused(&self, kind: &str, step: &[&str]) -> String {
        self.run(kind, step).expect_err("it is refused")
    }
}

fn said(output: &Output) -> Result<String, String> {
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if output.status.success() { Ok(text) } else { Err(text) }
}
