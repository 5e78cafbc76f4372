//! The gateways, each with its own way to its identity, and one that has it in every way at once; and what asks them.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    ALL_TTL, BACKEND, FILES_TTL, SDS_TTL, SOON, WORKLOAD_API_TTL, agent::Agent, mounted::Mounted,
    reader::read_again_and_again, repeated::Repeated, workload::ask_again_and_again,
};
use crate::{
    cluster::Cluster,
    envoy::Envoy,
    envoy_config::{self, Sds},
    gateway_secret,
    load::Load,
    support::{http, svid_set::SvidSet, wait::wait_until},
};

/// Envoy gives up waiting for a secret after 15 s, and only then listens.
const WARM_UP: Duration = Duration::from_secs(16);

/// What is there before them.
pub(super) struct Place<'a> {
    pub(super) cluster: &'a Cluster,
    pub(super) cas: &'a [String],
    pub(super) root_file: &'a Path,
    pub(super) backend: SocketAddr,
}

/// All of them. What asks the backend is known there by its path.
#[derive(Default)]
pub(super) struct Gateways {
    envoys: Vec<(&'static str, Envoy)>,
    workloads: Vec<(&'static str, PathBuf)>,
    sets: Vec<PathBuf>,
    mounts: Vec<Mounted>,
    agents: Vec<Agent>,
}

impl Gateways {
    /// Starts them, and waits until the backend is reached by way of each.
    pub(super) fn start(place: &Place<'_>) -> Self {
        let mut all = Self::default();
        let by_sds = all.agent(place, "by-sds", SDS_TTL, &[]);
        all.sds(place, "/sds", &by_sds);
        let by_workload_api = all.agent(place, "by-workload-api", WORKLOAD_API_TTL, &[]);
        all.workloads.push(("/workload-api", by_workload_api));
        let output = place.cluster.folder().join("output");
        all.agent(place, "by-files", FILES_TTL, &["--output-dir", output.to_str().unwrap()]);
        all.files(place, "/files", output);
        all.secret(place, "/secret", gateway_secret::NAMESPACE);

        let output = place.cluster.folder().join("output-of-all");
        let by_all = all.agent(place, "by-all", ALL_TTL, &["--output-dir", output.to_str().unwrap()]);
        all.sds(place, "/all/sds", &by_all);
        all.workloads.push(("/all/workload-api", by_all));
        all.files(place, "/all/files", output);
        all.secret(place, "/all/secret", "default");
        for (path, envoy) in &all.envoys {
            wait_until(WARM_UP, &format!("the backend at {path}"), || http::get(envoy.address, "/warm-up"));
        }
        all
    }

    /// The socket of an agent that it starts.
    fn agent(&mut self, place: &Place<'_>, name: &str, ttl: u64, flags: &[&str]) -> PathBuf {
        let agent = Agent::start(name, place.cluster, place.cas, place.root_file, ttl, flags);
        let socket = agent.socket.clone();
        self.agents.push(agent);
        socket
    }

    fn sds(&mut self, place: &Place<'_>, path: &'static str, socket: &Path) {
        let config = envoy_config::gateway(socket, Sds::StateOfTheWorld, place.backend.port(), BACKEND);
        self.envoy(place, path, &config);
    }

    fn files(&mut self, place: &Place<'_>, path: &'static str, output: PathBuf) {
        wait_until(SOON, "the first set of files", || SvidSet::read(&output));
        self.envoy(place, path, &envoy_config::gateway_of_files(&output, place.backend.port(), BACKEND));
        self.sets.push(output);
    }

    fn secret(&mut self, place: &Place<'_>, path: &'static str, namespace: &'static str) {
        let mounted = Mounted::start(place.cluster, namespace);
        let folder = place.cluster.folder().join(format!("secrets-of-{namespace}"));
        fs::create_dir(&folder).unwrap();
        for (name, secret) in envoy_config::secrets_of_mounted(mounted.path()) {
            fs::write(folder.join(name), secret.to_string()).unwrap();
        }
        self.envoy(place, path, &envoy_config::gateway_of_files(&folder, place.backend.port(), BACKEND));
        self.mounts.push(mounted);
    }

    fn envoy(&mut self, place: &Place<'_>, path: &'static str, config: &serde_json::Value) {
        let name = format!("envoy{}", path.replace('/', "-"));
        self.envoys.push((path, Envoy::start(&name, place.cluster.folder(), config)));
    }

    /// Begins to ask, and to read whatever is written.
    pub(super) fn load(self, backend: SocketAddr) -> Asked {
        Asked {
            loads: self.envoys.iter().map(|(path, envoy)| (*path, Load::start(envoy.address, path))).collect(),
            clients: (self.workloads.iter())
                .map(|(path, socket)| (*path, ask_again_and_again(socket, backend, BACKEND, path)))
                .collect(),
            readers: self.sets.iter().map(|output| read_again_and_again(output)).collect(),
            gateways: self,
        }
    }
}

/// What goes on until it is stopped.
pub(super) struct Asked {
    loads: Vec<(&'static str, Load)>,
    clients: Vec<(&'static str, Repeated)>,
    readers: Vec<Repeated>,
    gateways: Gateways,
}

impl Asked {
    /// Fails if any request has failed, or any set was torn. How many requests there were.
    pub(super) fn check(&self) -> u64 {
        self.readers.iter().chain(self.gateways.mounts.iter().map(Mounted::reads)).for_each(|reads| _ = reads.check());
        let by_workloads: u64 = self.clients.iter().map(|(_, client)| client.check()).sum();
        self.loads.iter().map(|(_, load)| load.check()).sum::<u64>() + by_workloads
    }

    /// Ends it: the good requests by their path.
    pub(super) fn stop(self) -> Vec<(&'static str, u64)> {
        for (path, envoy) in &self.gateways.envoys {
            let (taken, refused) = envoy.secrets_taken_and_refused();
            println!("{path}: Envoy has taken {taken} secrets and refused {refused}");
            assert!(taken > 0 && refused == 0, "{path}: {taken} taken, {refused} refused");
            assert_eq!(envoy.sessions_resumed(), 0, "{path}: nobody looks at certificates there");
        }
        let mut asked: Vec<_> = self.loads.into_iter().map(|(path, load)| (path, load.stop())).collect();
        asked.extend(self.clients.into_iter().map(|(path, client)| (path, client.stop())));
        let sets: Vec<u64> = self.readers.into_iter().map(Repeated::stop).collect();
        let secrets: Vec<u64> = self.gateways.mounts.into_iter().map(Mounted::stop).collect();
        println!("{sets:?} sets of files and {secrets:?} Secrets read, none torn");
        asked
    }
}
