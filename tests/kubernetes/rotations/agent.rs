//! An agent of a service account of its own, with its token as a pod has it.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    cluster::{Cluster, block_on},
    pair::{TRUST_DOMAIN, token_file},
    support::{countersign::countersign, process::Process, wait::wait_until},
};

const START: Duration = Duration::from_secs(20);

/// A running one.
pub(super) struct Agent {
    _process: Process,
    pub(super) socket: PathBuf,
}

impl Agent {
    /// Starts one for account `default/NAME` and waits for its first SVID.
    pub(super) fn start(
        name: &str,
        cluster: &Cluster,
        cas: &[String],
        roots: &Path,
        ttl_seconds: u64,
        flags: &[&str],
    ) -> Self {
        let token = block_on(token_file(cluster, name));
        let socket = cluster.folder().join(format!("{name}.sock"));
        let mut command = countersign();
        command.arg("agent").arg("--socket").arg(&socket).arg("--token-file").arg(token).arg("--root-file").arg(roots);
        command.args(["--trust-domain", TRUST_DOMAIN, "--svid-ttl", &format!("{ttl_seconds}s")]).args(flags);
        for ca in cas {
            command.args(["--ca-address", ca]);
        }
        let process = Process::start(name, cluster.folder(), &mut command);
        wait_until(START, &format!("an SVID of {name}"), || {
            let log = process.errors();
            if log.contains("published a new SVID") { Ok(()) } else { Err(log) }
        });
        Self { _process: process, socket }
    }
}
