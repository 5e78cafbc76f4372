//! Envoy Gateway itself, fed by the API server, with the agent beside its Envoy as `countersign render gateway` puts it there, before
//! Services of a mesh.

pub(crate) mod backend;
mod classes;
mod controller;
mod file_system;
mod grpc;
mod kubelet;
mod live;
mod load;
mod objects;
mod others;
mod replicas;
mod scale;
mod sidecar;
mod states;
mod traffic;

use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::Deployment;
use kube::{
    Api,
    api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, Patch, PatchParams},
};
use serde_json::{Value, json};

use self::{
    backend::{App, Backend, Class, Mode},
    controller::Controller,
    kubelet::GatewayPod,
};
use crate::{
    cluster::{Cluster, block_on},
    network::{Host, Network},
    pair::{
        TRUST_DOMAIN, install,
        replica::{Planned, Replica},
        shipped,
    },
    support::{
        authority::{Authority, CaDir, Kind},
        countersign::countersign,
        http,
        wait::wait_until,
    },
};

/// The Gateway, which is in a namespace of the same name.
const GATEWAY: &str = "gw";
/// Its Envoy's port, of 80.
const HTTP_PORT: u16 = 10080;
/// Of the agent's probes and metrics.
const AGENT_PORT: u16 = 15020;
/// Where the Services are.
const TEAM: &str = "test-infra";
/// By which the agent knows the replica, as in a cluster.
const PAIR: &str = "countersign.countersign.svc";
const POLICIES: Duration = Duration::from_secs(20);
/// From a label to the first request with mutual TLS, and to what is said.
const EFFECT: Duration = Duration::from_secs(1);
/// Pods of a Service that come to run as another account.
const ROLLED_OUT: usize = 100;

/// All of it, ready.
struct Place {
    pod: GatewayPod,
    replica: Replica,
    /// More of them.
    others: Vec<Replica>,
    /// Below the mesh's root.
    mesh: Authority,
    controller: Controller,
    cluster: Cluster,
    network: Network,
    _ca: CaDir,
}

/// What `countersign render gateway` prints.
struct Rendered {
    documents: String,
    /// Objects that are to be applied by commands in the comments.
    additions: Vec<String>,
    identity: String,
}

/// What a user of a pair that signs by the mesh's root has to choose.
const CHOICE: [&str; 8] = [
    "--image",
    "countersign",
    "--trust-domain",
    TRUST_DOMAIN,
    "--root-config-map",
    "countersign-root-cert",
    "--ca-address",
    "countersign.countersign.svc:15012",
];

fn render(flags: &[&str]) -> Rendered {
    let output = countersign().args(["render", "gateway", "gw/gw"]).args(CHOICE).args(flags).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let documents = String::from_utf8(output.stdout).unwrap();
    let additions = documents.lines().filter_map(|line| line.strip_prefix("# echo '")?.split('\'').next());
    let identity = documents.lines().find_map(|line| line.split_once("--gateway-identity ")).unwrap().1;
    Rendered { additions: additions.map(str::to_owned).collect(), identity: identity.to_owned(), documents }
}

/// As the commands in the comments do it.
fn adding() -> PatchParams {
    PatchParams::apply("countersign-render")
}

impl Rendered {
    async fn apply(&self, cluster: &Cluster) {
        cluster.apply(&self.documents).await;
        for addition in &self.additions {
            cluster.apply_with(addition, &adding()).await.unwrap();
        }
    }
}

/// An API server with Envoy Gateway on it, and a Gateway.
fn controller(network: &mut Network) -> (Cluster, Controller) {
    let cluster = Cluster::start_at(&network.host("api").place(), &[]);
    let controller = Controller::start(&cluster, network.host("envoy-gateway"));
    block_on(async {
        kubelet::write_api_roots(&cluster).await;
        cluster.apply(&objects::namespace(GATEWAY, None)).await;
        cluster.apply(objects::GATEWAY).await;
    });
    (cluster, controller)
}

/// That of the Gateway, with the agent in it.
fn deployment(cluster: &Cluster) -> Deployment {
    kubelet::deployment(cluster, GATEWAY, |spec| match &spec.init_containers {
        Some(containers) if !containers.is_empty() => Ok(()),
        other => Err(format!("init containers: {other:?}")),
    })
}

impl Place {
    /// One in which policies are written by hand.
    fn start(network: Network) -> Self {
        Self::start_with(network, &[])
    }

    /// One in which the replica writes them.
    fn with_objects(network: Network) -> Self {
        Self::start_with(network, &["--policy-objects", "true"])
    }

    fn start_with(network: Network, flags: &[&str]) -> Self {
        Self::start_of(&["a"], network, flags)
    }

    /// One with several replicas.
    fn start_of(names: &[&str], mut network: Network, flags: &[&str]) -> Self {
        let (cluster, controller) = controller(&mut network);
        let rendered = render(&[]);
        // below the mesh's root: else the trust domain could not be the mesh's
        let root = Authority::root("mesh");
        let ca = CaDir::mounted(&root.below("countersign", Kind::P256).cacerts(&root.certificate));
        let hosts: Vec<Host> = names.iter().map(|name| network.host(name)).collect();
        network.resolve(PAIR, &hosts.iter().collect::<Vec<_>>());
        let mut others = replicas(&cluster, hosts, &ca, &rendered.identity, flags);
        others.iter().for_each(Replica::wait_until_ready);
        let replica = others.remove(0);
        block_on(rendered.apply(&cluster));
        let deployment = deployment(&cluster);
        let pod = GatewayPod::start("gw-0", network.host("gateway"), &cluster, &controller, &deployment);
        Self { pod, replica, others, mesh: root.below("istiod", Kind::P256), controller, cluster, network, _ca: ca }
    }

    /// A request on a connection of its own.
    fn get(&self, host: &str) -> Result<String, String> {
        http::get_of(self.pod.at(HTTP_PORT), host, "/")
    }

    fn apply(&self, yaml: &str) {
        block_on(self.cluster.apply(yaml));
    }

    /// What `countersign policy` says.
    fn policy(&self, arguments: &[&str]) -> String {
        let output = countersign().arg("policy").args(arguments).arg("--data-dir").arg(self.replica.data()).output();
        let output = output.unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Waits until `countersign policy explain` says so of the Services' namespace.
    fn wait_until_explained(&self, reason: &str, within: Duration) {
        wait_until(within, reason, || {
            let said = self.policy(&["explain", TEAM]);
            if said.contains(reason) { Ok(()) } else { Err(said) }
        });
    }

    /// Sets the names that the gateway offers, or leaves them to Envoy.
    fn set_alpn(&self, alpn: Option<[&str; 2]>) {
        let kind = GroupVersionKind::gvk("gateway.envoyproxy.io", "v1alpha1", "EnvoyProxy");
        let resource = ApiResource::from_gvk(&kind);
        let all = || Api::<DynamicObject>::namespaced_with(self.cluster.admin(), GATEWAY, &resource);
        let patch: Patch<Value> = Patch::Merge(json!({ "spec": { "backendTLS": { "alpnProtocols": alpn } } }));
        block_on(async { all().patch("countersign", &PatchParams::default(), &patch).await.map(drop) }).unwrap();
    }

    /// How many writes of policies the API server has taken from the replica.
    fn policy_writes(&self) -> usize {
        let requests = self.cluster.requests().into_iter();
        let writes = requests.filter(|request| {
            request.resource == "backendtlspolicies"
                && ["create", "update", "patch", "delete"].contains(&&*request.verb)
                && request.user.ends_with(":countersign")
        });
        writes.count()
    }

    /// A pod that has a certificate for the account.
    fn backend(&mut self, name: &str, account: &str, kind: (Mode, Class, App)) -> Backend {
        let host = self.network.host(name);
        Backend::start(name, host, self.cluster.folder(), &self.mesh, (TEAM, account), kind)
    }

    /// Takes an object of namespace [`TEAM`] away.
    fn delete(&self, api: (&str, &str, &str), name: &str) {
        let (group, version, kind) = api;
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
        let objects = || Api::<DynamicObject>::namespaced_with(self.cluster.admin(), TEAM, &resource);
        block_on(async { objects().delete(name, &DeleteParams::default().grace_period(0)).await.map(drop) }).unwrap();
    }

    /// Waits for the first answer that is as wanted.
    fn wait_for(&self, what: &str, host: &str, within: Duration, is_so: impl Fn(&Result<String, String>) -> bool) {
        let begin = Instant::now();
        wait_until(within, what, || match self.get(host) {
            answer if is_so(&answer) => Ok(()),
            other => Err(format!("{other:?}\n{}", self.pod.log())),
        });
        println!("{what} after {:?}", begin.elapsed());
    }

    /// Waits until the agent knows that many Services.
    fn wait_for_services(&self, count: usize) {
        wait_until(POLICIES, "Services at the agent", || match self.services()? {
            Some(known) if known == count.to_string() => Ok(()),
            other => Err(format!("{other:?} of {count}")),
        });
    }

    fn services(&self) -> Result<Option<String>, String> {
        let metrics = http::get(self.pod.at(AGENT_PORT), "/metrics")?;
        let services = metrics.lines().find_map(|line| line.strip_prefix("countersign_policy_services{}"));
        Ok(services.map(|count| count.trim().to_owned()))
    }
}

fn replicas(cluster: &Cluster, hosts: Vec<Host>, ca: &CaDir, gateway: &str, flags: &[&str]) -> Vec<Replica> {
    let account = block_on(async {
        let account = install(cluster).await;
        for rights in ["rbac-policy.yaml", "rbac-policy-objects.yaml"] {
            cluster.apply_file(&shipped(rights)).await;
        }
        account
    });
    let ca = ca.path().to_str().unwrap();
    let own = ["--policy", "true", "--gateway-identity", gateway, "--mesh-trust-domain", TRUST_DOMAIN, "--ca-dir", ca];
    let flags = [&own[..], flags].concat();
    let plan = |(number, host)| Planned::new(&format!("replica-{number}"), cluster, &account, host, &flags).start();
    hosts.into_iter().enumerate().map(plan).collect()
}
