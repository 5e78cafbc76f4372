//! istiod, with the rights it needs here.

use std::{fs, time::Duration};

use super::objects::Files;
use crate::{
    cluster::{Account, Cluster, block_on},
    support::{
        authority,
        http::{self, free_port, loopback},
        mount::Mount,
        peer::{peer, peer_file},
        process::Process,
        wait::wait_until,
    },
};

pub(crate) const NAMESPACE: &str = "istio-system";
/// What clients call it by.
pub(crate) const SERVER_NAME: &str = "istiod.istio-system.svc";
const START: Duration = Duration::from_secs(60);
const MESH: &str = "trustDomain: cluster.local\nrootNamespace: istio-system\n";

const RIGHTS: &str = r#"
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata:
  name: istiod
rules:
  - apiGroups: ["*"]
    resources: ["*"]
    verbs: [get, list, watch]
  - apiGroups: [authentication.k8s.io, authorization.k8s.io]
    resources: [tokenreviews, subjectaccessreviews]
    verbs: [create]
  - apiGroups: [""]
    resources: [configmaps, secrets]
    verbs: [create, update, patch]
  - apiGroups: [coordination.k8s.io]
    resources: [leases]
    verbs: [create, update, patch]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata:
  name: istiod
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: ClusterRole
  name: istiod
subjects:
  - kind: ServiceAccount
    name: istiod
    namespace: istio-system
"#;

/// Makes what istiod finds when it is installed: its namespace, its account with rights, its kinds of objects.
pub(crate) async fn prepare(cluster: &Cluster) -> Account {
    cluster.namespace_named(NAMESPACE, &[]).await;
    cluster.apply_file(&peer_file("istio-crds.yaml")).await;
    cluster.apply(RIGHTS).await;
    cluster.account(NAMESPACE, "istiod").await
}

/// Who issues istiod's own certificate, and those of proxies.
pub(crate) enum Ca<'a> {
    /// Istiod, with these files as `cacerts`.
    Own(&'a authority::Files),
    /// Somebody else.
    External,
}

/// A running istiod.
pub(crate) struct Istiod {
    process: Process,
    /// Of xDS with TLS, and of the CA if it is one.
    pub(crate) port: u16,
    pub(crate) monitoring_port: u16,
    http_port: u16,
    /// Secret `istiod-tls`, as its chart mounts it.
    serving: Mount,
}

impl Istiod {
    /// Starts one and waits until it is ready. `serving` is laid out first, if there is something.
    pub(crate) fn start(cluster: &Cluster, account: &Account, ca: Ca<'_>, serving: &Files) -> Self {
        Self::start_on(free_port(), cluster, account, ca, serving)
    }

    /// The same with its xDS and its CA on a given port.
    pub(crate) fn start_on(port: u16, cluster: &Cluster, account: &Account, ca: Ca<'_>, serving: &Files) -> Self {
        Self::start_with(port, cluster, account, ca, serving, &[])
    }

    /// The same with more variables.
    pub(crate) fn start_with(
        port: u16,
        cluster: &Cluster,
        account: &Account,
        ca: Ca<'_>,
        serving: &Files,
        variables: &[(&str, &str)],
    ) -> Self {
        let folder = cluster.folder().join("istiod");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("mesh.yaml"), MESH).unwrap();
        let serving_mount = Mount::at(folder.join("var/run/secrets/istiod/tls"));
        if !serving.is_empty() {
            lay_out(&serving_mount, serving);
        }

        let [plain_port, http_port, https_port, monitoring_port] = std::array::from_fn(|_| free_port());
        let mut command = peer("pilot-discovery");
        command.current_dir(&folder).args(["discovery", "--meshConfig", "mesh.yaml", "--ctrlz_port", "0"]);
        command.arg("--kubeconfig").arg(block_on(cluster.kubeconfig(account)));
        // as shipped it asks the API server about 80 tokens a second at the most, and signs no more
        command.args(["--kubernetesApiQPS", "100000", "--kubernetesApiBurst", "100000"]);
        for (flag, port) in [
            ("--grpcAddr", plain_port),
            ("--secureGRPCAddr", port),
            ("--httpAddr", http_port),
            ("--httpsAddr", https_port),
            ("--monitoringAddr", monitoring_port),
        ] {
            command.arg(flag).arg(loopback(port).to_string());
        }
        command.envs([
            ("POD_NAMESPACE", NAMESPACE),
            ("POD_NAME", "istiod-0"),
            ("SERVICE_ACCOUNT", "istiod"),
            ("CLUSTER_ID", "Kubernetes"),
            ("PILOT_ENABLE_GATEWAY_API", "false"),
            ("INJECTION_WEBHOOK_CONFIG_NAME", ""),
            ("VALIDATION_WEBHOOK_CONFIG_NAME", ""),
            ("ROOT_CA_DIR", "./cacerts"),
        ]);
        command.envs(variables.iter().copied());
        match ca {
            Ca::Own(files) => files.write_to(&folder.join("cacerts")),
            Ca::External => {
                command.env("ENABLE_CA_SERVER", "false");
            }
        }
        let process = Process::start("istiod", cluster.folder(), &mut command);
        wait_until(START, "istiod ready", || http::get(loopback(http_port), "/ready"));
        Self { process, port, monitoring_port, http_port, serving: serving_mount }
    }

    /// Lays out what Secret `istiod-tls` holds now.
    pub(crate) fn mount(&self, serving: &Files) {
        lay_out(&self.serving, serving);
    }

    /// `HOST:PORT` by which pilot-agent takes it for [`SERVER_NAME`].
    pub(crate) fn address(&self) -> String {
        format!("localhost:{}", self.port)
    }

    /// Stops it for a while, as a machine that is too busy would.
    pub(crate) fn pause(&self) {
        self.process.pause();
    }

    /// Lets it go on.
    pub(crate) fn resume(&self) {
        self.process.resume();
    }

    /// All that it has proxy `POD.NAMESPACE` configured with, as it would send it now.
    pub(crate) fn config_dump(&self, proxy: &str) -> Result<serde_json::Value, String> {
        let dump = http::get(loopback(self.http_port), &format!("/debug/config_dump?proxyID={proxy}"))?;
        serde_json::from_str(&dump).map_err(|error| format!("{error}: {dump}"))
    }

    /// How many requests for certificates it has got.
    pub(crate) fn requests(&self) -> u64 {
        let page = http::get(loopback(self.monitoring_port), "/metrics").unwrap();
        let value = page.lines().find_map(|line| line.strip_prefix("citadel_server_csr_count ")?.trim().parse().ok());
        value.unwrap_or(0)
    }

    /// How many proxies have their xDS from it now.
    pub(crate) fn proxies(&self) -> Result<u64, String> {
        let page = http::get(loopback(self.monitoring_port), "/metrics")?;
        let line = page.lines().find(|line| line.starts_with("pilot_xds{")).unwrap_or_default();
        Ok(line.rsplit(' ').next().and_then(|count| count.parse().ok()).unwrap_or(0))
    }

    /// Waits until it has just so many proxies.
    pub(crate) fn wait_for_proxies(&self, count: u64) {
        wait_until(START, &format!("{count} proxies at istiod"), || match self.proxies()? {
            seen if seen == count => Ok(()),
            seen => Err(format!("{seen}")),
        });
    }
}

fn lay_out(mount: &Mount, files: &Files) {
    mount.swap(files.iter().map(|(name, content)| (name.as_str(), content.as_slice())));
}
