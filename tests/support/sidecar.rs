//! pilot-agent's command, and the files that it finds in a pod.

use std::{
    fs,
    net::Ipv4Addr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use serde_json::json;

use super::peer::peer;

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

/// As whom it runs.
pub(crate) struct Pod<'a> {
    pub(crate) name: &'a str,
    pub(crate) namespace: &'a str,
    pub(crate) account: &'a str,
    pub(crate) token: &'a str,
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

/// The command of one whose files are laid out in `folder`.
pub(crate) fn command(folder: &Path, pod: &Pod<'_>, wanted: &Wanted<'_>, proxy: &Proxy) -> Command {
    put(&folder.join("var/run/secrets/tokens/istio-token"), pod.token);
    put(&folder.join(ROOTS), wanted.roots);
    put(&folder.join("bootstrap.json"), &proxy.bootstrap);

    let mut command = peer("pilot-agent");
    command.args(["proxy", "sidecar", "--templateFile", "bootstrap.json", "--concurrency", "1"]);
    command.current_dir(folder);
    command.env("CA_ADDR", wanted.ca).env("SECRET_TTL", format!("{}s", wanted.ttl.as_secs()));
    command.env("POD_NAME", pod.name).env("POD_NAMESPACE", pod.namespace).env("SERVICE_ACCOUNT", pod.account);
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
