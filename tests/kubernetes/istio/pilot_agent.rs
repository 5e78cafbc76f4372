//! pilot-agent as in a sidecar: it asks a CA for its certificate, hands it to a real Envoy by SDS, and carries the Envoy's xDS to
//! istiod.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use crate::{
    cluster::{Account, Cluster, TokenFor, block_on},
    support::{
        certificate::Certificate,
        http::{self, free_port, loopback},
        peer::{peer, peer_path},
        process::Process,
        wait::wait_until,
    },
};

/// Istio's own one has listeners on all addresses and filters that are in no Envoy but Istio's.
pub(crate) const BOOTSTRAP: &str = include_str!("envoy_bootstrap.json");
const START: Duration = Duration::from_secs(30);

/// Where it is pointed at, and what it asks for.
pub(crate) struct Wanted<'a> {
    /// `HOST:PORT` of the CA.
    pub(crate) ca: &'a str,
    /// `HOST:PORT` of istiod.
    pub(crate) istiod: &'a str,
    /// What both are verified to.
    pub(crate) roots: &'a str,
    pub(crate) ttl: Duration,
}

/// A pilot-agent and its Envoy, which ends with it.
pub(crate) struct PilotAgent {
    process: Process,
    admin_port: u16,
    name: String,
}

/// What Envoy got by SDS.
pub(crate) struct Secrets {
    /// Leaf first, as PEM.
    pub(crate) chain: String,
    /// PEM.
    pub(crate) roots: String,
}

impl PilotAgent {
    /// Said once for each connection to istiod.
    pub(crate) const CONNECTED: &str = "connected to delta upstream XDS server";
    /// Said for each call of the CA that failed for good.
    pub(crate) const FAILED: &str = "failed to sign CSR: ";

    /// Starts one in a pod of `account`, which is made, and waits until Envoy has a certificate.
    pub(crate) fn start(name: &str, cluster: &Cluster, account: &Account, wanted: &Wanted<'_>) -> Self {
        block_on(cluster.pod(account, name));
        let (folder, admin_port) = (cluster.folder().join(name), free_port());
        let envoy = peer_path("envoy").display().to_string();
        let proxy = Proxy {
            executable: write_proxy(&folder, &[&envoy]),
            bootstrap: BOOTSTRAP.to_owned(),
            address: Ipv4Addr::LOCALHOST,
            admin_port,
            status_port: free_port(),
        };
        let mut command = command(name, &folder, cluster, account, wanted, &proxy);
        let process = Process::start(name, cluster.folder(), &mut command);
        let mut agent = Self { process, admin_port, name: name.to_owned() };
        wait_until(START, &format!("a certificate of {name}"), || {
            assert_eq!(agent.process.ended(), None, "{name} does not run");
            agent.secrets()
        });
        agent
    }

    /// What its Envoy holds now.
    pub(crate) fn secrets(&self) -> Result<Secrets, String> {
        Secrets::of(loopback(self.admin_port))
    }

    /// The leaf that its Envoy holds now.
    pub(crate) fn leaf(&self) -> Certificate {
        Certificate::from_pem(&self.secrets().unwrap().chain).swap_remove(0)
    }

    /// Waits for `count` certificates after the present one. None may be in use past its end.
    pub(crate) fn wait_for_rotations(&self, count: usize, within: Duration) {
        let (mut last, mut seen) = (self.leaf(), 0);
        wait_until(within, &format!("{count} rotations of {}", self.name), || {
            let leaf = self.leaf();
            let left = leaf.not_after - time::OffsetDateTime::now_utc().unix_timestamp();
            assert!(left >= 0, "{} has a certificate that ended {} s ago", self.name, -left);
            if leaf != last {
                (last, seen) = (leaf, seen + 1);
            }
            if seen >= count { Ok(()) } else { Err(format!("{seen}, {left} s left")) }
        });
    }

    /// Its log.
    pub(crate) fn log(&self) -> String {
        self.process.output() + &self.process.errors()
    }
}

impl Secrets {
    /// What the Envoy with this admin port holds now.
    pub(crate) fn of(admin: SocketAddr) -> Result<Self, String> {
        let dump = http::get(admin, "/config_dump")?;
        let dump: Value = serde_json::from_str(&dump).map_err(|error| error.to_string())?;
        let part = |kind: &str| -> Option<&Value> {
            let parts = dump["configs"].as_array()?;
            parts.iter().find(|part| part["@type"].as_str().is_some_and(|name| name.ends_with(kind)))
        };
        let secrets = part("SecretsConfigDump").ok_or("no secrets in the dump")?;
        let text = |name: &str, path: &str| -> Result<String, String> {
            let all = secrets["dynamic_active_secrets"].as_array();
            let one = all.into_iter().flatten().find(|secret| secret["name"] == name);
            let bytes = one.and_then(|secret| secret["secret"].pointer(path)?.as_str());
            let bytes = bytes.ok_or_else(|| format!("no secret {name}: {secrets}"))?;
            Ok(String::from_utf8(STANDARD.decode(bytes).unwrap()).unwrap())
        };
        Ok(Self {
            chain: text("default", "/tls_certificate/certificate_chain/inline_bytes")?,
            roots: text("ROOTCA", "/validation_context/trusted_ca/inline_bytes")?,
        })
    }
}

/// What a pilot-agent runs as its Envoy, and how.
pub(crate) struct Proxy {
    pub(crate) executable: PathBuf,
    /// A template of its configuration.
    pub(crate) bootstrap: String,
    /// The pod's own.
    pub(crate) address: Ipv4Addr,
    pub(crate) admin_port: u16,
    /// Where pilot-agent answers probes and shows metrics. It listens there on all addresses, and does not start without.
    pub(crate) status_port: u16,
}

/// The command of one in pod `name` of `account`, which is there; its files are laid out in `folder`.
pub(crate) fn command(
    name: &str,
    folder: &Path,
    cluster: &Cluster,
    account: &Account,
    wanted: &Wanted<'_>,
    proxy: &Proxy,
) -> Command {
    let asked = TokenFor { audiences: &["istio-ca"], pod: Some(name), ..TokenFor::default() };
    put(&folder.join("var/run/secrets/tokens/istio-token"), &block_on(cluster.token(account, &asked)));
    put(&folder.join(ROOTS), wanted.roots);
    put(&folder.join("bootstrap.json"), &proxy.bootstrap);

    let mut command = peer("pilot-agent");
    command.args(["proxy", "sidecar", "--templateFile", "bootstrap.json", "--concurrency", "1"]);
    command.current_dir(folder);
    command.env("CA_ADDR", wanted.ca).env("SECRET_TTL", format!("{}s", wanted.ttl.as_secs()));
    command.env("POD_NAME", name).env("POD_NAMESPACE", &account.namespace).env("SERVICE_ACCOUNT", &account.name);
    command.env("INSTANCE_IP", proxy.address.to_string()).env("ISTIO_META_CLUSTER_ID", "Kubernetes");
    let config = json!({
        "discoveryAddress": wanted.istiod,
        "binaryPath": proxy.executable,
        "proxyAdminPort": proxy.admin_port,
        "statusPort": proxy.status_port,
    });
    command.env("PROXY_CONFIG", config.to_string());
    command
}

/// Where the roots that pilot-agent verifies istiod and the CA by lie, below its folder.
pub(crate) const ROOTS: &str = "var/run/secrets/istio/root-cert.pem";

fn put(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// An executable that is `words`, and ends when its parent has been killed.
pub(crate) fn write_proxy(folder: &Path, words: &[&str]) -> PathBuf {
    let path = folder.join("envoy.sh");
    put(&path, &format!("#!/bin/sh\nexec setpriv --pdeathsig KILL {} \"$@\"\n", words.join(" ")));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}
