//! A mesh whose only CA is the pair: istiod has none, and every proxy asks the pair.

use std::{
    thread,
    time::{Duration, Instant},
};

use super::{
    istiod::{self, Ca, Istiod},
    objects::{Files, MESH_ROOTS, check_nothing_was_refused, delete_serving_files, roots_of, serving_files},
    pilot_agent::PilotAgent,
    replicas::Replicas,
};
use crate::{
    cluster::{Cluster, block_on},
    pair::{install, shipped},
    support::{certificate::Certificate, openssl, sidecar::Wanted, wait::wait_until},
};

/// Of a proxy's certificate, which is renewed at half of it; a take-over must fit into the rest.
const TTL: Duration = Duration::from_secs(16);
/// The next namespace has its roots within.
const NEW_NAMESPACE: Duration = Duration::from_secs(1);
const SOON: Duration = Duration::from_secs(10);

#[test]
fn istiod_and_proxies_live_from_the_pair_and_outlive_its_active() {
    let cluster = Cluster::start();
    let istiod_account = block_on(istiod::prepare(&cluster));
    let account = block_on(install(&cluster));
    block_on(cluster.apply_file(&shipped("rbac-mesh-ca.yaml")));
    let mut replicas = Replicas::start(&cluster, &account, [&["--mesh-ca", "true"]; 2]);

    let roots = roots_of(&cluster, "default", MESH_ROOTS);
    for namespace in ["kube-system", istiod::NAMESPACE] {
        assert_eq!(roots_of(&cluster, namespace, MESH_ROOTS), roots, "in {namespace}");
    }
    let serving = serving_files(&cluster, None);
    let istiod = Istiod::start(&cluster, &istiod_account, Ca::External, &serving);
    serves(&istiod, &serving, &roots).unwrap();

    let (ca, istiod_address) = (replicas.service(), istiod.address());
    let wanted = Wanted { ca: &ca, istiod: &istiod_address, roots: &roots, ttl: TTL };
    let app = block_on(cluster.account("default", "app"));
    // each has its connection to another replica
    let agents = ["app-0", "app-1"].map(|name| PilotAgent::start(name, &cluster, &app, &wanted));
    istiod.wait_for_proxies(2);
    for agent in &agents {
        check_identity(agent, "spiffe://cluster.local/ns/default/sa/app", &roots);
        agent.wait_for_rotations(2, TTL * 2);
    }

    replicas.kill_the_active();
    thread::scope(|scope| {
        agents.iter().for_each(|agent| drop(scope.spawn(|| agent.wait_for_rotations(3, TTL * 3))));
    });
    assert_eq!(istiod.proxies(), Ok(2));
    for agent in &agents {
        check_identity(agent, "spiffe://cluster.local/ns/default/sa/app", &roots);
        assert_eq!(agent.log().matches(PilotAgent::CONNECTED).count(), 1, "{}", agent.log());
        println!("{} failed calls of pilot-agent", agent.log().matches(PilotAgent::FAILED).count());
    }

    // the heir goes on with what its predecessor kept
    let began = Instant::now();
    block_on(cluster.namespace_named("later", &[]));
    assert_eq!(roots_of(&cluster, "later", MESH_ROOTS), roots);
    assert!(began.elapsed() <= NEW_NAMESPACE, "{:?}", began.elapsed());
    delete_serving_files(&cluster);
    let renewed = serving_files(&cluster, Some(&serving));
    istiod.mount(&renewed);
    wait_until(SOON, "istiod's new certificate", || serves(&istiod, &renewed, &roots));
    let other = block_on(cluster.account("later", "other"));
    let other = PilotAgent::start("other-0", &cluster, &other, &wanted);
    check_identity(&other, "spiffe://cluster.local/ns/later/sa/other", &roots);
    istiod.wait_for_proxies(3);
    check_nothing_was_refused(&cluster);
}

/// Whether istiod's xDS port shows the certificate of `files`, and it is verified by `roots` for istiod's name.
fn serves(istiod: &Istiod, files: &Files, roots: &str) -> Result<(), String> {
    let served = openssl::served(istiod.port, istiod::SERVER_NAME, roots)?;
    let served = &Certificate::from_pem(&served)[0];
    let expected = &Certificate::from_pem(&String::from_utf8(files["tls.crt"].clone()).unwrap())[0];
    if served == expected { Ok(()) } else { Err(format!("{served:?}, not {expected:?}")) }
}

fn check_identity(agent: &PilotAgent, id: &str, roots: &str) {
    let secrets = agent.secrets().unwrap();
    assert_eq!(secrets.roots.trim(), roots.trim());
    assert_eq!(Certificate::from_pem(&secrets.chain)[0].uris, [id]);
    let (leaf, above) = openssl::split_leaf(&secrets.chain);
    openssl::verify(leaf, above, roots);
}
