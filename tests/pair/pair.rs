//! Two replicas on one data directory, and agents that know both.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tempfile::TempDir;

use crate::{
    caller::Caller,
    support::{
        countersign::{Agent, Serve},
        http::{self, free_port, loopback},
        wait::wait_until,
    },
};

const CHANGE: Duration = Duration::from_secs(10);

/// A data directory and a folder for logs, both gone at the end.
pub(crate) struct Place {
    folder: TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    pub(crate) fn logs(&self) -> &Path {
        self.folder.path()
    }
}

/// The pair.
pub(crate) struct Pair {
    // before the folder with their logs, which a failing test shows
    pub(crate) replicas: [Serve; 2],
    pub(crate) place: Place,
    starts: usize,
}

impl Pair {
    /// Starts both and waits until they are ready.
    pub(crate) fn start() -> Self {
        let place = Place::new();
        let start = |name| {
            let replica = Serve::spawn(name, place.logs(), &place.data(), free_port(), &[]);
            replica.wait_until_ready();
            replica
        };
        let replicas = [start("serve-0"), start("serve-1")];
        Self { replicas, place, starts: 2 }
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.place.data()
    }

    pub(crate) fn caller(&self, account: &str) -> Arc<Caller> {
        Arc::new(Caller::new(&self.data(), account))
    }

    /// Starts an agent that knows both.
    pub(crate) fn agent(&self, name: &str, ttl: &str) -> Agent {
        let addresses = self.replicas.each_ref().map(Serve::address);
        Agent::start(name, self.place.logs(), &self.data(), &format!("default/{name}"), &addresses, ttl)
    }

    pub(crate) fn port(&self, index: usize) -> u16 {
        self.replicas[index].port
    }

    /// Which of the two is active, and its term.
    pub(crate) fn active(&self) -> (usize, u64) {
        wait_until(CHANGE, "one of the two active", || {
            let roles = self.replicas.each_ref().map(role);
            let active = |index: usize| Some((index, *roles[index].as_ref().ok()?.as_ref()?));
            active(0).or_else(|| active(1)).ok_or_else(|| format!("{roles:?}"))
        })
    }

    /// Waits until a replica is active: its term.
    pub(crate) fn wait_until_active(&self, index: usize) -> u64 {
        wait_until(CHANGE, &format!("replica {index} active"), || match role(&self.replicas[index]) {
            Ok(Some(term)) => Ok(term),
            other => Err(format!("{other:?}")),
        })
    }

    /// Starts a replica that has ended, on the port that it had, and waits until it is ready.
    pub(crate) fn restart(&mut self, index: usize) {
        let name = format!("serve-{}", self.starts);
        self.starts += 1;
        let port = self.port(index);
        self.replicas[index] = Serve::spawn(&name, self.place.logs(), &self.place.data(), port, &[]);
        self.replicas[index].wait_until_ready();
    }

    /// How a replica's process signs its records.
    pub(crate) fn name(&self, index: usize) -> String {
        let output = self.replicas[index].process.output();
        output.split_whitespace().next().expect("it says its name first").to_owned()
    }
}

/// The term of a replica that is active; `None` of a standby.
pub(crate) fn role(replica: &Serve) -> Result<Option<u64>, String> {
    let ready = http::get(loopback(replica.admin_port), "/readyz")?;
    let term = ready.split_once("(active in term ").and_then(|(_, rest)| rest.split(')').next());
    Ok(term.map(|term| term.parse().expect("a term is a number")))
}
