//! `countersign agent` processes that know both replicas, and what their logs say of each rotation.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use spiffe::WorkloadApiClient;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{
    cluster::block_on,
    support::{countersign::countersign, process::Process, wait::wait_until},
};

const START: Duration = Duration::from_secs(20);

/// The shortest. Renewal is due at half of it; a take-over must fit into the rest.
pub(crate) const TTL: Duration = Duration::from_secs(16);

/// One agent.
pub(crate) struct Agent {
    process: Process,
    socket: PathBuf,
    name: String,
}

/// One SVID that an agent published.
#[derive(Clone, Debug)]
pub(crate) struct Rotation {
    pub(crate) at: OffsetDateTime,
    pub(crate) serial: String,
    pub(crate) not_after: OffsetDateTime,
}

impl Agent {
    /// Starts one and waits for its first SVID.
    pub(crate) fn start(name: &str, logs: &Path, cas: &[String], token: &Path, roots: &Path, ttl: Duration) -> Self {
        let socket = logs.join(format!("{name}.sock"));
        let mut command = countersign();
        command.arg("agent").arg("--socket").arg(&socket).arg("--token-file").arg(token).arg("--root-file").arg(roots);
        command.args(["--trust-domain", super::TRUST_DOMAIN, "--ca-server-name", "localhost"]);
        command.args(["--svid-ttl", &format!("{}s", ttl.as_secs()), "--log-format", "json"]);
        for ca in cas {
            command.args(["--ca-address", ca]);
        }
        let agent = Self { process: Process::start(name, logs, &mut command), socket, name: name.to_owned() };
        wait_until(START, &format!("an SVID of {name}"), || {
            if agent.rotations().is_empty() { Err(agent.process.errors()) } else { Ok(()) }
        });
        agent
    }

    /// What it published so far.
    pub(crate) fn rotations(&self) -> Vec<Rotation> {
        let lines = self.lines();
        let published = lines.iter().filter(|line| text(line, "message").starts_with("published a new SVID"));
        published
            .map(|line| Rotation {
                at: instant(line["timestamp"].as_str().unwrap()),
                serial: text(line, "serial"),
                not_after: instant(&text(line, "not_after")),
            })
            .collect()
    }

    /// Whether its socket has an SVID for a caller.
    pub(crate) fn serves(&self) -> bool {
        let socket = format!("unix:{}", self.socket.display());
        block_on(async {
            let client = WorkloadApiClient::connect_to(socket).await.unwrap();
            client.fetch_x509_svid().await.is_ok()
        })
    }

    /// Each warning and error in its log: renewals that failed, SVIDs withdrawn.
    pub(crate) fn complaints(&self) -> Vec<String> {
        let lines = self.lines();
        let bad = lines.iter().filter(|line| ["WARN", "ERROR"].contains(&line["level"].as_str().unwrap_or_default()));
        bad.map(|line| format!("{}: {line}", self.name)).collect()
    }

    fn lines(&self) -> Vec<serde_json::Value> {
        let log = self.process.errors();
        let complete = log.rfind('\n').map_or("", |end| &log[..end]);
        complete.lines().map(|line| serde_json::from_str(line).expect("a JSON line")).collect()
    }
}

fn text(line: &serde_json::Value, field: &str) -> String {
    line[field].as_str().unwrap_or_default().to_owned()
}

fn instant(text: &str) -> OffsetDateTime {
    OffsetDateTime::parse(text, &Rfc3339).unwrap()
}
