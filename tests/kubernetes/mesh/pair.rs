//! A pair that signs nothing itself and passes requests on to istiod.

use std::{fs, time::Duration};

use super::{Mesh, Place, control_plane::ControlPlane};
use crate::{
    cluster::{Account, Cluster, TokenFor, block_on},
    pair::{NAMESPACE, install_with},
    support::{
        countersign::Serve,
        http::{free_port, loopback},
        observe::readiness,
        wait::wait_until,
    },
};

/// As whom the pair has its serving certificate from istiod.
const ID: &str = "spiffe://cluster.local/ns/countersign/sa/countersign";

const START: Duration = Duration::from_secs(20);

/// Both replicas.
pub(crate) struct Pair {
    replicas: Vec<Serve>,
    ports: Vec<u16>,
}

impl Pair {
    /// Starts both and waits until they are ready.
    pub(crate) fn start(mesh: &Mesh) -> Self {
        Self::start_with(mesh, &[])
    }

    /// The same with further flags.
    pub(crate) fn start_with(mesh: &Mesh, flags: &[&str]) -> Self {
        let pair = Self::spawn_with(&mesh.place, &mesh.control_plane, flags);
        pair.replicas.iter().for_each(Serve::wait_until_ready);
        pair
    }

    /// Starts both, be istiod there or not. They have the mesh's roots from their ConfigMap; it is mounted nowhere.
    pub(crate) fn spawn(place: &Place, istiod: &ControlPlane) -> Self {
        Self::spawn_with(place, istiod, &[])
    }

    fn spawn_with(place: &Place, istiod: &ControlPlane, further: &[&str]) -> Self {
        let cluster = &place.cluster;
        let account = block_on(install_with(cluster, "rbac-istiod.yaml"));
        let roots = cluster.folder().join("pair-roots.pem");
        let mut flags = istiod.pair_flags();
        flags.extend(["--istiod-root-file".to_owned(), roots.display().to_string()]);
        flags.extend(further.iter().map(|flag| (*flag).to_owned()));
        let replicas: Vec<Serve> = (0..2).map(|number| start(cluster, &account, number, &flags)).collect();
        let ports = replicas.iter().map(|replica| replica.port).collect();
        Self { replicas, ports }
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

    /// The same of the active: the other one.
    pub(crate) fn kill_the_active(&mut self) -> &Serve {
        let active = wait_until(START, "an active", || {
            let pages: Vec<String> = self.replicas.iter().map(readiness).collect();
            pages.iter().position(|page| page.contains("term: ready (active in")).ok_or_else(|| pages.concat())
        });
        drop(self.replicas.remove(active));
        &self.replicas[0]
    }
}

fn start(cluster: &Cluster, account: &Account, number: usize, flags: &[String]) -> Serve {
    let name = format!("countersign-{number}");
    let (uid, kubeconfig, token) = block_on(async {
        let uid = cluster.pod(account, &name).await;
        let asked = TokenFor { pod: Some(&name), ..TokenFor::default() };
        let for_istiod = TokenFor { audiences: &["istio-ca"], ..asked.clone() };
        (uid, cluster.kubeconfig_with(account, &asked).await, cluster.token(account, &for_istiod).await)
    });
    let token_file = cluster.folder().join(format!("{name}.istio-token"));
    fs::write(&token_file, token).unwrap();
    let mut all: Vec<&str> = flags.iter().map(String::as_str).collect();
    all.extend([
        "--istiod-token-file",
        token_file.to_str().unwrap(),
        "--state",
        "kubernetes",
        "--namespace",
        NAMESPACE,
    ]);
    all.extend(["--kubeconfig", kubeconfig.to_str().unwrap(), "--replica-uid", &uid]);
    Serve::spawn(&name, cluster.folder(), &cluster.folder().join(format!("{name}-data")), free_port(), &all)
}
