//! A pair that was there before istiod.

use std::{
    collections::BTreeMap,
    fs,
    net::{Shutdown, TcpListener, TcpStream},
    path::PathBuf,
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::json;

use super::client::PAIR;
use crate::{
    cluster::{Account, Cluster, TokenFor, block_on},
    istio::istiod::{self, Ca, Istiod, SERVER_NAME},
    pair::{NAMESPACE, shipped},
    support::{
        authority::{Authority, Kind},
        countersign::{Serve, countersign},
        http::{self, free_port, loopback},
        observe::{readiness, wait_for},
        process::Process,
        service::join,
        wait::wait_until,
    },
};

const ROOTS: &str = "istio-ca-root-cert";
const ROOTS_KEY: &str = "root-cert.pem";
/// After istiod is ready.
const SOON: Duration = Duration::from_secs(5);
const START: Duration = Duration::from_secs(20);

/// The pair, and istiod behind an address that stays.
pub(crate) struct Stage {
    pub(crate) replicas: [Serve; 2],
    pub(crate) istiod: Option<Istiod>,
    pub(crate) gate: Gate,
    pub(crate) roots: String,
    pub(crate) cluster: Cluster,
    account: Account,
    root: Authority,
    intermediate: Authority,
}

/// An agent with its socket.
pub(crate) struct Agent {
    pub(crate) process: Process,
    pub(crate) socket: PathBuf,
    pub(crate) token_file: PathBuf,
}

impl Stage {
    /// Starts the pair, and then istiod: ready within seconds, without a restart.
    pub(crate) fn set() -> Self {
        Self::set_with(&[])
    }

    /// The same with more flags of the replicas.
    pub(crate) fn set_with(flags: &[&str]) -> Self {
        let mut stage = Self::without_istiod(flags);
        for replica in &stage.replicas {
            wait_for("a replica without istiod", "istiod: not ready (IstioNotDetected: ", || readiness(replica));
        }
        stage.start_istiod();
        stage.wait_until_ready();
        stage
    }

    fn without_istiod(more_flags: &[&str]) -> Self {
        Self::before_istiod(&[], || more_flags.iter().map(|flag| (*flag).to_owned()).collect())
    }

    /// The pair alone, with these files of rights as well and `more` flags for each replica.
    pub(crate) fn before_istiod(rights: &[&str], more: impl Fn() -> Vec<String>) -> Self {
        let cluster = Cluster::start();
        let account = block_on(istiod::prepare(&cluster));
        block_on(cluster.namespace_named(NAMESPACE, &[]));
        for file in ["rbac-istiod.yaml"].iter().chain(rights) {
            block_on(cluster.apply_file(&shipped(file)));
        }
        let own = Account { namespace: NAMESPACE.to_owned(), name: "countersign".to_owned() };
        let token_file = cluster.folder().join("countersign.istio-token");
        let for_istiod = TokenFor { audiences: &["istio-ca"], ..TokenFor::default() };
        fs::write(&token_file, block_on(cluster.token(&own, &for_istiod))).unwrap();
        let (gate, root_file) = (Gate::open(), cluster.folder().join("mesh-roots.pem"));
        let start = |name: &str| {
            let uid = block_on(cluster.pod(&own, name));
            let kubeconfig = block_on(cluster.kubeconfig(&own));
            let address = loopback(gate.port).to_string();
            let more = more();
            let mut flags = vec![
                "--source",
                "istiod",
                "--state",
                "kubernetes",
                "--istiod-address",
                &address,
                "--istiod-server-name",
                SERVER_NAME,
                "--istiod-root-file",
                root_file.to_str().unwrap(),
                "--istiod-token-file",
                token_file.to_str().unwrap(),
                "--namespace",
                NAMESPACE,
                "--replica-uid",
                &uid,
                "--kubeconfig",
                kubeconfig.to_str().unwrap(),
            ];
            flags.extend(more.iter().map(String::as_str));
            Serve::spawn(name, cluster.folder(), &cluster.folder().join(name), free_port(), &flags)
        };
        let replicas = ["countersign-0", "countersign-1"].map(start);
        let root = Authority::root("mesh");
        let intermediate = root.below("istiod", Kind::P256);
        let (istiod, roots) = (None, String::new());
        Self { replicas, istiod, gate, roots, cluster, account, root, intermediate }
    }

    /// Starts one. The replicas read its roots from the API server: a kubelet would deliver the file up to 90 s later, and
    /// here never does.
    pub(crate) fn start_istiod(&mut self) {
        let files = self.intermediate.cacerts(&self.root.certificate);
        // it believes what gateways on this host say of their clients
        let gateways = [("TRUSTED_GATEWAY_CIDR", "127.0.0.0/8")];
        let (port, serving) = (free_port(), Default::default());
        let istiod = Istiod::start_with(port, &self.cluster, &self.account, Ca::Own(&files), &serving, &gateways);
        self.gate.lead_to(istiod.port);
        self.istiod = Some(istiod);
        self.roots = wait_until(START, "the mesh's roots", || {
            let found = block_on(async { self.config_maps().get_opt(ROOTS).await });
            let data = found.map_err(|error| error.to_string())?.and_then(|found| found.data).unwrap_or_default();
            data.get(ROOTS_KEY).cloned().ok_or_else(|| format!("{data:?}"))
        });
    }

    /// Writes others to where istiod wrote its own, which must have ended.
    pub(crate) fn publish_roots(&self, pem: &str) {
        assert!(self.istiod.is_none(), "istiod would write its own again");
        let data = BTreeMap::from([(ROOTS_KEY, pem)]);
        let patch = Patch::Merge(json!({ "data": data }));
        block_on(async { self.config_maps().patch(ROOTS, &PatchParams::default(), &patch).await }).unwrap();
    }

    fn config_maps(&self) -> Api<ConfigMap> {
        Api::namespaced(self.cluster.admin(), NAMESPACE)
    }

    /// Starts an agent of the service account `gateway` that asks at these addresses.
    pub(crate) fn agent(&self, addresses: &[String], flags: &[&str]) -> Agent {
        let (_, token) = self.caller("gateway");
        let folder = self.cluster.folder();
        let [socket, token_file, roots] = ["sock", "token", "pem"].map(|end| folder.join(format!("agent.{end}")));
        fs::write(&token_file, token).unwrap();
        fs::write(&roots, &self.roots).unwrap();
        let mut command = countersign();
        command.arg("agent").arg("--socket").arg(&socket).arg("--token-file").arg(&token_file);
        command.arg("--root-file").arg(&roots).args(["--ca-identity", PAIR, "--ca-server-name", SERVER_NAME]);
        for address in addresses {
            command.arg("--ca-address").arg(address);
        }
        let process = Process::start("agent", folder, command.args(flags));
        Agent { process, socket, token_file }
    }

    /// Waits for both replicas.
    pub(crate) fn wait_until_ready(&self) {
        let began = Instant::now();
        for replica in &self.replicas {
            let ready = || http::get(loopback(replica.admin_port), "/readyz");
            wait_until(SOON, "a replica ready after istiod is", ready);
        }
        println!("both replicas ready {:?} after istiod and its roots", began.elapsed());
    }

    pub(crate) fn istiod(&self) -> &Istiod {
        self.istiod.as_ref().unwrap()
    }

    /// A service account in namespace `default`, and a token of it for istiod.
    pub(crate) fn caller(&self, name: &str) -> (Account, String) {
        let account = block_on(self.cluster.account("default", name));
        let token = self.token(&account, &["istio-ca"]);
        (account, token)
    }

    pub(crate) fn token(&self, account: &Account, audiences: &[&str]) -> String {
        block_on(self.cluster.token(account, &TokenFor { audiences, ..TokenFor::default() }))
    }
}

/// An address that leads to one istiod, and later to another, or to nobody.
pub(crate) struct Gate {
    pub(crate) port: u16,
    target: Arc<Mutex<Option<u16>>>,
    clients: Arc<Mutex<Vec<TcpStream>>>,
}

impl Gate {
    pub(crate) fn open() -> Self {
        let listener = TcpListener::bind(loopback(0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let (target, clients) = (Arc::<Mutex<Option<u16>>>::default(), Arc::<Mutex<Vec<TcpStream>>>::default());
        let (known, all) = (Arc::clone(&target), Arc::clone(&clients));
        thread::spawn(move || {
            for client in listener.incoming().map(Result::unwrap) {
                let target = *known.lock().unwrap();
                match target.and_then(|port| TcpStream::connect(loopback(port)).ok()) {
                    Some(server) => {
                        all.lock().unwrap().push(client.try_clone().unwrap());
                        drop(thread::spawn(move || join(client, server)));
                    }
                    None => drop(client.shutdown(Shutdown::Both)),
                }
            }
        });
        Self { port, target, clients }
    }

    /// Leads to nobody from now on, and ends what goes through it.
    pub(crate) fn shut(&self) {
        *self.target.lock().unwrap() = None;
        for client in self.clients.lock().unwrap().drain(..) {
            // it may be over already
            let _ended = client.shutdown(Shutdown::Both);
        }
    }

    pub(crate) fn lead_to(&self, port: u16) {
        *self.target.lock().unwrap() = Some(port);
    }
}
