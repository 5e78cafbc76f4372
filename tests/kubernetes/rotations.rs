//! Rotation after rotation, under load, of SVIDs that a gateway has by SDS, by the Workload API, from files and from a Secret, all
//! at the same time: nobody notices, no reader ever sees a torn set, and the last rotation is as punctual as the first.
//!
//! `COUNTERSIGN_ROTATIONS` is how many; without it as many as there is time for in every run.

mod agent;
mod mounted;
mod reader;
mod repeated;
mod workload;

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use self::{agent::Agent, mounted::Mounted, reader::read_again_and_again, workload::ask_again_and_again};
use crate::{
    cluster::{Cluster, block_on},
    envoy::{AccessLog, Envoy, Request},
    envoy_config::{self, Sds},
    gateway_secret,
    istio::replicas::Replicas,
    load::Load,
    pair::{TRUST_DOMAIN, install, roots, shipped},
    support::{http, svid_set::SvidSet, wait::wait_until},
};

const BACKEND: &str = "spiffe://gateways.test/ns/default/sa/backend";
const CLIENTS: &str = "spiffe://gateways.test/ns/";
const TTL: u64 = 4;
/// Envoy gives up waiting for a secret after 15 s, and only then listens.
const WARM_UP: Duration = Duration::from_secs(16);
const SOON: Duration = Duration::from_secs(20);

/// Who is looked at: by its SPIFFE ID at the backend.
const KINDS: [(&str, &str); 4] = [
    ("SDS", "spiffe://gateways.test/ns/default/sa/by-sds"),
    ("Workload API", "spiffe://gateways.test/ns/default/sa/by-workload-api"),
    ("files", "spiffe://gateways.test/ns/default/sa/by-files"),
    ("Secret", "spiffe://gateways.test/ns/gateways/sa/gateway"),
];

fn rotations() -> usize {
    env::var("COUNTERSIGN_ROTATIONS").map_or(20, |number| number.parse().expect("a number of rotations"))
}

/// The gateways, and what asks them.
struct Gateways {
    envoys: Vec<Envoy>,
    output: PathBuf,
    by_workload_api: Agent,
    /// Before the folder that they write to is gone.
    _agents: Vec<Agent>,
}

impl Gateways {
    fn start(cluster: &Cluster, cas: &[String], roots: &Path, mount: &Path, backend: u16) -> Self {
        let folder = cluster.folder();
        let agent = |name: &str, flags: &[&str]| Agent::start(name, cluster, cas, roots, TTL, flags);
        let by_sds = agent("by-sds", &[]);
        let config = envoy_config::gateway(&by_sds.socket, Sds::StateOfTheWorld, backend, BACKEND);
        let mut envoys = vec![Envoy::start("envoy-sds", folder, &config)];

        let output = folder.join("output");
        let by_files = agent("by-files", &["--output-dir", output.to_str().unwrap()]);
        wait_until(SOON, "the first set of files", || SvidSet::read(&output));
        let config = envoy_config::gateway_of_files(&output, backend, BACKEND);
        envoys.push(Envoy::start("envoy-files", folder, &config));

        let secrets = folder.join("secrets-of-mount");
        fs::create_dir(&secrets).unwrap();
        for (name, secret) in envoy_config::secrets_of_mounted(mount) {
            fs::write(secrets.join(name), secret.to_string()).unwrap();
        }
        let config = envoy_config::gateway_of_files(&secrets, backend, BACKEND);
        envoys.push(Envoy::start("envoy-secret", folder, &config));

        let by_workload_api = agent("by-workload-api", &[]);
        for envoy in &envoys {
            wait_until(WARM_UP, "the backend by way of a gateway", || http::get(envoy.address, "/"));
        }
        Self { envoys, output, by_workload_api, _agents: vec![by_sds, by_files] }
    }
}

#[test]
fn no_rotation_is_noticed_by_sds_by_the_workload_api_in_files_or_in_a_secret() {
    let wanted = rotations();
    let cluster = Cluster::start();
    let account = block_on(install(&cluster));
    block_on(async {
        cluster.namespace_named(gateway_secret::NAMESPACE, &[]).await;
        cluster.apply_file(&shipped("rbac-gateway-secret.yaml")).await;
    });
    let ttl = format!("{TTL}s");
    let flags = [&gateway_secret::FLAG[..], &["--trust-domain", TRUST_DOMAIN, "--svid-ttl", &ttl]].concat();
    let replicas = Replicas::start(&cluster, &account, [&flags, &flags]);
    let cas = replicas.serves.each_ref().map(|serve| serve.address());
    let root_file = cluster.folder().join("roots.pem");
    fs::write(&root_file, roots(&cluster)).unwrap();
    let log = cluster.folder().join("access.log");
    let backend_agent = Agent::start("backend", &cluster, &cas, &root_file, 3600, &[]);
    let config = envoy_config::backend(&backend_agent.socket, CLIENTS, &log);
    let backend = Envoy::start("envoy-backend", cluster.folder(), &config);
    let mounted = Mounted::start(&cluster);
    let gateways = Gateways::start(&cluster, &cas, &root_file, mounted.path(), backend.address.port());
    let reader = read_again_and_again(&gateways.output);
    let loads: Vec<_> = gateways.envoys.iter().map(|envoy| Load::start(envoy.address, "/")).collect();
    let workload = ask_again_and_again(&gateways.by_workload_api.socket, backend.address, BACKEND);

    let mut log = AccessLog::at(log);
    let begin = Instant::now();
    let each = Duration::from_secs(TTL);
    wait_until(SOON + each * u32::try_from(wanted + 2).unwrap(), &format!("{wanted} rotations of each"), || {
        let asked: u64 = loads.iter().map(Load::check).sum::<u64>() + workload.check();
        mounted.reads().check();
        reader.check();
        let serials = KINDS.map(|(_, id)| log.serials(id));
        // the first one was there before the load, and the last one only begins
        if serials.iter().all(|serials| *serials >= wanted + 2) {
            Ok(())
        } else {
            Err(format!("{serials:?}, {asked} requests"))
        }
    });
    let asked: Vec<u64> = loads.into_iter().map(Load::stop).collect();
    let by_workload = workload.stop();
    let asked = [asked[0], by_workload, asked[1], asked[2]];
    let (set_reads, secret_reads) = (reader.stop(), mounted.stop());
    println!("{:?}; {set_reads} sets of files and {secret_reads} Secrets read, none torn", begin.elapsed());
    check(&mut log, wanted, asked);
}

/// Holds what the backend saw to what the clients saw, and the last rotations to the first.
fn check(log: &mut AccessLog, wanted: usize, asked: [u64; 4]) {
    wait_until(SOON, "every request in the log of the backend", || {
        let logged = log.requests().len();
        if u64::try_from(logged).unwrap() >= asked.iter().sum() {
            Ok(())
        } else {
            Err(format!("{logged} of {asked:?}"))
        }
    });
    let requests = log.requests();
    for request in requests {
        assert!(request.start <= request.not_after, "used after it had expired: {request:?}");
    }
    println!(
        "{:<14}{:>10}{:>10}{:>14}{:>14}{:>12}{:>12}",
        "", "requests", "rotations", "first ones", "last ones", "longest", "left, least"
    );
    for ((kind, id), asked) in KINDS.into_iter().zip(asked) {
        let gaps = gaps(requests.iter().filter(|request| request.client == id));
        let left = left(requests.iter().filter(|request| request.client == id));
        let quarter = (gaps.len() / 4).max(1);
        let mean = |gaps: &[f64]| gaps.iter().sum::<f64>() / f64::from(u32::try_from(gaps.len()).unwrap());
        let (first, last) = (mean(&gaps[..quarter]), mean(&gaps[gaps.len() - quarter..]));
        let longest = gaps.iter().copied().fold(0.0, f64::max);
        println!("{kind:<14}{asked:>10}{:>10}{first:>12.2} s{last:>12.2} s{longest:>10.2} s{left:>10.2} s", gaps.len());
        assert!(gaps.len() >= wanted, "{kind}: {} rotations", gaps.len());
        assert!(
            (last - first).abs() < 0.5,
            "{kind}: a rotation every {first:.2} s at first, every {last:.2} s at last"
        );
        assert!(left > 0.3, "{kind}: one was in use until {left:.2} s before its end");
    }
}

/// The times between the first uses of one serial and the next. What came before the load is left out.
fn gaps<'a>(requests: impl Iterator<Item = &'a Request>) -> Vec<f64> {
    let mut first: BTreeMap<&str, f64> = BTreeMap::new();
    for request in requests {
        let seen = first.entry(&request.serial).or_insert(request.start);
        *seen = seen.min(request.start);
    }
    let mut starts: Vec<f64> = first.into_values().collect();
    starts.sort_by(f64::total_cmp);
    starts.windows(2).skip(1).map(|pair| pair[1] - pair[0]).collect()
}

/// The shortest time that a certificate still had when it was used last.
fn left<'a>(requests: impl Iterator<Item = &'a Request>) -> f64 {
    requests.map(|request| request.not_after - request.start).fold(f64::MAX, f64::min)
}
