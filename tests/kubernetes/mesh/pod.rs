//! A pod with a sidecar: a network namespace, in it a service and an Envoy that istiod configures by way of pilot-agent.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use k8s_openapi::api::core::v1::Pod as PodObject;
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

use super::access_log::{self, AccessLog};
use crate::{
    cluster::{Account, Cluster, block_on},
    envoy::Secrets,
    istio::pilot_agent,
    network::Host,
    support::{
        http::{self, free_port},
        peer::{peer, peer_path},
        process::Process,
        sidecar::{self, Proxy, ROOTS, write_proxy},
        wait::wait_until,
    },
};

/// Of the service.
const PORT: u16 = 8080;
/// Where it is reached as well.
pub(crate) const SECOND_PORT: u16 = 8081;
/// Not redirected, as everywhere with Istio.
const ADMIN: u16 = 15000;
const START: Duration = Duration::from_secs(40);

/// All inbound connections go to the sidecar, but for those to its own ports.
const REDIRECT: &str = "\
table ip sidecar {
    chain inbound {
        type nat hook prerouting priority dstnat
        tcp dport != { 15000, 15006, 15008, 15020, 15021, 15090 } redirect to :15006
    }
}
";

/// What its sidecar is pointed at, and what it asks for.
pub(crate) struct Wanted<'a> {
    /// `HOST:PORT` of istiod, which is its CA as well.
    pub(crate) istiod: &'a str,
    pub(crate) roots: &'a str,
    pub(crate) ttl: Duration,
    /// What the mesh has in the environment of its sidecars.
    pub(crate) metadata: Vec<(String, String)>,
    /// Who answers for its service, if it is a server of gRPC elsewhere and not itself.
    pub(crate) grpc: Option<SocketAddr>,
}

/// A running pod.
pub(crate) struct Pod {
    sidecar: Process,
    _service: Process,
    command: Command,
    host: Host,
    account: Account,
    name: String,
    folder: PathBuf,
}

impl Pod {
    /// Starts one with label `app: NAME` and waits until its sidecar listens.
    pub(crate) fn start(name: &str, host: Host, cluster: &Cluster, account: &Account, wanted: &Wanted<'_>) -> Self {
        let folder = cluster.folder().join(format!("pod-{name}"));
        fs::create_dir_all(&folder).unwrap();
        set_rules(&host, &folder, REDIRECT);
        block_on(write_object(cluster, account, name, host.address(), true));
        let service = start_service(name, &host, &folder, wanted.grpc);

        let mut words = host.enter();
        words.push(peer_path("envoy").display().to_string());
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let proxy = Proxy {
            executable: write_proxy(&folder, &words),
            bootstrap: bootstrap(host.address()),
            address: host.address(),
            admin_port: ADMIN,
            status_port: free_port(),
        };
        let asked = sidecar::Wanted { ca: wanted.istiod, istiod: wanted.istiod, roots: wanted.roots, ttl: wanted.ttl };
        let mut command = pilot_agent::command(name, &folder, cluster, account, &asked, &proxy);
        command.envs(wanted.metadata.iter().cloned());
        let sidecar = Process::start("sidecar", &folder, &mut command);
        let (name, account) = (name.to_owned(), account.clone());
        let mut pod = Self { sidecar, _service: service, command, host, account, name, folder };
        pod.wait_for_the_sidecar();
        pod
    }

    /// Starts its sidecar anew, with certificates of another lifetime from now on. Every connection breaks.
    pub(crate) fn restart_sidecar(&mut self, ttl: Duration) {
        self.sidecar.kill();
        self.command.env("SECRET_TTL", format!("{}s", ttl.as_secs()));
        self.sidecar = Process::start("sidecar", &self.folder, &mut self.command);
        self.wait_for_the_sidecar();
    }

    /// From now on it is another one of that name, and was made before anything was injected: its service is reached itself.
    pub(crate) fn lose_sidecar(&mut self, cluster: &Cluster) {
        self.sidecar.kill();
        set_rules(&self.host, &self.folder, "delete table ip sidecar");
        block_on(async {
            let pods: Api<PodObject> = cluster.pods(&self.account.namespace);
            pods.delete(&self.name, &DeleteParams::default().grace_period(0)).await.unwrap();
            write_object(cluster, &self.account, &self.name, self.host.address(), false).await;
        });
    }

    fn wait_for_the_sidecar(&mut self) {
        wait_until(START, &format!("the listeners of the sidecar of {}", self.name), || {
            assert_eq!(self.sidecar.ended(), None, "the sidecar of {} does not run", self.name);
            let listeners = http::get((self.host.address(), ADMIN).into(), "/listeners")?;
            if listeners.contains("virtualInbound") { Ok(()) } else { Err(format!("only {listeners:?}")) }
        });
    }

    /// Where clients reach its service, by way of the sidecar.
    pub(crate) fn service(&self) -> SocketAddr {
        service_at(&self.host)
    }

    /// The same at the other port.
    pub(crate) fn second(&self) -> SocketAddr {
        (self.host.address(), SECOND_PORT).into()
    }

    /// What its sidecar saw of its callers.
    pub(crate) fn log(&self) -> AccessLog {
        AccessLog::at(self.folder.join("access.log"))
    }

    /// What the service behind the sidecar was told of them.
    pub(crate) fn service_log(&self) -> AccessLog {
        AccessLog::at(self.folder.join(SERVICE_LOG))
    }

    /// What its sidecar holds by SDS.
    pub(crate) fn secrets(&self) -> Result<Secrets, String> {
        Secrets::of((self.host.address(), ADMIN).into())
    }

    /// Replaces the mounted roots.
    pub(crate) fn deliver_roots(&self, roots: &str) {
        let (path, new) = (self.folder.join(ROOTS), self.folder.join("roots.new"));
        fs::write(&new, roots).unwrap();
        fs::rename(new, path).unwrap();
    }
}

/// Where clients reach the service of the pod that `host` is, or will be.
pub(crate) fn service_at(host: &Host) -> SocketAddr {
    (host.address(), PORT).into()
}

const SERVICE_LOG: &str = "service.log";

fn set_rules(host: &Host, folder: &Path, text: &str) {
    let rules = folder.join("rules.nft");
    fs::write(&rules, text).unwrap();
    let output = host.command(Command::new("nft").arg("--file").arg(rules)).output().unwrap();
    assert!(output.status.success(), "nft, of nftables: {}", String::from_utf8_lossy(&output.stderr));
}

/// Its object as the scheduler and the kubelet would have written it. Its own containers' readiness is said, and its address.
async fn write_object(cluster: &Cluster, account: &Account, name: &str, address: Ipv4Addr, is_injected: bool) {
    let pods: Api<PodObject> = cluster.pods(&account.namespace);
    let (labels, annotations) = if is_injected {
        (json!({"app": name, "security.istio.io/tlsMode": "istio"}), json!({"sidecar.istio.io/status": "{}"}))
    } else {
        (json!({"app": name}), json!({}))
    };
    let object = json!({
        "metadata": {"name": name, "labels": labels, "annotations": annotations},
        "spec": {"serviceAccountName": account.name, "containers": [{"name": "main", "image": "none"}]},
    });
    pods.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap();
    let status = json!({"status": {
        "phase": "Running",
        "podIP": address,
        "podIPs": [{"ip": address}],
        "conditions": [{"type": "Ready", "status": "True"}],
    }});
    pods.patch_status(name, &PatchParams::default(), &Patch::Merge(&status)).await.unwrap();
}

/// The service itself: an Envoy that answers, or has `grpc` answer, and knows nothing of TLS.
fn start_service(name: &str, host: &Host, folder: &Path, grpc: Option<SocketAddr>) -> Process {
    const TYPES: &str = "type.googleapis.com/envoy.extensions.filters";
    let mut route = json!({"match": {"prefix": "/"}});
    match grpc {
        Some(_) => route["route"] = json!({"cluster": "grpc", "timeout": "0s"}),
        None => route["direct_response"] = json!({"status": 200, "body": {"inline_string": name}}),
    }
    let clusters: Vec<Value> = grpc.into_iter().map(grpc_cluster).collect();
    let filter = json!({"name": "http", "typed_config": {
        "@type": format!("{TYPES}.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "http",
        "forward_client_cert_details": "ALWAYS_FORWARD_ONLY",
        "access_log": access_log::to_file(&folder.join(SERVICE_LOG), &access_log::service_fields()),
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": [{"name": "router", "typed_config": {"@type": format!("{TYPES}.http.router.v3.Router")}}],
    }});
    let listeners = [PORT, SECOND_PORT].map(|port| {
        json!({
            "address": {"socket_address": {"address": host.address(), "port_value": port}},
            "filter_chains": [{"filters": [filter]}],
        })
    });
    let config = json!({"static_resources": {"listeners": listeners, "clusters": clusters}});
    let path = folder.join("service.json");
    fs::write(&path, config.to_string()).unwrap();
    let mut command = peer("envoy");
    command.arg("--config-path").arg(path).args(["--disable-hot-restart", "--concurrency", "1"]);
    command.args(["--log-level", "warning", "--file-flush-interval-msec", "100"]);
    Process::start(&format!("service-{name}"), folder, &mut host.command(&command))
}

fn grpc_cluster(server: SocketAddr) -> Value {
    const OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    let address = json!({"socket_address": {"address": server.ip(), "port_value": server.port()}});
    json!({
        "name": "grpc", "type": "STATIC", "connect_timeout": "2s",
        "load_assignment": {"cluster_name": "grpc", "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}]},
        "typed_extension_protocol_options": {OPTIONS: {
            "@type": format!("type.googleapis.com/{OPTIONS}"),
            "explicit_http_config": {"http2_protocol_options": {}},
        }},
    })
}

/// That of a proxy which has its listeners from istiod as well, and an admin port that the test reaches.
fn bootstrap(address: Ipv4Addr) -> String {
    let clusters = "\"cds_config\"";
    let listeners = r#""lds_config": {"ads": {}, "initial_fetch_timeout": "0s", "resource_api_version": "V3"}, "#;
    let with_listeners = pilot_agent::BOOTSTRAP.replace(clusters, &format!("{listeners}{clusters}"));
    with_listeners.replace("127.0.0.1", &address.to_string())
}
