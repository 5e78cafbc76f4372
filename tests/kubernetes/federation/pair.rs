//! A pair that is the CA of a trust domain of its own, with a bundle endpoint of profile `https_web` on each replica, and the mesh's
//! roots in a file, once they are delivered.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::Value;

use crate::support::{
    authority::Authority,
    countersign::{Agent, Serve, countersign, root_file},
    http::{self, free_port, loopback},
    mount::Mount,
    wait::wait_until,
};

pub(super) const TRUST_DOMAIN: &str = "gateways.example";
/// Of an SVID. Half of it is time enough for a failover on a busy machine.
const TTL: &str = "8s";
const CONFIG: &str = "countersign.yaml";
const CHANGE: Duration = Duration::from_secs(15);

/// Both replicas, on one data directory.
pub(super) struct Pair {
    replicas: [Serve; 2],
    pub(super) endpoints: [u16; 2],
    /// Where the kubelet mounts `istio-ca-root-cert`.
    pub(super) mesh_roots: Mount,
    folder: PathBuf,
    starts: usize,
}

impl Pair {
    /// Starts both, with a certificate for `localhost` by `web` on their endpoints.
    pub(super) fn start(folder: &Path, web: &Authority) -> Self {
        let folder = folder.join(TRUST_DOMAIN);
        fs::create_dir_all(&folder).unwrap();
        let (certificate, key) = web.server("localhost");
        fs::write(folder.join("web.pem"), certificate).unwrap();
        fs::write(folder.join("web.key"), key).unwrap();
        let mesh_roots = Mount::at(folder.join("mesh-roots"));
        let file = mesh_roots.path().join("root-cert.pem");
        let entry = format!("federation: [{{trustDomain: cluster.local, bundleFile: {}}}]\n", file.display());
        fs::write(folder.join(CONFIG), entry).unwrap();
        let endpoints = [free_port(), free_port()];
        let ports = [free_port(), free_port()];
        let replicas =
            [0, 1].map(|number| spawn(&folder, &format!("serve-{number}"), ports[number], endpoints[number]));
        Self { replicas, endpoints, mesh_roots, folder, starts: 2 }
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// The own roots, as published.
    pub(super) fn roots(&self) -> String {
        fs::read_to_string(root_file(&self.data())).unwrap()
    }

    pub(super) fn agent(&self, account: &str) -> Agent {
        let addresses = self.replicas.each_ref().map(Serve::address);
        let flags = ["--trust-domain", TRUST_DOMAIN];
        Agent::start_with("agent", &self.folder, &self.data(), account, &addresses, TTL, &flags)
    }

    /// Which of them is active.
    pub(super) fn active(&self) -> usize {
        wait_until(CHANGE, "one of the two active", || {
            let said = self.replicas.each_ref().map(|replica| http::get(loopback(replica.admin_port), "/readyz"));
            let is_active = |said: &Result<String, String>| said.as_ref().is_ok_and(|said| said.contains("(active in"));
            said.iter().position(is_active).ok_or_else(|| format!("{said:?}"))
        })
    }

    /// `kill -9` of one, and waits until the other is active.
    pub(super) fn kill(&mut self, number: usize) {
        self.replicas[number].process.kill();
        wait_until(CHANGE, "the other one active", || {
            let said = http::get(loopback(self.replicas[1 - number].admin_port), "/readyz");
            if said.as_ref().is_ok_and(|said| said.contains("(active in")) { Ok(()) } else { Err(format!("{said:?}")) }
        });
    }

    /// Starts one anew that was killed.
    pub(super) fn restart(&mut self, number: usize) {
        self.starts += 1;
        let (name, port) = (format!("serve-{}", self.starts), self.replicas[number].port);
        self.replicas[number] = spawn(&self.folder, &name, port, self.endpoints[number]);
    }

    /// Has one hang: it answers nobody, and stays the active if it is.
    pub(super) fn pause(&self, number: usize) {
        self.replicas[number].process.pause();
    }

    pub(super) fn resume(&self, number: usize) {
        self.replicas[number].process.resume();
    }

    /// What a command prints, or why it fails, as soon as somebody answers: a replica is active a moment before its admin.sock
    /// is there.
    pub(super) fn run(&self, words: &[&str]) -> Result<String, String> {
        wait_until(CHANGE, "an answer", || {
            let output = countersign().args(words).arg("--data-dir").arg(self.data()).output().unwrap();
            let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
            match text {
                text if text.contains("is active: start") => Err(text),
                text => Ok(if output.status.success() { Ok(text) } else { Err(text) }),
            }
        })
    }

    pub(super) fn done(&self, words: &[&str]) -> String {
        self.run(words).unwrap_or_else(|error| panic!("{words:?}: {error}"))
    }

    /// The authority in that phase of its rotation.
    pub(super) fn authority(&self, phase: &str) -> String {
        let shown: Value = serde_json::from_str(&self.done(&["authority", "x509", "show", "-o", "json"])).unwrap();
        let found = shown["authorities"].as_array().unwrap().iter().find(|one| one["phase"] == phase);
        found.unwrap_or_else(|| panic!("none is {phase}: {shown}"))["id"].as_str().unwrap().to_owned()
    }
}

fn spawn(folder: &Path, name: &str, port: u16, endpoint: u16) -> Serve {
    let endpoint = loopback(endpoint).to_string();
    let [certificate, key, config] = ["web.pem", "web.key", CONFIG].map(|name| folder.join(name).display().to_string());
    let flags = [
        ["--trust-domain", TRUST_DOMAIN],
        ["--svid-ttl", TTL],
        ["--max-svid-ttl", TTL],
        ["--bundle-refresh-hint", "2s"],
        ["--bundle-endpoint", &endpoint],
        ["--bundle-endpoint-cert", &certificate],
        ["--bundle-endpoint-key", &key],
        ["--config", &config],
    ];
    let replica = Serve::spawn(name, folder, &folder.join("data"), port, &flags.concat());
    replica.wait_until_ready();
    replica
}
