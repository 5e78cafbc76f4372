//! A trust domain: its CA with a bundle endpoint, and the command line.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::support::{
    countersign::{Agent, Serve, countersign, root_file},
    http::{free_port, loopback},
};

/// One replica is enough here.
pub(super) struct Domain {
    pub(super) name: &'static str,
    serve: Serve,
    endpoint: u16,
    folder: PathBuf,
    /// That agents ask for.
    svid_ttl: &'static str,
}

impl Domain {
    pub(super) fn start(folder: &Path, name: &'static str, flags: &[&str]) -> Self {
        Self::start_with(folder, name, "1h", flags)
    }

    /// One in which no SVID lives longer than so.
    pub(super) fn start_short_lived(folder: &Path, name: &'static str, ttl: &'static str) -> Self {
        Self::start_with(folder, name, ttl, &["--svid-ttl", ttl, "--max-svid-ttl", ttl])
    }

    fn start_with(folder: &Path, name: &'static str, svid_ttl: &'static str, flags: &[&str]) -> Self {
        let folder = folder.join(name);
        fs::create_dir(&folder).unwrap();
        let endpoint = free_port();
        let own = ["--trust-domain", name, "--bundle-endpoint", &loopback(endpoint).to_string()];
        let flags = [&own, ["--bundle-refresh-hint", "1s"].as_slice(), flags].concat();
        let serve = Serve::start("serve", &folder, &folder.join("data"), &flags);
        Self { name, serve, endpoint, folder, svid_ttl }
    }

    /// Where its bundle is.
    pub(super) fn url(&self) -> String {
        format!("https://localhost:{}/", self.endpoint)
    }

    /// As whom the endpoint answers, if it is none of the web.
    pub(super) fn endpoint_id(&self) -> String {
        format!("spiffe://{}/countersign/serving", self.name)
    }

    /// The file with its roots.
    pub(super) fn roots(&self) -> PathBuf {
        root_file(&self.folder.join("data"))
    }

    /// The socket of `serve` itself.
    pub(super) fn socket(&self) -> PathBuf {
        self.folder.join("data/workload.sock")
    }

    /// An agent of that name for `NAMESPACE/ACCOUNT`.
    pub(super) fn agent(&self, name: &str, account: &str) -> Agent {
        let flags = ["--trust-domain", self.name];
        let cas = [self.serve.address()];
        Agent::start_with(name, &self.folder, &self.folder.join("data"), account, &cas, self.svid_ttl, &flags)
    }

    /// The SPIFFE ID of `NAMESPACE/ACCOUNT`.
    pub(super) fn id(&self, account: &str) -> String {
        let (namespace, account) = account.split_once('/').unwrap();
        format!("spiffe://{}/ns/{namespace}/sa/{account}", self.name)
    }

    /// Has a command succeed: what it prints.
    pub(super) fn done(&self, words: &[&str]) -> String {
        self.run(words).unwrap_or_else(|error| panic!("{words:?}: {error}"))
    }

    /// What a command prints, or why it fails.
    pub(super) fn run(&self, words: &[&str]) -> Result<String, String> {
        let output = countersign().args(words).arg("--data-dir").arg(self.folder.join("data")).output().unwrap();
        let [out, error] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
        if output.status.success() { Ok(out) } else { Err(error) }
    }

    /// Believes `other` from now on, as its endpoint says.
    pub(super) fn federate(&self, other: &Self) {
        let (url, id, roots) = (other.url(), other.endpoint_id(), other.roots());
        let flags = ["--url", &url, "--endpoint-id", &id, "--bundle", roots.to_str().unwrap()];
        self.done(&[&["federation", "create", other.name], flags.as_slice()].concat());
    }
}
