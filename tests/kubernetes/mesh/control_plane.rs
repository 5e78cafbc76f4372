//! istiod that comes, goes, and comes back, with files of its CA that are replaced.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::process::Signal;
use serde_json::{Value, json};

use super::access_log::sidecar_fields;
use crate::{
    cluster::{Account, Cluster, block_on},
    istio::istiod,
    support::{
        authority::{CaDir, Files},
        http::{self, free_port, loopback},
        peer::peer,
        process::Process,
        wait::wait_until,
    },
};

const START: Duration = Duration::from_secs(60);
const LEAVE: Duration = Duration::from_secs(15);

/// One istiod, at the same ports whenever it runs.
pub(crate) struct ControlPlane {
    name: String,
    /// Empty if it has none.
    revision: String,
    process: Option<Process>,
    account: Option<Account>,
    cacerts: CaDir,
    folder: PathBuf,
    /// gRPC with TLS: xDS and the CA.
    address: SocketAddr,
    /// Plain gRPC, HTTP, HTTPS, metrics.
    ports: [u16; 4],
    starts: u32,
    mesh_config: Value,
    /// The CAs that its system knows, if not those of this machine.
    system_roots: Option<PathBuf>,
}

impl ControlPlane {
    /// One that has `files` as its `cacerts` and does not run yet.
    pub(crate) fn plan(cluster: &Cluster, files: &Files) -> Self {
        Self::plan_for("cluster.local", cluster, files)
    }

    /// The same for another trust domain.
    pub(crate) fn plan_for(trust_domain: &str, cluster: &Cluster, files: &Files) -> Self {
        Self::plan_with(loopback(free_port()), "", trust_domain, cluster, files)
    }

    /// The same of a revision, with its CA at an address.
    pub(crate) fn plan_at(address: SocketAddr, revision: &str, cluster: &Cluster, files: &Files) -> Self {
        Self::plan_with(address, revision, "cluster.local", cluster, files)
    }

    fn plan_with(address: SocketAddr, revision: &str, trust_domain: &str, cluster: &Cluster, files: &Files) -> Self {
        let name = if revision.is_empty() { "istiod".to_owned() } else { format!("istiod-{revision}") };
        let folder = cluster.folder().join("control-plane").join(&name);
        fs::create_dir_all(&folder).unwrap();
        let mesh_config = json!({
            "trustDomain": trust_domain,
            "rootNamespace": istiod::NAMESPACE,
            "accessLogFile": "access.log",
            "accessLogEncoding": "JSON",
            "accessLogFormat": sidecar_fields().to_string(),
        });
        let ports = std::array::from_fn(|_| free_port());
        let cacerts = CaDir::mounted(files);
        let control_plane = Self {
            name,
            revision: revision.to_owned(),
            process: None,
            account: None,
            cacerts,
            folder,
            address,
            ports,
            starts: 0,
            mesh_config,
            system_roots: None,
        };
        control_plane.write_mesh_config();
        control_plane
    }

    fn write_mesh_config(&self) {
        let new = self.folder.join("mesh.yaml.new");
        fs::write(&new, self.mesh_config.to_string()).unwrap();
        fs::rename(new, self.folder.join("mesh.yaml")).unwrap();
    }

    /// Sets a field of its MeshConfig, which it follows.
    pub(crate) fn configure(&mut self, field: &str, value: Value) {
        self.mesh_config[field] = value;
        self.write_mesh_config();
    }

    /// Has its system know the CAs in that file, from its next start on.
    pub(crate) fn set_system_roots(&mut self, roots: &Path) {
        self.system_roots = Some(roots.to_owned());
    }

    /// What the injector would put into the environment of sidecars.
    pub(crate) fn proxy_metadata(&self) -> Vec<(String, String)> {
        let metadata = self.mesh_config["defaultConfig"]["proxyMetadata"].as_object();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        metadata.into_iter().flatten().map(|(name, value)| (name.clone(), text(value))).collect()
    }

    /// Makes its namespace, its rights and its kinds of objects.
    pub(crate) fn install(&mut self, cluster: &Cluster) {
        self.account = Some(block_on(istiod::prepare(cluster)));
    }

    /// The same where another one is installed already.
    pub(crate) fn install_beside(&mut self, other: &Self) {
        self.account.clone_from(&other.account);
    }

    /// Starts it, and does not wait.
    pub(crate) fn start(&mut self, cluster: &Cluster) {
        let account = self.account.as_ref().expect("it is installed");
        let mut command = peer("pilot-discovery");
        command.current_dir(&self.folder).args(["discovery", "--meshConfig", "mesh.yaml", "--ctrlz_port", "0"]);
        command.arg("--kubeconfig").arg(block_on(cluster.kubeconfig(account)));
        command.arg("--secureGRPCAddr").arg(self.address.to_string());
        let flags = ["--grpcAddr", "--httpAddr", "--httpsAddr", "--monitoringAddr"];
        for (flag, port) in flags.into_iter().zip(self.ports) {
            command.arg(flag).arg(loopback(port).to_string());
        }
        command.env("ROOT_CA_DIR", self.cacerts.path()).envs([
            ("POD_NAMESPACE", istiod::NAMESPACE),
            ("POD_NAME", self.name.as_str()),
            ("REVISION", self.revision.as_str()),
            ("SERVICE_ACCOUNT", "istiod"),
            ("CLUSTER_ID", "Kubernetes"),
            ("PILOT_ENABLE_GATEWAY_API", "false"),
            ("INJECTION_WEBHOOK_CONFIG_NAME", ""),
            ("VALIDATION_WEBHOOK_CONFIG_NAME", ""),
            // or it would not take another root without a restart
            ("ISTIO_MULTIROOT_MESH", "true"),
        ]);
        command.envs(self.system_roots.as_ref().map(|roots| ("SSL_CERT_FILE", roots)));
        self.starts += 1;
        let name = format!("{}-{}", self.name, self.starts);
        self.process = Some(Process::start(&name, cluster.folder(), &mut command));
    }

    /// Waits until it says itself that it is ready.
    pub(crate) fn wait_until_ready(&mut self) {
        let process = self.process.as_mut().expect("it was started");
        let http_port = self.ports[1];
        wait_until(START, "istiod ready", || {
            assert_eq!(process.ended(), None, "istiod does not run");
            http::get(loopback(http_port), "/ready")
        });
    }

    /// What it logged since its last start.
    pub(crate) fn log(&self) -> String {
        let process = self.process.as_ref().expect("it was started");
        process.output() + &process.errors()
    }

    /// `kill -9`: connections are reset and new ones refused.
    pub(crate) fn kill(&mut self) {
        self.process.take().expect("it was started").kill();
    }

    /// Has it leave as a Deployment's pod does.
    pub(crate) fn leave(&mut self) {
        let mut process = self.process.take().expect("it was started");
        process.signal(Signal::TERM);
        process.wait_for_end(LEAVE);
    }

    /// Replaces the files of its CA at once.
    pub(crate) fn plug_in(&self, files: &Files) {
        self.cacerts.swap(files);
    }

    /// `HOST:PORT` by which pilot-agent takes it for `istiod.istio-system.svc`.
    pub(crate) fn name_and_port(&self) -> String {
        format!("localhost:{}", self.address.port())
    }

    /// What makes a pair pass requests on to it.
    pub(crate) fn pair_flags(&self) -> Vec<String> {
        let address = self.address.to_string();
        let flags = ["--source", "istiod", "--istiod-address", &address, "--istiod-server-name", istiod::SERVER_NAME];
        flags.map(str::to_owned).to_vec()
    }

    /// What makes our agent ask it.
    pub(crate) fn agent_flags(&self) -> Vec<String> {
        let address = self.address.to_string();
        ["--ca-address", &address, "--ca-server-name", istiod::SERVER_NAME].map(str::to_owned).to_vec()
    }
}
