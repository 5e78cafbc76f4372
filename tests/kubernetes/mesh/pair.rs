//! A pair that signs nothing itself and passes requests on to istiod.

use std::{fs, path::Path};

use super::{Mesh, Place, ROOT_FILE, control_plane::ControlPlane};
use crate::{
    cluster::{Account, Cluster, TokenFor, block_on},
    pair::{NAMESPACE, install_with},
    support::{
        countersign::Serve,
        http::{free_port, loopback},
        mount::Mount,
    },
};

/// As whom the pair has its serving certificate from istiod.
const ID: &str = "spiffe://cluster.local/ns/countersign/sa/countersign";

/// Its replicas.
pub(crate) struct Pair {
    replicas: Vec<Serve>,
    ports: Vec<u16>,
    account: Account,
}

impl Pair {
    /// Starts both and waits until they are ready.
    pub(crate) fn start(mesh: &Mesh) -> Self {
        let pair = Self::spawn(&mesh.place, &mesh.control_plane);
        pair.replicas.iter().for_each(Serve::wait_until_ready);
        pair
    }

    /// Starts both, be istiod there or not. They have the mesh's roots from their ConfigMap; it is mounted nowhere.
    pub(crate) fn spawn(place: &Place, istiod: &ControlPlane) -> Self {
        let cluster = &place.cluster;
        let account = block_on(install_with(cluster, "rbac-istiod.yaml"));
        let roots = cluster.folder().join("pair-roots.pem");
        let start = |number: usize| {
            let name = format!("countersign-{number}");
            let flags = in_kubernetes(cluster, &account, &name);
            start(cluster, &account, &name, istiod, &roots, &flags)
        };
        Self::of((0..2).map(start).collect(), account)
    }

    /// Starts another replica of it by itself, which has nothing to do with the API server, and the mesh's roots from their file
    /// here alone, when it is delivered.
    pub(crate) fn spawn_by_file(&self, place: &Place, istiod: &ControlPlane, roots: &Mount) -> Self {
        let (name, roots) = ("countersign-by-file", roots.path().join(ROOT_FILE));
        block_on(place.cluster.pod(&self.account, name));
        let replica = start(&place.cluster, &self.account, name, istiod, &roots, &[]);
        Self::of(vec![replica], self.account.clone())
    }

    fn of(replicas: Vec<Serve>, account: Account) -> Self {
        let ports = replicas.iter().map(|replica| replica.port).collect();
        Self { replicas, ports, account }
    }

    /// The processes, which are never started again by anybody.
    pub(crate) fn check_it_runs(&mut self) {
        for replica in &mut self.replicas {
            assert_eq!(replica.process.ended(), None, "a replica has ended");
        }
    }

    /// What makes our agent ask it: its certificate holds no DNS name.
    pub(crate) fn agent_flags(&self) -> Vec<String> {
        let addresses = self.ports.iter().map(|port| loopback(*port).to_string());
        addresses
            .flat_map(|address| ["--ca-address".to_owned(), address])
            .chain(["--ca-identity", ID].map(str::to_owned))
            .collect()
    }

    /// `kill -9` of the one that agents ask first.
    pub(crate) fn kill_one(&mut self) {
        drop(self.replicas.remove(0));
    }
}

/// Starts one in a pod that is there.
fn start(
    cluster: &Cluster,
    account: &Account,
    name: &str,
    istiod: &ControlPlane,
    roots: &Path,
    more_flags: &[String],
) -> Serve {
    let asked = TokenFor { audiences: &["istio-ca"], pod: Some(name), ..TokenFor::default() };
    let token_file = cluster.folder().join(format!("{name}.istio-token"));
    fs::write(&token_file, block_on(cluster.token(account, &asked))).unwrap();
    let mut flags = istiod.pair_flags();
    flags.extend(["--istiod-root-file".to_owned(), roots.display().to_string()]);
    flags.extend(["--istiod-token-file".to_owned(), token_file.display().to_string()]);
    let flags: Vec<&str> = flags.iter().chain(more_flags).map(String::as_str).collect();
    Serve::spawn(name, cluster.folder(), &cluster.folder().join(format!("{name}-data")), free_port(), &flags)
}

/// Makes its pod, and what it is told of it.
fn in_kubernetes(cluster: &Cluster, account: &Account, name: &str) -> Vec<String> {
    let (uid, kubeconfig) = block_on(async {
        let uid = cluster.pod(account, name).await;
        (uid, cluster.kubeconfig_with(account, &TokenFor { pod: Some(name), ..TokenFor::default() }).await)
    });
    let kubeconfig = kubeconfig.display().to_string();
    let flags = ["--state", "kubernetes", "--namespace", NAMESPACE, "--kubeconfig", &kubeconfig, "--replica-uid", &uid];
    flags.map(str::to_owned).to_vec()
}
