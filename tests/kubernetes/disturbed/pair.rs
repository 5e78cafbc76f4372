//! A pair in a namespace of its own, each replica with its own way to the API server.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use tokio::runtime::Runtime;

use super::proxy::{Disturbance, Proxy};
use crate::{
    cluster::{Account, Cluster, TokenFor, block_on},
    pair::{TRUST_DOMAIN, load::Load, roots_in, shipped},
    support::{
        countersign::Serve,
        http::{free_port, loopback},
        issuance::Issued,
        observe::readiness,
        wait::wait_until,
    },
};

const CHANGE: Duration = Duration::from_secs(20);
const LEAVING: Duration = Duration::from_secs(15);
/// One call at a time: what is asked for is that none fails, not how many there are.
const BETWEEN_CALLS: Duration = Duration::from_millis(150);

/// Two replicas that run.
pub(super) struct Pair {
    pub(super) proxies: [Proxy; 2],
    pub(super) serves: [Serve; 2],
    data: [PathBuf; 2],
    roots: PathBuf,
}

impl Pair {
    /// Starts both and waits until they are ready.
    pub(super) fn start(cluster: &Cluster, runtime: &Runtime, prefix: &str) -> Self {
        let namespace = cluster.unique(prefix);
        block_on(install_as(cluster, &namespace));
        let account = Account { namespace: namespace.clone(), name: "countersign".to_owned() };
        let proxies = [(); 2].map(|()| Proxy::start(cluster, runtime));
        let data = [0, 1].map(|number| cluster.folder().join(format!("{namespace}-{number}-data")));
        let start = |number: usize| {
            let name = format!("{namespace}-{number}");
            let server = format!("http://{}", proxies[number].address);
            let (uid, kubeconfig) = block_on(async {
                let uid = cluster.pod(&account, &name).await;
                let asked = TokenFor { pod: Some(&name), ..TokenFor::default() };
                (uid, cluster.kubeconfig_by_way_of(&server, &account, &asked).await)
            });
            let (pair, socket) = (loopback(free_port()).to_string(), cluster.folder().join(format!("{name}.sock")));
            let mut flags = vec!["--state", "kubernetes", "--namespace", &namespace, "--replica-uid", &uid];
            flags.extend(["--kubeconfig", kubeconfig.to_str().unwrap(), "--trust-domain", TRUST_DOMAIN]);
            flags.extend(["--pair-listen", &pair, "--pair-address", &pair]);
            flags.extend(["--workload-socket", socket.to_str().unwrap()]);
            Serve::spawn(&name, cluster.folder(), &data[number], free_port(), &flags)
        };
        let serves = [start(0), start(1)];
        serves.iter().for_each(Serve::wait_until_ready);
        let roots = cluster.folder().join(format!("{namespace}.roots"));
        fs::write(&roots, roots_in(cluster, &namespace)).unwrap();
        Self { proxies, serves, data, roots }
    }

    /// A load of calls by way of both.
    pub(super) fn load(&self, token: &Path) -> Load {
        let addresses = self.serves.each_ref().map(|serve| loopback(serve.port).to_string());
        Load::start_slowly(&addresses, token, &self.roots, BETWEEN_CALLS)
    }

    /// The term of the replica, if it says that it is active.
    pub(super) fn term_of(&self, replica: usize) -> Option<u64> {
        let standing = self.standing(replica);
        let term = standing.split_once("(active in term ")?.1.split([')', ';']).next()?;
        Some(term.parse().expect("a term is a number"))
    }

    /// What it says of its part in the pair.
    pub(super) fn standing(&self, replica: usize) -> String {
        let page = readiness(&self.serves[replica]);
        page.lines().find(|line| line.starts_with("signing: ")).unwrap_or(&page).to_owned()
    }

    /// Which one is active, and in what term.
    pub(super) fn active(&self) -> (usize, u64) {
        wait_until(CHANGE, "one of the two active", || {
            let found = [0, 1].into_iter().find_map(|replica| Some((replica, self.term_of(replica)?)));
            found.ok_or_else(|| self.serves.each_ref().map(readiness).join("\n"))
        })
    }

    /// Nobody says that he is active, within this time.
    pub(super) fn wait_for_nobody(&self, within: Duration) {
        wait_until(within, "nobody active", || match [0, 1].map(|replica| self.term_of(replica)) {
            [None, None] => Ok(()),
            terms => Err(format!("{terms:?}")),
        });
    }

    /// Disturbs these replicas' way to the API server.
    pub(super) fn disturb(&self, replicas: &[usize], disturbance: Disturbance) -> Instant {
        replicas.iter().for_each(|replica| self.proxies[*replica].disturb(disturbance));
        Instant::now()
    }

    /// Ends both in good order, but for those that have ended. Fails when two terms overlap, or a client got what is not on record.
    pub(super) fn check_records(mut self, load: Load) {
        let calls = load.calls();
        drop(load);
        let running: Vec<&mut Serve> =
            self.serves.iter_mut().filter_map(|serve| serve.process.ended().is_none().then_some(serve)).collect();
        running.iter().for_each(|serve| serve.process.signal(rustix::process::Signal::TERM));
        running.into_iter().for_each(|serve| serve.process.wait_for_success(LEAVING));
        let issued = Issued::list_all(&self.data.each_ref().map(PathBuf::as_path));
        issued.check_terms();
        assert!(issued.check_sent(calls.iter().map(|call| &call.serial)) > 20, "few calls");
    }
}

/// The shipped rights, for a pair in another namespace than theirs.
async fn install_as(cluster: &Cluster, namespace: &str) {
    cluster.namespace_named(namespace, &[]).await;
    let rights = fs::read_to_string(shipped("rbac.yaml")).unwrap();
    let rights = rights.replace("namespace: countersign\n", &format!("namespace: {namespace}\n"));
    // rights in the whole cluster bear the namespace in their names
    let rights = rights.replace(".countersign\n", &format!(".{namespace}\n"));
    cluster.apply(&rights).await;
}
