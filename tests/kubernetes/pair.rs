//! Replicas as in a cluster: each on a host of its own, in a pod of its own, with the token of the shipped service account and
//! the shipped rights.

pub(crate) mod agents;
pub(crate) mod citadel;
pub(crate) mod load;
pub(crate) mod replica;

use std::{fs, path::PathBuf, time::Duration};

use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;

use self::replica::{Planned, Replica};
use crate::{
    cluster::{Account, Cluster, TokenFor, block_on},
    network::{Host, Network},
    support::wait::wait_until,
};

pub(crate) const NAMESPACE: &str = "countersign";
pub(crate) const TRUST_DOMAIN: &str = "gateways.test";
/// All addresses of the headless Service.
const SERVICE: &str = "pair.countersign.test";
const CHANGE: Duration = Duration::from_secs(15);

/// The lease of the default timings, and what may come on top of it until another replica is active.
pub(crate) const TAKE_OVER: Duration = Duration::from_secs(6);

/// Two replicas, an API server on a third host, and clients at the bridge.
pub(crate) struct Pair {
    pub(crate) replicas: [Replica; 2],
    pub(crate) cluster: Cluster,
    pub(crate) api: Host,
    pub(crate) network: Network,
}

impl Pair {
    /// Starts all of it and waits until both replicas are ready.
    pub(crate) fn start(mut network: Network) -> Self {
        let api = network.host("api");
        let hosts = [network.host("a"), network.host("b")];
        network.resolve(SERVICE, &hosts.each_ref());
        let cluster = Cluster::start_at(&api.place(), &[]);
        let account = block_on(install(&cluster));
        let [one, other] = hosts;
        let service = format!("{SERVICE}:{}", replica::PAIR_PORT);
        let plan = |name: &str, host| Planned::new(name, &cluster, &account, host, &["--pair-service", &service]);
        let replicas = [plan("replica-a", one), plan("replica-b", other)].map(Planned::start);
        replicas.iter().for_each(Replica::wait_until_ready);
        Self { replicas, cluster, api, network }
    }

    /// Which of the two is active, and its term.
    pub(crate) fn active(&self) -> (usize, u64) {
        wait_until(CHANGE, "one of the two active", || {
            let roles = self.replicas.each_ref().map(Replica::role);
            let active = |index: usize| Some((index, *roles[index].as_ref().ok()?.as_ref()?));
            active(0).or_else(|| active(1)).ok_or_else(|| format!("{roles:?}"))
        })
    }

    /// The roots that clients verify the replicas by, in a file.
    pub(crate) fn root_file(&self) -> PathBuf {
        let path = self.cluster.folder().join("roots.pem");
        fs::write(&path, roots(&self.cluster)).unwrap();
        path
    }

    /// A new service account in namespace `default` with an unfinished pod, and a file with its token for us.
    pub(crate) fn caller(&self, name: &str) -> PathBuf {
        block_on(token_file(&self.cluster, name))
    }

    /// Where clients reach the replicas.
    pub(crate) fn addresses(&self) -> [String; 2] {
        self.replicas.each_ref().map(Replica::address)
    }
}

/// Makes the pair's namespace and applies its rights: its account.
pub(crate) async fn install(cluster: &Cluster) -> Account {
    install_with(cluster, "rbac.yaml").await
}

/// The same with the rights of another file of the chart.
pub(crate) async fn install_with(cluster: &Cluster, rights: &str) -> Account {
    cluster.namespace_named(NAMESPACE, &[]).await;
    cluster.apply_file(&shipped(rights)).await;
    Account { namespace: NAMESPACE.to_owned(), name: "countersign".to_owned() }
}

/// A file of the chart.
pub(crate) fn shipped(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("charts/countersign").join(name)
}

/// The roots that the active has published.
pub(crate) fn roots(cluster: &Cluster) -> String {
    roots_in(cluster, NAMESPACE)
}

/// Those of a pair in another namespace.
pub(crate) fn roots_in(cluster: &Cluster, namespace: &str) -> String {
    wait_until(CHANGE, "ConfigMap countersign-root-cert", || {
        let found = block_on(async {
            Api::<ConfigMap>::namespaced(cluster.admin(), namespace).get_opt("countersign-root-cert").await
        });
        let data = found.map_err(|error| error.to_string())?.and_then(|found| found.data).unwrap_or_default();
        data.get("root-cert.pem").cloned().ok_or_else(|| format!("{data:?}"))
    })
}

/// A service account `default/NAME`, its pod, and a file with its token for audience `istio-ca`, bound to that pod.
pub(crate) async fn token_file(cluster: &Cluster, name: &str) -> PathBuf {
    let account = cluster.account("default", name).await;
    cluster.pod(&account, name).await;
    let asked = TokenFor { audiences: &["istio-ca"], pod: Some(name), ..TokenFor::default() };
    let path = cluster.folder().join(format!("{name}.caller-token"));
    fs::write(&path, cluster.token(&account, &asked).await).unwrap();
    path
}
