//! A pair that was there before istiod.

use std::{
    fs,
    net::{Shutdown, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use crate::{
    cluster::{Account, Cluster, TokenFor, block_on},
    istio::istiod::{self, Ca, Istiod, SERVER_NAME},
    pair::{NAMESPACE, shipped},
    support::{
        authority::{Authority, Kind},
        countersign::Serve,
        http::{self, free_port, loopback},
        observe::{readiness, wait_for},
        service::join,
        wait::wait_until,
    },
};

const ROOTS: &str = "istio-ca-root-cert";
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
            let found = block_on(async {
                let config_maps =
                    kube::Api::<k8s_openapi::api::core::v1::ConfigMap>::namespaced(self.cluster.admin(), NAMESPACE);
                config_maps.get_opt(ROOTS).await
            });
            let data = found.map_err(|error| error.to_string())?.and_then(|found| found.data).unwrap_or_default();
            data.get("root-cert.pem").cloned().ok_or_else(|| format!("{data:?}"))
        });
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
