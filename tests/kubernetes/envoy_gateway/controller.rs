//! Envoy Gateway's own process, which reads the cluster and tells its Envoys what to do.

use std::{collections::BTreeMap, fs, net::SocketAddr, time::Duration};

use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::Api;
use serde_json::json;

use super::file_system::{FileSystem, write_all};
use crate::{
    cluster::{Cluster, block_on},
    network::Host,
    support::{
        http,
        peer::{peer, peer_file},
        process::Process,
        wait::wait_until,
    },
};

pub(super) const NAMESPACE: &str = "envoy-gateway-system";
const START: Duration = Duration::from_secs(60);
const HEALTH: u16 = 8081;

/// With leader election it would wait for a lease; its injector's webhook would have to be reached from the API server.
const CONFIG: &str = "\
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: EnvoyGateway
gateway: {controllerName: gateway.envoyproxy.io/gatewayclass-controller}
provider:
  type: Kubernetes
  kubernetes: {leaderElection: {disable: true}, proxyTopologyInjector: {disabled: true}}
extensionApis: {enableSDSSecretRef: true}
";

const CLASS: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: envoy}
spec: {controllerName: gateway.envoyproxy.io/gatewayclass-controller}
";

/// A running one, on a host of its own: it binds ports that can't be chosen.
pub(super) struct Controller {
    pub(super) process: Process,
    host: Host,
}

impl Controller {
    /// Installs its kinds of objects and its class, makes its keys, and starts it.
    pub(super) fn start(cluster: &Cluster, host: Host) -> Self {
        block_on(async {
            cluster.apply_file(&peer_file("gateway-crds.yaml")).await;
            cluster.apply_file(&peer_file("envoy-gateway-crds.yaml")).await;
            cluster.namespace_named(NAMESPACE, &[("countersign.io/root-cert", "true")]).await;
        });
        let folder = cluster.folder().join("envoy-gateway");
        let files = FileSystem::at(folder.clone());
        let mut keys = peer("envoy-gateway");
        keys.args(["certgen", "--disable-topology-injector"]).env("KUBECONFIG", cluster.admin_kubeconfig());
        keys.env("ENVOY_GATEWAY_NAMESPACE", NAMESPACE);
        Process::start("envoy-gateway-keys", cluster.folder(), &mut keys).wait_for_success(START);
        let own = secret(cluster, "envoy-gateway");
        write_all(&files.folder("/certs"), own.iter().map(|(name, content)| (name, content.0.as_slice())));

        let config = files.folder("/run").join("config.yaml");
        fs::write(&config, CONFIG).unwrap();
        let mut server = peer("envoy-gateway");
        server.args(["server", "--config-path", "/run/config.yaml"]).env("KUBECONFIG", cluster.admin_kubeconfig());
        server.env("ENVOY_GATEWAY_NAMESPACE", NAMESPACE);
        let process = Process::start("envoy-gateway", cluster.folder(), &mut host.command(&files.command(&server)));
        let health = SocketAddr::from((host.address(), HEALTH));
        wait_until(START, "Envoy Gateway ready", || http::get(health, "/readyz"));
        block_on(async {
            cluster.apply(CLASS).await;
            // where its chart has it, for whoever wants to know
            let config_map = json!({
                "apiVersion": "v1", "kind": "ConfigMap",
                "metadata": { "name": "envoy-gateway-config", "namespace": NAMESPACE },
                "data": { "envoy-gateway.yaml": CONFIG },
            });
            cluster.apply(&config_map.to_string()).await;
        });
        Self { process, host }
    }

    /// What its Envoys know it by is a name of the cluster; here it is an address.
    pub(super) fn reached_from(&self, bootstrap: &str) -> String {
        let name = format!("envoy-gateway.{NAMESPACE}.svc.cluster.local.");
        assert!(bootstrap.contains(&name), "no {name} in {bootstrap}");
        bootstrap.replace(&name, &self.host.address().to_string())
    }
}

/// The keys of a Secret in its namespace.
pub(super) fn secret(cluster: &Cluster, name: &str) -> BTreeMap<String, ByteString> {
    let secrets = || Api::<Secret>::namespaced(cluster.admin(), NAMESPACE);
    block_on(async { secrets().get(name).await }).unwrap().data.unwrap_or_default()
}
