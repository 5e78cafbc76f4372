//! What the active keeps in a real cluster for gateways of the Gateway API: with the shipped rights, through hand edits, foreign
//! policies, kinds that come late or old, and a change of the active.

mod clusters;
mod events;
mod gate;
mod hands;
mod labels;
pub(crate) mod objects;
mod one_namespace;
mod outages;
mod probes;
mod take_over;
mod versions;
mod webhook;

use std::{net::SocketAddr, time::Duration};

use kube::Client;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::runtime::{Builder, Runtime};

use self::objects::{GATEWAY_API, SERVICE, TEAM};
use crate::{
    cluster::{AuditedRequest, Cluster, block_on},
    disturbed::proxy::Proxy,
    network::{Host, Network},
    pair::{
        NAMESPACE, TRUST_DOMAIN, install,
        replica::{Planned, Replica},
        shipped,
    },
    support::{
        authority::{Authority, CaDir, Kind},
        http,
        peer::peer_file,
        wait::wait_until,
    },
};

/// From a change to what the active makes of it.
const SOON: Duration = Duration::from_secs(1);
/// The same where a kind must be noticed first, or a replica become active.
const LATER: Duration = Duration::from_secs(40);
/// Of Service `backend`.
const POLICY: &str = "countersign-backend";

/// Replicas below the mesh's root, and an API server.
struct Stage {
    replicas: Vec<Replica>,
    cluster: Cluster,
    client: Client,
    /// Between the replicas and the API server, where that may be disturbed.
    proxy: Option<Proxy>,
    /// On which the client and the proxy live.
    runtime: Runtime,
    /// Of the mesh.
    root: Authority,
    _network: Network,
    _ca: CaDir,
}

impl Stage {
    /// Starts them and waits until they are ready; `prepare` is done before.
    fn start(network: Network, names: &[&str], prepare: impl FnOnce(&Cluster)) -> Self {
        Self::start_behind(None, network, names, prepare)
    }

    /// The same with a proxy at the first place, if there is one, before the API server.
    fn start_behind(
        proxy: Option<SocketAddr>,
        mut network: Network,
        names: &[&str],
        prepare: impl FnOnce(&Cluster),
    ) -> Self {
        let cluster = Cluster::start_at(&network.host("api").place(), &[]);
        let account = block_on(async {
            let account = install(&cluster).await;
            for rights in ["rbac-policy.yaml", "rbac-policy-objects.yaml"] {
                cluster.apply_file(&shipped(rights)).await;
            }
            account
        });
        prepare(&cluster);
        let root = Authority::root("mesh");
        let ca = CaDir::mounted(&root.below("countersign", Kind::P256).cacerts(&root.certificate));
        let flags = ["--mesh-trust-domain", TRUST_DOMAIN, "--ca-dir", ca.path().to_str().unwrap()];
        let flags = [&flags[..], &["--policy", "true", "--policy-objects", "true"]].concat();
        let hosts: Vec<Host> = names.iter().map(|name| network.host(name)).collect();
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let proxy = proxy.map(|place| Proxy::start_at(place, &cluster, &runtime));
        let server = proxy.as_ref().map_or_else(|| cluster.url(), |proxy| format!("http://{}", proxy.address));
        let plan =
            |(name, host): (&&str, Host)| Planned::by_way_of(&server, name, &cluster, &account, host, &flags).start();
        let replicas: Vec<Replica> = names.iter().zip(hosts).map(plan).collect();
        replicas.iter().for_each(Replica::wait_until_ready);
        let client = runtime.block_on(async { cluster.admin() });
        Self { replicas, cluster, client, proxy, runtime, root, _network: network, _ca: ca }
    }

    /// One replica in a cluster with everything that gateways need, Envoy Gateway's and other ones' kinds included.
    fn complete(network: Network) -> Self {
        Self::complete_behind(None, network)
    }

    /// The same behind a proxy.
    fn disturbed(network: Network) -> Self {
        Self::complete_behind(Some((network.address(), 0).into()), network)
    }

    fn complete_behind(proxy: Option<SocketAddr>, network: Network) -> Self {
        let stage = Self::start_behind(proxy, network, &["a"], |cluster| {
            block_on(async {
                install_kinds(cluster).await;
                objects::make_envoy_gateway(cluster).await;
                objects::make_team(cluster).await;
            });
        });
        stage.replicas[0].wait_until_active(LATER);
        stage
    }

    fn client(&self) -> Client {
        self.client.clone()
    }

    fn on<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// Every write of a replica into objects that are kept for gateways, as it was asked for.
    fn writes(&self) -> Vec<AuditedRequest> {
        let kinds = ["backendtlspolicies", "secrets", "configmaps"];
        let requests = self.cluster.requests().into_iter().filter(|request| {
            let is_ours = request.user == format!("system:serviceaccount:{NAMESPACE}:countersign");
            let is_write = ["create", "update", "patch", "delete"].contains(&&*request.verb);
            is_ours && is_write && kinds.contains(&&*request.resource) && request.name != "countersign-root-cert"
        });
        requests.filter(|request| request.namespace != NAMESPACE).collect()
    }

    fn check_nothing_was_refused(&self) {
        let denied: Vec<_> = self.cluster.requests().into_iter().filter(|request| request.denied).collect();
        assert!(denied.is_empty(), "{denied:#?}");
    }

    /// What `/readyz` of a replica says of the objects, until it says `text`.
    fn wait_until_said(&self, replica: usize, text: &str) {
        wait_until(Duration::from_secs(5), text, || {
            let ready = http::get(self.replicas[replica].admin(), "/readyz")?;
            if ready.contains(text) { Ok(()) } else { Err(ready) }
        });
    }

    /// Waits until half a minute of the API server's time has passed, which the replicas' own requests show.
    fn let_half_a_minute_pass(&self) {
        let at = |request: &AuditedRequest| OffsetDateTime::parse(&request.received, &Rfc3339).unwrap();
        let last = || self.cluster.requests().iter().map(at).max().unwrap();
        let begin = last();
        wait_until(Duration::from_secs(60), "half a minute", || {
            let passed = last() - begin;
            if passed.whole_seconds() >= 31 { Ok(()) } else { Err(format!("{passed}")) }
        });
    }
}

/// The Gateway API's kinds and Envoy Gateway's. Waits until they are served.
pub(crate) async fn install_kinds(cluster: &Cluster) {
    for file in ["gateway-crds.yaml", "envoy-gateway-crds.yaml"] {
        cluster.apply_file(&peer_file(file)).await;
    }
    objects::wait_until_served(
        cluster,
        &[
            objects::kind(GATEWAY_API, "v1", "BackendTLSPolicy", "backendtlspolicies"),
            objects::kind("gateway.envoyproxy.io", "v1alpha1", "EnvoyProxy", "envoyproxies"),
        ],
    )
    .await;
}

/// The policy of the Service is there, and the Secret that it names.
fn is_complete(stage: &Stage) -> Result<(), String> {
    stage.on(async {
        let client = stage.client();
        let policy = objects::get(&client, TEAM, POLICY).await.ok_or("no policy")?;
        let refs = &policy.data["spec"]["validation"]["caCertificateRefs"][0];
        let secret = objects::secret(&client, TEAM, POLICY).await.ok_or("no Secret")?;
        let text = |key: &str| secret.data.as_ref().and_then(|data| String::from_utf8(data.get(key)?.0.clone()).ok());
        let is_right = refs["kind"] == "Secret"
            && refs["name"] == POLICY
            && policy.data["spec"]["targetRefs"][0]["name"] == SERVICE
            && policy.data["spec"]["validation"].get("subjectAltNames").is_none()
            && secret.type_.as_deref() == Some("gateway.envoyproxy.io/sds")
            && text("url").as_deref() == Some("unix:///var/run/countersign/workload.sock")
            && text("secretName").as_deref() == Some("validation/test-infra/backend");
        if is_right { Ok(()) } else { Err(format!("{:?} {secret:?}", policy.data)) }
    })
}

/// Nothing of ours is there.
fn is_empty(stage: &Stage) -> Result<(), String> {
    stage.on(async {
        let client = stage.client();
        let left = [
            objects::get(&client, TEAM, POLICY).await.map(|found| format!("{found:?}")),
            objects::secret(&client, TEAM, POLICY).await.map(|found| format!("{found:?}")),
            objects::roots(&client, TEAM).await.map(|found| format!("{found:?}")),
        ];
        let left: Vec<String> = left.into_iter().flatten().collect();
        if left.is_empty() { Ok(()) } else { Err(left.join("; ")) }
    })
}
