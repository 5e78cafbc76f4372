//! A mesh of Istio's own parts, and a gateway outside it: istiod on the real API server, pilot-agent driving a real Envoy as the
//! sidecar of a pod, and before it an Envoy that has its identity from our socket.
//!
//! Upstream Envoy lacks Istio's own filters, which an EnvoyFilter takes out; listeners, filter chains, TLS and clusters come live
//! from istiod. The pod is a network namespace whose inbound connections are redirected to the sidecar, as Istio does it.

pub(crate) mod access_log;
mod agent;
pub(crate) mod control_plane;
pub(crate) mod gateway;
mod instead;
mod order;
pub(crate) mod pair;
pub(crate) mod pod;
pub(crate) mod roots;
mod secret;
mod socket;
mod strict;
pub(crate) mod traffic;

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use self::{
    agent::Agent,
    control_plane::ControlPlane,
    gateway::{Expected, Gateway},
    pod::Pod,
};
use crate::{
    cluster::{self, Account, Cluster, TokenFor, block_on},
    istio::objects::{MESH_ROOTS, roots_of},
    network::{Host, Network},
    pair::shipped,
    support::{authority::Authority, http, mount::Mount, wait::wait_until},
};

/// Of the service behind the gateway.
pub(crate) const BACKEND: &str = "spiffe://cluster.local/ns/prod/sa/backend";
/// Of the gateway.
pub(crate) const GATEWAY: &str = "spiffe://cluster.local/ns/default/sa/gateway";
const APPS: &str = "prod";
const GATEWAYS: &str = "default";
const ROOT_FILE: &str = "root-cert.pem";

/// Envoy gives up waiting for a secret after 15 s, and only then listens.
const WARM_UP: Duration = Duration::from_secs(20);
/// A sidecar has its certificate and its listeners.
const SIDECAR: Duration = Duration::from_secs(30);

/// Takes out what only Istio's own Envoy has, and the clusters that would need it.
pub(crate) const UPSTREAM_ENVOY: &str = include_str!("mesh/upstream_envoy.yaml");
const SERVICE: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: backend, namespace: prod}
spec:
  selector: {app: backend}
  ports: [{name: http, port: 80, targetPort: 8080}]
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: prod}
spec: {mtls: {mode: STRICT}}
"#;

/// All of it, ready: istiod, and one service with a sidecar that takes nothing but mutual TLS.
pub(crate) struct Mesh {
    pub(crate) backend: Pod,
    pub(crate) control_plane: ControlPlane,
    pub(crate) place: Place,
}

/// What is there before a mesh is: the API server, and the gateway's account.
pub(crate) struct Place {
    gateway: Account,
    pub(crate) cluster: Cluster,
    pub(crate) network: Network,
}

/// How an agent has the mesh's roots.
#[derive(Clone, Copy)]
pub(crate) enum Roots<'a> {
    /// From the ConfigMap itself; the kubelet never delivers it.
    Watched,
    /// From its file here alone, when it is delivered.
    Mounted(&'a Mount),
}

impl Place {
    pub(crate) fn new(network: Network) -> Self {
        // on loopback it does not start: it looks for a way to others
        let here = cluster::Place { address: network.address().into(), enter: Vec::new() };
        let cluster = Cluster::start_at(&here, &[]);
        let gateway = block_on(async {
            cluster.apply_file(&shipped("rbac-agent.yaml")).await;
            cluster.account(GATEWAYS, "gateway").await
        });
        Self { gateway, cluster, network }
    }

    /// Makes a pod of the gateway: a file with its token.
    pub(crate) fn token_file(&self, pod: &str) -> PathBuf {
        let path = self.cluster.folder().join(format!("{pod}.token"));
        fs::write(&path, self.token(pod)).unwrap();
        path
    }

    fn token(&self, pod: &str) -> String {
        block_on(async {
            self.cluster.pod(&self.gateway, pod).await;
            let asked = TokenFor { audiences: &["istio-ca"], pod: Some(pod), ..TokenFor::default() };
            self.cluster.token(&self.gateway, &asked).await
        })
    }

    /// Delivers what ConfigMap `istio-ca-root-cert` of the gateway's namespace holds now, as a kubelet does: that.
    pub(crate) fn deliver_roots(&self, to: &Mount) -> String {
        let roots = roots_of(&self.cluster, GATEWAYS, MESH_ROOTS);
        to.swap([(ROOT_FILE, roots.as_bytes())]);
        roots
    }

    /// Starts our agent in a pod of the gateway. The CA in `flags` need not be there yet.
    pub(crate) fn agent_at(&self, name: &str, ttl: Duration, mut flags: Vec<String>, roots: Roots<'_>) -> Agent {
        let root_file = match roots {
            Roots::Mounted(mount) => mount.path().join(ROOT_FILE),
            Roots::Watched => {
                let kubeconfig = block_on(self.cluster.kubeconfig(&self.gateway)).display().to_string();
                let watched = ["--root-config-map", MESH_ROOTS, "--namespace", GATEWAYS, "--kubeconfig", &kubeconfig];
                flags.extend(watched.map(str::to_owned));
                self.cluster.folder().join("never-mounted.pem")
            }
        };
        Agent::start(name, self.cluster.folder(), &self.token_file(name), &root_file, ttl, &flags)
    }

    /// Starts an Envoy that calls `backend` with the identity it gets from `socket`.
    pub(crate) fn gateway(&self, name: &str, socket: &Path, backend: SocketAddr) -> Gateway {
        Gateway::start(name, self.cluster.folder(), socket, backend, &Expected::Id(BACKEND))
    }
}

impl Mesh {
    /// Starts all of it. `root` is the mesh's root, `ca` istiod's own below it.
    pub(crate) fn start(network: Network, root: &Authority, ca: &Authority, ttl: Duration) -> Self {
        let mut place = Place::new(network);
        let host = place.network.host("backend");
        let mut control_plane = ControlPlane::plan(&place.cluster, &ca.cacerts(&root.certificate));
        control_plane.install(&place.cluster);
        control_plane.start(&place.cluster);
        control_plane.wait_until_ready();
        Self::above(place, control_plane, host, ttl)
    }

    /// Starts the service of a mesh whose istiod is ready, on `host`. `ttl` is that of its sidecar's certificates.
    pub(crate) fn above(place: Place, control_plane: ControlPlane, host: Host, ttl: Duration) -> Self {
        let account = block_on(async {
            place.cluster.namespace_named(APPS, &[("istio-injection", "enabled")]).await;
            place.cluster.apply(UPSTREAM_ENVOY).await;
            place.cluster.apply(SERVICE).await;
            place.cluster.account(APPS, "backend").await
        });
        let roots = roots_of(&place.cluster, APPS, MESH_ROOTS);
        let (istiod, metadata) = (control_plane.name_and_port(), control_plane.proxy_metadata());
        let wanted = pod::Wanted { istiod: &istiod, roots: &roots, ttl, metadata, grpc: None };
        let backend = Pod::start("backend", host, &place.cluster, &account, &wanted);
        Self { backend, control_plane, place }
    }

    /// Starts our agent in a pod of the gateway, straight at istiod.
    pub(crate) fn agent(&self, name: &str, ttl: Duration) -> Agent {
        self.place.agent_at(name, ttl, self.control_plane.agent_flags(), Roots::Watched)
    }
}

/// Waits until a request comes through a gateway.
pub(crate) fn wait_until_through(gateway: &Gateway, within: Duration) {
    wait_until(within, "an answer by way of the gateway", || http::get(gateway.address, "/"));
}
