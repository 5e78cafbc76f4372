//! istiod that comes, goes, and comes back, with files of its CA that are replaced.

use std::{fs, path::PathBuf, time::Duration};

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

/// One istiod, at the same ports whenever it runs.
pub(crate) struct ControlPlane {
    process: Option<Process>,
    account: Option<Account>,
    cacerts: CaDir,
    folder: PathBuf,
    /// Plain gRPC, gRPC with TLS, HTTP, HTTPS, metrics.
    ports: [u16; 5],
    starts: u32,
}

impl ControlPlane {
    /// One that has `files` as its `cacerts` and does not run yet.
    pub(crate) fn plan(cluster: &Cluster, files: &Files) -> Self {
        Self::plan_for("cluster.local", cluster, files)
    }

    /// The same for another trust domain.
    pub(crate) fn plan_for(trust_domain: &str, cluster: &Cluster, files: &Files) -> Self {
        let folder = cluster.folder().join("control-plane");
        fs::create_dir_all(&folder).unwrap();
        let mesh = serde_json::json!({
            "trustDomain": trust_domain,
            "rootNamespace": istiod::NAMESPACE,
            "accessLogFile": "access.log",
            "accessLogEncoding": "JSON",
            "accessLogFormat": sidecar_fields().to_string(),
        });
        fs::write(folder.join("mesh.yaml"), mesh.to_string()).unwrap();
        let ports = std::array::from_fn(|_| free_port());
        Self { process: None, account: None, cacerts: CaDir::mounted(files), folder, ports, starts: 0 }
    }

    /// Makes its namespace, its rights and its kinds of objects.
    pub(crate) fn install(&mut self, cluster: &Cluster) {
        self.account = Some(block_on(istiod::prepare(cluster)));
    }

    /// Starts it, and does not wait.
    pub(crate) fn start(&mut self, cluster: &Cluster) {
        let account = self.account.as_ref().expect("it is installed");
        let mut command = peer("pilot-discovery");
        command.current_dir(&self.folder).args(["discovery", "--meshConfig", "mesh.yaml", "--ctrlz_port", "0"]);
        command.arg("--kubeconfig").arg(block_on(cluster.kubeconfig(account)));
        let flags = ["--grpcAddr", "--secureGRPCAddr", "--httpAddr", "--httpsAddr", "--monitoringAddr"];
        for (flag, port) in flags.into_iter().zip(self.ports) {
            command.arg(flag).arg(loopback(port).to_string());
        }
        command.env("ROOT_CA_DIR", self.cacerts.path()).envs([
            ("POD_NAMESPACE", istiod::NAMESPACE),
            ("POD_NAME", "istiod-0"),
            ("SERVICE_ACCOUNT", "istiod"),
            ("CLUSTER_ID", "Kubernetes"),
            ("PILOT_ENABLE_GATEWAY_API", "false"),
            ("INJECTION_WEBHOOK_CONFIG_NAME", ""),
            ("VALIDATION_WEBHOOK_CONFIG_NAME", ""),
            // or it would not take another root without a restart
            ("ISTIO_MULTIROOT_MESH", "true"),
        ]);
        self.starts += 1;
        let name = format!("istiod-{}", self.starts);
        self.process = Some(Process::start(&name, cluster.folder(), &mut command));
    }

    /// Waits until it says itself that it is ready.
    pub(crate) fn wait_until_ready(&mut self) {
        let process = self.process.as_mut().expect("it was started");
        let http_port = self.ports[2];
        wait_until(START, "istiod ready", || {
            assert_eq!(process.ended(), None, "istiod does not run");
            http::get(loopback(http_port), "/ready")
        });
    }

    /// `kill -9`: connections are reset and new ones refused.
    pub(crate) fn kill(&mut self) {
        self.process.take().expect("it was started").kill();
    }

    /// Replaces the files of its CA at once.
    pub(crate) fn plug_in(&self, files: &Files) {
        self.cacerts.swap(files);
    }

    /// `HOST:PORT` by which pilot-agent takes it for `istiod.istio-system.svc`.
    pub(crate) fn name_and_port(&self) -> String {
        format!("localhost:{}", self.ports[1])
    }

    /// What makes a pair pass requests on to it.
    pub(crate) fn pair_flags(&self) -> Vec<String> {
        let address = loopback(self.ports[1]).to_string();
        let flags = ["--source", "istiod", "--istiod-address", &address, "--istiod-server-name", istiod::SERVER_NAME];
        flags.map(str::to_owned).to_vec()
    }

    /// What makes our agent ask it.
    pub(crate) fn agent_flags(&self) -> Vec<String> {
        let address = loopback(self.ports[1]).to_string();
        ["--ca-address", &address, "--ca-server-name", istiod::SERVER_NAME].map(str::to_owned).to_vec()
    }
}
