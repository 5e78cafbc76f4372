//! `countersign agent` beside a gateway.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use crate::support::{
    countersign::countersign,
    http::{self, free_port, loopback},
    process::Process,
    wait::wait_until,
};

const START: Duration = Duration::from_secs(10);

/// A running agent.
pub(crate) struct Agent {
    process: Process,
    pub(crate) socket: PathBuf,
    admin_port: u16,
}

impl Agent {
    /// Starts one whose CA is in `flags`, and waits for its socket. The files need not be there yet.
    pub(crate) fn start(
        name: &str,
        folder: &Path,
        token: &Path,
        roots: &Path,
        ttl: Duration,
        flags: &[String],
    ) -> Self {
        let (socket, admin_port) = (folder.join(format!("{name}.sock")), free_port());
        let mut command = countersign();
        command.arg("agent").arg("--socket").arg(&socket).arg("--token-file").arg(token).arg("--root-file").arg(roots);
        command.args(["--trust-domain", "cluster.local", "--svid-ttl", &format!("{}s", ttl.as_secs())]);
        command.arg("--admin-listen").arg(loopback(admin_port).to_string()).args(flags);
        let process = Process::start(name, folder, &mut command);
        wait_until(
            START,
            &format!("the socket of {name}"),
            || {
                if socket.exists() { Ok(()) } else { Err("no such file") }
            },
        );
        Self { process, socket, admin_port }
    }

    /// The process, which is never started again by anybody.
    pub(crate) fn check_it_runs(&mut self) {
        assert_eq!(self.process.ended(), None, "the agent has ended");
    }

    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// What it says of itself.
    pub(crate) fn metrics(&self) -> String {
        http::get(loopback(self.admin_port), "/metrics").unwrap()
    }

    /// Whether it is ready, and if not, why.
    pub(crate) fn readiness(&self) -> String {
        http::get(loopback(self.admin_port), "/readyz").unwrap_or_else(|not_ready| not_ready)
    }
}
