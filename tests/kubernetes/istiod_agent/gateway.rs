//! A gateway's pod: its account with the shipped rights, its token, its agent.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use countersign::domain::x509::Certificate;
use spiffe::{TrustDomain, WorkloadApiClient};

use crate::{
    cluster::{Account, Cluster, TokenFor, block_on},
    istio::{istiod, objects::MESH_ROOTS},
    pair::shipped,
    support::{
        countersign::countersign,
        http::{self, free_port, loopback},
        process::Process,
        wait::wait_until,
    },
};

pub(crate) const ID: &str = "spiffe://cluster.local/ns/default/sa/gateway";
const START: Duration = Duration::from_secs(10);

/// What is there before the agent.
pub(crate) struct Pod {
    account: Account,
    /// Its token for a CA, as the kubelet delivers it.
    pub(crate) token_file: PathBuf,
    kubeconfig: PathBuf,
    pub(crate) folder: PathBuf,
}

/// What the socket has.
#[derive(Debug)]
pub(crate) struct Served {
    pub(crate) leaf: Certificate,
    pub(crate) bundle: Vec<Certificate>,
}

/// A running agent.
pub(crate) struct Agent {
    pub(crate) process: Process,
    socket: PathBuf,
    admin_port: u16,
}

impl Pod {
    /// Makes account, rights and pod in namespace `default`.
    pub(crate) fn new(cluster: &Cluster) -> Self {
        block_on(async {
            let account = cluster.account("default", "gateway").await;
            cluster.apply_file(&shipped("rbac-agent.yaml")).await;
            cluster.pod(&account, "gateway").await;
            let kubeconfig =
                cluster.kubeconfig_with(&account, &TokenFor { pod: Some("gateway"), ..TokenFor::default() }).await;
            let folder = cluster.folder().to_owned();
            let pod = Self { account, token_file: folder.join("istio-token"), kubeconfig, folder };
            fs::write(&pod.token_file, pod.token(cluster).await).unwrap();
            pod
        })
    }

    /// A fresh token for a CA.
    pub(crate) async fn token(&self, cluster: &Cluster) -> String {
        let asked = TokenFor { audiences: &["istio-ca"], pod: Some("gateway"), ..TokenFor::default() };
        cluster.token(&self.account, &asked).await
    }

    /// The agent with an istio-proxy's variables, and istiod at a port of this host.
    fn command(&self, istiod_port: u16, ttl: Duration, roots: &[&str]) -> Command {
        let mut command = countersign();
        command.arg("agent").arg("--token-file").arg(&self.token_file);
        command.arg("--kubeconfig").arg(&self.kubeconfig).args(roots);
        // there is no such file, as in a pod whose kubelet has delivered nothing yet
        command.arg("--root-file").arg(self.folder.join("istio/root-cert.pem"));
        command.env("CA_ADDR", format!("localhost:{istiod_port}")).env("ISTIO_META_CLUSTER_ID", "Kubernetes");
        command.env("SECRET_TTL", format!("{}s", ttl.as_secs())).env("TRUST_DOMAIN", "cluster.local");
        command
    }

    /// Starts the agent and waits for its socket.
    pub(crate) fn start(&self, istiod_port: u16, ttl: Duration) -> Agent {
        let config_map = ["--root-config-map", MESH_ROOTS, "--namespace", &self.account.namespace];
        self.start_with(istiod_port, ttl, &config_map)
    }

    /// The same with its roots from where these flags say.
    pub(crate) fn start_with(&self, istiod_port: u16, ttl: Duration, roots: &[&str]) -> Agent {
        self.start_by(self.command(istiod_port, ttl, roots))
    }

    /// The same of a cluster that istiod may call otherwise, as its variable and these flags say.
    pub(crate) fn start_in(&self, cluster: &str, istiod_port: u16, flags: &[&str]) -> Agent {
        let config_map = ["--root-config-map", MESH_ROOTS, "--namespace", &self.account.namespace];
        let mut command = self.command(istiod_port, Duration::from_secs(3600), &config_map);
        command.args(flags).env("ISTIO_META_CLUSTER_ID", cluster);
        self.start_by(command)
    }

    fn start_by(&self, mut command: Command) -> Agent {
        let (socket, admin_port) = (self.folder.join("agent.sock"), free_port());
        command.arg("--socket").arg(&socket).arg("--admin-listen").arg(loopback(admin_port).to_string());
        let agent = Agent { process: Process::start("agent", &self.folder, &mut command), socket, admin_port };
        wait_until(START, "the socket", || if agent.socket.exists() { Ok(()) } else { Err("no such file") });
        agent
    }
}

impl Agent {
    /// What a client of the Workload API gets, at once.
    pub(crate) fn served(&self) -> Result<Served, String> {
        served(&self.socket)
    }

    /// Waits for an SVID other than the one with this serial.
    pub(crate) fn wait_for_another(&self, serial: &str, within: Duration) -> Served {
        wait_until(within, "another SVID", || match self.served() {
            Ok(served) if served.leaf.serial().to_string() != serial => Ok(served),
            other => Err(format!("{:?}; {}", other.map(|served| served.leaf.serial().to_string()), self.readiness())),
        })
    }

    /// The page of `/readyz`, also of one that is not ready.
    pub(crate) fn readiness(&self) -> String {
        http::get(loopback(self.admin_port), "/readyz").unwrap_or_else(|other| other)
    }

    /// Waits until the page of `/readyz` has this in it.
    pub(crate) fn wait_for_readiness(&self, text: &str, within: Duration) {
        wait_until(within, "readiness", || {
            let page = self.readiness();
            if page.contains(text) { Ok(()) } else { Err(page) }
        });
    }

    /// How many renewals have failed.
    pub(crate) fn failures(&self) -> u64 {
        let page = http::get(loopback(self.admin_port), "/metrics").unwrap();
        let start = "countersign_svid_renewals_total{outcome=\"failed\"} ";
        page.lines().find_map(|line| line.strip_prefix(start)?.parse().ok()).expect("a count of failed renewals")
    }

    /// How often it has logged an event.
    pub(crate) fn said(&self, event: &str) -> usize {
        self.process.errors().matches(&format!("event=\"{event}\"")).count()
    }
}

/// What a client of the Workload API gets at that socket, at once.
pub(crate) fn served(socket: &Path) -> Result<Served, String> {
    let socket = format!("unix:{}", socket.display());
    block_on(async {
        let asked = async {
            let client = WorkloadApiClient::connect_to(socket).await?;
            client.fetch_x509_context().await
        };
        let context = tokio::time::timeout(Duration::from_secs(1), asked).await.map_err(|_elapsed| "nothing")?;
        let context = context.map_err(|error| format!("{error:?}"))?;
        let svid = context.default_svid().ok_or("no SVID")?;
        assert_eq!(svid.spiffe_id().to_string(), ID);
        let bundle = context.bundle_set().get(&TrustDomain::new("cluster.local").unwrap()).ok_or("no bundle")?;
        let certificate = |der: &[u8]| Certificate::from_der(der).unwrap();
        Ok(Served {
            leaf: certificate(svid.cert_chain()[0].as_bytes()),
            bundle: bundle.authorities().iter().map(|root| certificate(root.as_bytes())).collect(),
        })
    })
}

/// Fails unless all that the agent asked the API server for was that one kind of object, and all of it was allowed since `ready`,
/// RFC 3339: an API server that has only just started may refuse what it will allow.
pub(crate) fn check_requests(cluster: &Cluster, kind: &str, ready: &str) {
    let user = "system:serviceaccount:default:gateway";
    let requests = cluster.requests();
    let own: Vec<_> = requests.iter().filter(|request| request.user == user).collect();
    assert!(own.len() > 1, "{own:?}");
    let is_fine =
        |verb: &str, resource: &str, denied: bool| ["list", "watch"].contains(&verb) && resource == kind && !denied;
    let wrong: Vec<_> = own
        .iter()
        .filter(|request| !is_fine(&request.verb, &request.resource, request.denied && *request.received >= *ready))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    println!("{} requests of the agent to the API server", own.len());
}

/// The name that pilot-agent takes a CA at localhost for, which the agent does too.
pub(crate) const SERVER_NAME: &str = istiod::SERVER_NAME;
