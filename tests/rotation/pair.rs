//! Two replicas on one data directory that give SVIDs of a few seconds, and the command line.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use tempfile::TempDir;

use crate::{
    holders::Holders,
    support::{
        countersign::{Agent, Serve, countersign},
        http::{self, free_port, loopback},
        wait::wait_until,
    },
};

/// Of an SVID. Half of it is time enough for a failover on a busy machine.
pub(crate) const TTL: Duration = Duration::from_secs(8);

const FLAGS: [&str; 6] = ["--svid-ttl", "8s", "--max-svid-ttl", "8s", "--bundle-refresh-hint", "2s"];
const CHANGE: Duration = Duration::from_secs(10);

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
    pub(crate) fn kill_active(&mut self, holders: &Holders) {
        let active = self.active();
        self.replicas[active].process.kill();
        wait_until(CHANGE, "the standby active", || {
            let role = http::get(loopback(self.replicas[1 - active].admin_port), "/readyz");
            if role.as_ref().is_ok_and(|role| role.contains("(active in")) { Ok(()) } else { Err(format!("{role:?}")) }
        });
        self.starts += 1;
        let (name, port) = (format!("serve-{}", self.starts), self.replicas[active].port);
        self.replicas[active] = Serve::spawn(&name, self.logs(), &self.data(), port, &FLAGS);
        self.replicas[active].wait_until_ready();
        holders.verify();
    }

    /// What `authority KIND STEP` prints, or why it fails, as soon as somebody answers: a replica is active a moment before its
    /// admin.sock is there.
    pub(crate) fn run(&self, kind: &str, step: &[&str]) -> Result<String, String> {
        wait_until(CHANGE, "an answer", || match self.attempt(kind, step) {
            Err(error) if error.contains("is active: start") => Err(error),
            answer => Ok(answer),
        })
    }

    fn attempt(&self, kind: &str, step: &[&str]) -> Result<String, String> {
        let mut command = countersign();
        command.args(["authority", kind]).args(step).arg("--data-dir").arg(self.data());
        let output = command.output().unwrap();
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        if output.status.success() { Ok(text) } else { Err(text) }
    }

    pub(crate) fn done(&self, kind: &str, step: &[&str]) -> String {
        self.run(kind, step).unwrap_or_else(|error| panic!("{kind} {step:?}: {error}"))
    }

    pub(crate) fn refused(&self, kind: &str, step: &[&str]) -> String {
        self.run(kind, step).expect_err("it is refused")
    }
}
