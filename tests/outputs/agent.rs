//! An agent that keeps files, and the authority that it asks.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use tempfile::TempDir;

use crate::support::{
    countersign::{Serve, countersign, root_file, write_token},
    http::{self, free_port, loopback},
    process::Process,
    svid_set::SvidSet,
    wait::wait_until,
};

pub(crate) const SOON: Duration = Duration::from_secs(20);

/// An authority, a token, and a folder for everything; gone at the end.
pub(crate) struct Place {
    serve: Serve,
    folder: TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let serve = Serve::start("serve", folder.path(), &folder.path().join("data"), &[]);
        write_token(&folder.path().join("data"), "default/gateway", &folder.path().join("token"));
        Self { serve, folder }
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Where the files are to be.
    pub(crate) fn output(&self) -> PathBuf {
        self.folder.path().join("output")
    }

    /// The command of an agent whose SVIDs live for `ttl`, and its admin port.
    pub(crate) fn agent(&self, name: &str, ttl: &str, flags: &[&str]) -> (Command, u16) {
        let admin = free_port();
        let mut command = countersign();
        command.args(["agent", "--ca-address", &self.serve.address(), "--svid-ttl", ttl]);
        command.arg("--token-file").arg(self.path().join("token"));
        command.arg("--root-file").arg(root_file(&self.path().join("data")));
        command.arg("--socket").arg(self.path().join(format!("{name}.sock")));
        command.arg("--output-dir").arg(self.output()).args(flags);
        command.arg("--admin-listen").arg(loopback(admin).to_string());
        (command, admin)
    }

    /// Starts one.
    pub(crate) fn start(&self, name: &str, ttl: &str, flags: &[&str]) -> Agent {
        let (mut command, admin) = self.agent(name, ttl, flags);
        Agent { process: Process::start(name, self.path(), &mut command), admin }
    }
}

/// A running one.
pub(crate) struct Agent {
    pub(crate) process: Process,
    pub(crate) admin: u16,
}

impl Agent {
    /// `/readyz`, whatever its status.
    pub(crate) fn readiness(&self) -> String {
        http::get(loopback(self.admin), "/readyz").unwrap_or_else(|other| other)
    }

    /// Waits until `/readyz` says this.
    pub(crate) fn says(&self, text: &str) -> String {
        wait_until(SOON, text, || {
            let said = self.readiness();
            if said.contains(text) { Ok(said) } else { Err(said) }
        })
    }

    /// The serials that it has published, oldest first.
    pub(crate) fn published(&self) -> Vec<String> {
        let log = self.process.errors();
        let lines = log.lines().filter(|line| line.contains("published a new SVID"));
        lines.map(|line| line.split("serial=").nth(1).unwrap().split(' ').next().unwrap().to_owned()).collect()
    }
}

/// Waits for a whole set that is not `old`.
pub(crate) fn next_set(directory: &Path, old: Option<&SvidSet>) -> SvidSet {
    wait_until(SOON, "another set", || match SvidSet::read(directory) {
        Ok(set) if Some(&set) == old => Err("the old set".to_owned()),
        found => found,
    })
}

/// The names in a directory, sorted.
pub(crate) fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort_unstable();
    names
}
