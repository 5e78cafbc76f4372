//! pilot-agent as in a sidecar: it asks a CA for its certificate, hands it to a real Envoy by SDS, and carries the Envoy's xDS to
//! istiod.

use std::{net::Ipv4Addr, path::Path, process::Command, time::Duration};

use crate::{
    cluster::{Account, Cluster, TokenFor, block_on},
    envoy::Secrets,
    support::{
        certificate::Certificate,
        http::{free_port, loopback},
        peer::peer_path,
        process::Process,
        sidecar::{self, Pod, Proxy, Wanted, write_proxy},
        wait::wait_until,
    },
};

/// Istio's own one has listeners on all addresses and filters that are in no Envoy but Istio's.
pub(crate) const BOOTSTRAP: &str = include_str!("envoy_bootstrap.json");
const START: Duration = Duration::from_secs(30);

/// A pilot-agent and its Envoy, which ends with it.
pub(crate) struct PilotAgent {
    process: Process,
    admin_port: u16,
    name: String,
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
    let token = block_on(cluster.token(account, &asked));
    let pod = Pod { name, namespace: &account.namespace, account: &account.name, token: &token };
    sidecar::command(folder, &pod, wanted, proxy)
}
