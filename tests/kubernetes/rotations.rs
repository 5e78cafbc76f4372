//! Rotation after rotation, under load, of SVIDs that gateways have by SDS, by the Workload API, from files or from a Secret, and of
//! one that a gateway has in all four ways at once: nobody notices, no reader ever sees a torn set, and the last rotation is as
//! punctual as the first. All of it goes on side by side, with certificates of different TTLs.
//!
//! `COUNTERSIGN_ROTATIONS` is how many each has at least; without it as many as there is time for in every run.

mod agent;
mod gateways;
pub(crate) mod mounted;
mod reader;
pub(crate) mod repeated;
mod seen;
mod workload;

use std::{
    env, fs,
    time::{Duration, Instant},
};

use self::{
    agent::Agent,
    gateways::{Gateways, Place},
    seen::Seen,
};
use crate::{
    cluster::{Cluster, block_on},
    envoy::{AccessLog, Envoy},
    envoy_config, gateway_secret,
    istio::replicas::Replicas,
    pair::{TRUST_DOMAIN, install, roots, shipped},
    support::wait::wait_until,
};

const BACKEND: &str = "spiffe://gateways.test/ns/default/sa/backend";
const CLIENTS: &str = "spiffe://gateways.test/ns/";
const SOON: Duration = Duration::from_secs(20);

/// In seconds, like all of these. From 4 to 10, the last of which takes longest.
const SDS_TTL: u64 = 4;
const WORKLOAD_API_TTL: u64 = 5;
const FILES_TTL: u64 = 10;
/// Also that of the Secret alone: the pair has one TTL for what it writes itself.
const ALL_TTL: u64 = 6;
const LONGEST_TTL: u64 = FILES_TTL;

/// One way to an identity, known at the backend by the path that is asked for.
struct Output {
    name: &'static str,
    path: &'static str,
    id: &'static str,
    /// Seconds.
    ttl: u64,
}

const fn output(name: &'static str, path: &'static str, id: &'static str, ttl: u64) -> Output {
    Output { name, path, id, ttl }
}

const BY_ALL: &str = "spiffe://gateways.test/ns/default/sa/by-all";
const OUTPUTS: [Output; 8] = [
    output("SDS", "/sds", "spiffe://gateways.test/ns/default/sa/by-sds", SDS_TTL),
    output("Workload API", "/workload-api", "spiffe://gateways.test/ns/default/sa/by-workload-api", WORKLOAD_API_TTL),
    output("files", "/files", "spiffe://gateways.test/ns/default/sa/by-files", FILES_TTL),
    output("Secret", "/secret", "spiffe://gateways.test/ns/gateways/sa/gateway", ALL_TTL),
    output("all at once, SDS", "/all/sds", BY_ALL, ALL_TTL),
    output("all at once, Workload API", "/all/workload-api", BY_ALL, ALL_TTL),
    output("all at once, files", "/all/files", BY_ALL, ALL_TTL),
    output("all at once, Secret", "/all/secret", BY_ALL, ALL_TTL),
];

fn rotations() -> usize {
    env::var("COUNTERSIGN_ROTATIONS").map_or(20, |number| number.parse().expect("a number of rotations"))
}

#[test]
fn no_rotation_is_noticed_by_sds_by_the_workload_api_in_files_in_a_secret_or_in_all_of_them_at_once() {
    let wanted = rotations();
    assert!(wanted > 1, "nothing to compare");
    let cluster = Cluster::start();
    let account = block_on(install(&cluster));
    let rights = fs::read_to_string(shipped("rbac-gateway-secret.yaml")).unwrap();
    block_on(async {
        cluster.namespace_named(gateway_secret::NAMESPACE, &[]).await;
        cluster.apply(&rights).await;
        cluster.apply(&rights.replace(gateway_secret::NAMESPACE, "default")).await;
    });
    let (ttl, of_all) = (format!("{ALL_TTL}s"), format!("default/{}=by-all", gateway_secret::NAME));
    let secrets = [&gateway_secret::FLAG[..], &["--gateway-secret", &of_all]].concat();
    let flags = [&secrets[..], &["--trust-domain", TRUST_DOMAIN, "--svid-ttl", &ttl]].concat();
    let replicas = Replicas::start(&cluster, &account, [&flags, &flags]);
    let cas = replicas.serves.each_ref().map(|serve| serve.address());
    let root_file = cluster.folder().join("roots.pem");
    fs::write(&root_file, roots(&cluster)).unwrap();
    let log = cluster.folder().join("access.log");
    let backend_agent = Agent::start("backend", &cluster, &cas, &root_file, 3600, &[]);
    let config = envoy_config::backend(&backend_agent.socket, CLIENTS, &log);
    let backend = Envoy::start("envoy-backend", cluster.folder(), &config);
    let place = Place { cluster: &cluster, cas: &cas, root_file: &root_file, backend: backend.address };
    let asked = Gateways::start(&place).load(backend.address);

    let (begin, mut seen) = (Instant::now(), Seen::of(AccessLog::at(log)));
    let within = SOON + Duration::from_secs(LONGEST_TTL) / 2 * u32::try_from(wanted).unwrap();
    wait_until(within, &format!("{wanted} rotations of each"), || {
        let requests = asked.check();
        let rotations = OUTPUTS.each_ref().map(|output| seen.rotations(output));
        if rotations.iter().all(|rotations| *rotations >= wanted) {
            Ok(())
        } else {
            Err(format!("{rotations:?}, {requests} requests"))
        }
    });
    let asked = asked.stop();
    println!("{:?}", begin.elapsed());
    seen.check(&OUTPUTS, wanted, &asked);
}
