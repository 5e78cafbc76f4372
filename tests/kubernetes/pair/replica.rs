//! One `countersign serve --state kubernetes` on its host.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use rustix::process::Signal;

use crate::{
    cluster::{Account, Cluster, TokenFor, block_on},
    network::Host,
    pair::{NAMESPACE, TRUST_DOMAIN},
    support::{countersign::countersign, http, process::Process, wait::wait_until},
};

const CA_PORT: u16 = 15012;
pub(crate) const PAIR_PORT: u16 = 15013;
const ADMIN_PORT: u16 = 15020;
const START: Duration = Duration::from_secs(20);
const LEAVING: Duration = Duration::from_secs(15);

/// A replica whose pod is there, and which is not running yet.
pub(crate) struct Planned {
    name: String,
    host: Host,
    data: PathBuf,
    logs: PathBuf,
    command: Command,
}

/// A replica. What is in its data directory stays there when it is started again.
pub(crate) struct Replica {
    pub(crate) process: Process,
    pub(crate) starts: usize,
    planned: Planned,
}

impl Planned {
    /// Makes the pod.
    pub(crate) fn new(name: &str, cluster: &Cluster, account: &Account, host: Host, flags: &[&str]) -> Self {
        Self::by_way_of(&cluster.url(), name, cluster, account, host, flags)
    }

    /// The same, for which the API server is at the URL `server`.
    pub(crate) fn by_way_of(
        server: &str,
        name: &str,
        cluster: &Cluster,
        account: &Account,
        host: Host,
        flags: &[&str],
    ) -> Self {
        let (uid, kubeconfig) = block_on(pod(server, cluster, account, name));
        let data = cluster.folder().join(format!("{name}-data"));
        let mut serve = countersign();
        serve.args(["serve", "--state", "kubernetes", "--namespace", NAMESPACE, "--replica-uid", &uid]);
        serve.arg("--kubeconfig").arg(kubeconfig).arg("--data-dir").arg(&data);
        serve.args(["--trust-domain", TRUST_DOMAIN]);
        let at = |port: u16| SocketAddr::from((host.address(), port)).to_string();
        serve.args(["--listen", &at(CA_PORT), "--admin-listen", &at(ADMIN_PORT), "--pair-listen", &at(PAIR_PORT)]);
        serve.args(["--pair-address", &at(PAIR_PORT)]).args(flags);
        let command = host.command(&serve);
        Self { name: name.to_owned(), host, data, logs: cluster.folder().to_owned(), command }
    }

    /// Starts it, without waiting.
    pub(crate) fn start(mut self) -> Replica {
        let process = Process::start(&self.name, &self.logs, &mut self.command);
        Replica { process, starts: 1, planned: self }
    }
}

impl Replica {
    /// Starts it again, after it has ended, as its kubelet would.
    pub(crate) fn restart(&mut self) {
        self.starts += 1;
        let name = format!("{}-{}", self.planned.name, self.starts);
        self.process = Process::start(&name, &self.planned.logs, &mut self.planned.command);
    }

    /// Where it runs.
    pub(crate) fn host(&self) -> &Host {
        &self.planned.host
    }

    /// Its data directory.
    pub(crate) fn data(&self) -> &Path {
        &self.planned.data
    }

    /// Waits for `/readyz`.
    pub(crate) fn wait_until_ready(&self) {
        wait_until(START, &format!("{} ready", self.planned.name), || http::get(self.admin(), "/readyz"));
    }

    /// Its term if it is active; `None` of a standby.
    pub(crate) fn role(&self) -> Result<Option<u64>, String> {
        let ready = http::get(self.admin(), "/readyz")?;
        let term = ready.split_once("(active in term ").and_then(|(_, rest)| rest.split([')', ';']).next());
        Ok(term.map(|term| term.parse().expect("a term is a number")))
    }

    /// SIGTERM, and waits for its end in good order.
    pub(crate) fn stop(&mut self) {
        stop_all([self]);
    }

    /// Waits until it is active: its term.
    pub(crate) fn wait_until_active(&self, within: Duration) -> u64 {
        wait_until(within, &format!("{} active", self.planned.name), || match self.role() {
            Ok(Some(term)) => Ok(term),
            other => Err(format!("{other:?}")),
        })
    }

    /// `IP:PORT` of its CA API.
    pub(crate) fn address(&self) -> String {
        SocketAddr::from((self.host().address(), CA_PORT)).to_string()
    }

    /// Health and metrics.
    pub(crate) fn admin(&self) -> SocketAddr {
        (self.host().address(), ADMIN_PORT).into()
    }
}

/// SIGTERM for all, and waits for their end in good order.
pub(crate) fn stop_all<'a>(replicas: impl IntoIterator<Item = &'a mut Replica>) {
    let replicas: Vec<&mut Replica> = replicas.into_iter().collect();
    replicas.iter().for_each(|replica| replica.process.signal(Signal::TERM));
    replicas.into_iter().for_each(|replica| replica.process.wait_for_success(LEAVING));
}

/// The pod of a replica: its UID, and a kubeconfig with a token that is bound to it.
async fn pod(server: &str, cluster: &Cluster, account: &Account, name: &str) -> (String, PathBuf) {
    let uid = cluster.pod(account, name).await;
    let asked = TokenFor { pod: Some(name), ..TokenFor::default() };
    (uid, cluster.kubeconfig_by_way_of(server, account, &asked).await)
}
