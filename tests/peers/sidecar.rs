//! The real pilot-agent, which has its certificates from the pair and knows of a root what came with the last of them. Its socket
//! gives them to any Envoy; the one that it starts itself is none.

use std::{
    fs,
    net::Ipv4Addr,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use crate::{
    pair::{Pair, TTL},
    support::{
        countersign::{root_file, write_token},
        http::free_port,
        process::Process,
        service::service,
        sidecar::{self, Pod, Proxy, ROOTS, Wanted, write_proxy},
    },
};

const SOCKET: &str = "var/run/secrets/workload-spiffe-uds/socket";

/// A running one, of the account `default/sidecar`.
pub(crate) struct Sidecar {
    _process: Process,
    pub(crate) socket: PathBuf,
}

impl Sidecar {
    pub(crate) fn start(pair: &Pair) -> Self {
        let (folder, token) = (pair.logs().join("sidecar"), pair.logs().join("sidecar.token"));
        write_token(&pair.data(), "default/sidecar", &token);
        let token = fs::read_to_string(token).unwrap();
        let pod = Pod { name: "sidecar-0", namespace: "default", account: "sidecar", token: token.trim() };
        let ca = service(pair.addresses());
        let wanted = Wanted { ca: &ca, istiod: &ca, roots: "", ttl: TTL };
        let proxy = Proxy {
            executable: write_proxy(&folder, &["sh", "-c", "'exec sleep 3600'"]),
            bootstrap: "{}".to_owned(),
            address: Ipv4Addr::LOCALHOST,
            admin_port: free_port(),
            status_port: free_port(),
        };
        let mut command = sidecar::command(&folder, &pod, &wanted, &proxy);
        mount_roots(&folder, &pair.data());
        Self { _process: Process::start("sidecar", pair.logs(), &mut command), socket: folder.join(SOCKET) }
    }
}

/// The published roots, as a pod has them by a ConfigMap.
fn mount_roots(folder: &Path, data: &Path) {
    fs::remove_file(folder.join(ROOTS)).unwrap();
    symlink(root_file(data), folder.join(ROOTS)).unwrap();
}
