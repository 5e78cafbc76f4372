//! A mesh of Istio's own parts and a trust domain of ours that believe each other: what istiod fetches from the bundle endpoint, by
//! `spiffeBundleUrl`, reaches a live sidecar, and goes on doing so whatever becomes of replicas and roots; and what istiod writes into
//! its ConfigMap reaches gateways, through the file that a kubelet mounts.

mod pair;
mod service;

use std::{cell::Cell, fs, time::Duration};

use serde_json::json;

use self::{
    pair::{Pair, TRUST_DOMAIN},
    service::Service,
};
use crate::{
    istio::objects::{MESH_ROOTS, roots_of},
    mesh::{
        BACKEND, Mesh, Place,
        control_plane::ControlPlane,
        gateway::{Expected, Gateway},
        roots::{RootSwap, serials},
        traffic::Traffic,
        wait_until_through,
    },
    network::{Network, in_own_network},
    support::{
        authority::{Authority, Kind},
        countersign::Agent,
        wait::wait_until,
    },
};

const GATEWAY: &str = "spiffe://gateways.example/ns/default/sa/gateway";
/// Of the sidecar's certificates.
const TTL: Duration = Duration::from_secs(3600);
/// The same where the mesh's root is replaced: the sidecar is signed for anew at half of it.
const SHORT_TTL: Duration = Duration::from_secs(8);
/// From a delivered file to what Envoy holds; it is read every 5 s.
const READ: Duration = Duration::from_secs(15);
/// From a change of the MeshConfig to what Envoy holds; istiod tries an endpoint for 10 s.
const FETCH: Duration = Duration::from_secs(30);
/// The longest that a step of a rotation waits: for three readings of the bundle endpoint by whoever reads it least often.
const GATE: Duration = Duration::from_secs(60);
/// Envoy gives up waiting for a secret after 15 s, and only then listens.
const WARM_UP: Duration = Duration::from_secs(20);
/// Said by istiod when it drops what an endpoint gave it before.
const GIVEN_UP: &str = "unable to fetch trust Anchors";

#[test]
fn a_mesh_follows_our_roots_through_a_rotation_whatever_becomes_of_the_endpoint() {
    in_own_network(
        "federation::a_mesh_follows_our_roots_through_a_rotation_whatever_becomes_of_the_endpoint",
        |network| {
            let root = Authority::root("mesh");
            let mut federated = Federated::start(network, &root, &root.below("istiod", Kind::P256), TTL);
            federated.wait_until_believed("the first root");
            let agent = federated.pair.agent("default/gateway");
            let gateway = federated.gateway(&agent);
            let traffic = Traffic::start(gateway.address);

            let first = federated.pair.authority("active");
            federated.pair.done(&["authority", "x509", "prepare"]);
            let next = federated.pair.authority("prepared");
            federated.fetch_while_the_active_is_killed();
            federated.fetch_while_nobody_is_active();
            traffic.check();

            let flapping = federated.service.flap();
            federated.take(&["activate", &next]);
            federated.fetch();
            federated.wait_until_believed("both roots, the endpoint flapping");
            federated.pair.done(&["authority", "x509", "taint", &first]);
            federated.take(&["revoke", &first]);
            federated.fetch();
            federated.wait_until_believed("the new root alone");
            drop(flapping);
            traffic.wait_for_more(100);

            let requests = traffic.check();
            let log = federated.mesh.backend.log();
            assert!(log.requests().iter().all(|request| request["peer"] == GATEWAY), "{:?}", log.requests().last());
            let serials = log.distinct(GATEWAY, "serial").len();
            assert!(serials > 4, "the sidecar saw {serials} certificates");
            println!(
                "{requests} requests, none failed; {serials} certificates; istiod fetched {} times",
                federated.fetched()
            );
        },
    );
}

#[test]
fn a_new_root_of_the_mesh_reaches_gateways_of_a_trust_domain_of_their_own_through_the_file_and_no_request_fails() {
    let name = "federation::a_new_root_of_the_mesh_reaches_gateways_of_a_trust_domain_of_their_own_through_the_file_and_no_request_fails";
    in_own_network(name, |network| {
        let mut swap = RootSwap::new();
        let federated = Federated::start(network, &swap.old, &swap.first, SHORT_TTL);
        federated.wait_until_believed("the mesh's first root");
        swap.beside = federated.pair.roots();
        let agent = federated.pair.agent("default/gateway");
        let gateway = federated.gateway(&agent);
        let traffic = Traffic::start(gateway.address);
        let delivered = Cell::new(0);
        let deliver = || {
            let place = &federated.mesh.place;
            let published = serials(&roots_of(&place.cluster, "prod", MESH_ROOTS));
            wait_until(FETCH, "the same roots in each namespace", || {
                let delivered = place.deliver_roots(&federated.pair.mesh_roots);
                if serials(&delivered) == published { Ok(()) } else { Err(delivered) }
            });
            wait_until(READ, "the mesh's roots at the gateway", || match serials(&gateway.secrets()?.roots) {
                found if found == published => Ok(()),
                found => Err(format!("{found:?}")),
            });
            delivered.set(delivered.get() + 1);
        };
        let followed = |step: &str| {
            traffic.wait_for_more(50);
            println!("{step}: {} requests, none failed", traffic.check());
        };
        swap.run(&federated.mesh, &[], deliver, followed);
        assert_eq!(delivered.get(), 3);
        let issuers = gateway.log().distinct(BACKEND, "issuer");
        assert!(issuers.len() == 2, "the gateway saw certificates of {issuers:?}");
    });
}

/// A mesh, a pair of another trust domain, and the address by which the one knows the other.
struct Federated {
    mesh: Mesh,
    pair: Pair,
    service: Service,
    mesh_root: String,
    fetches: usize,
}

impl Federated {
    /// `root` is the mesh's root, `ca` istiod's own below it, `ttl` that of the sidecar's certificates.
    fn start(network: Network, root: &Authority, ca: &Authority, ttl: Duration) -> Self {
        let web = Authority::root("web");
        let mut place = Place::new(network);
        let host = place.network.host("backend");
        let folder = place.cluster.folder().to_owned();
        let pair = Pair::start(&folder, &web);
        let service = Service::start(&pair.endpoints);
        let web_root = folder.join("web-root.pem");
        fs::write(&web_root, &web.certificate).unwrap();

        let mut istiod = ControlPlane::plan(&place.cluster, &ca.cacerts(&root.certificate));
        istiod.set_system_roots(&web_root);
        istiod.configure("defaultConfig", json!({"proxyMetadata": {"PROXY_CONFIG_XDS_AGENT": "true"}}));
        istiod.configure("caCertificates", ca_certificates(&service, 0));
        istiod.install(&place.cluster);
        istiod.start(&place.cluster);
        istiod.wait_until_ready();
        let mesh = Mesh::above(place, istiod, host, ttl);
        mesh.place.deliver_roots(&pair.mesh_roots);
        Self { mesh, pair, service, mesh_root: root.certificate.clone(), fetches: 0 }
    }

    /// An Envoy of that agent's, by which requests come through.
    fn gateway(&self, agent: &Agent) -> Gateway {
        let (folder, service) = (self.mesh.place.cluster.folder(), self.mesh.backend.service());
        let gateway = Gateway::start("gateway", folder, &agent.socket, service, &Expected::ForeignId(BACKEND));
        wait_until_through(&gateway, WARM_UP);
        gateway
    }

    /// Has istiod fetch now, as an operator would.
    fn fetch(&mut self) {
        self.fetches += 1;
        self.mesh.control_plane.configure("caCertificates", ca_certificates(&self.service, self.fetches));
    }

    /// How often it has.
    fn fetched(&self) -> usize {
        self.mesh.control_plane.log().matches("Loaded SPIFFE trust bundle").count()
    }

    /// Waits until istiod has fetched as often as it was to, and the sidecar believes the mesh's root and ours, no more and no less.
    fn wait_until_believed(&self, what: &str) {
        let wanted = serials(&(self.mesh_root.clone() + &self.pair.roots()));
        wait_until(FETCH, &format!("{what}, at the sidecar"), || {
            let log = self.mesh.control_plane.log();
            assert!(!log.contains(GIVEN_UP), "{what}: istiod has dropped our roots");
            match (self.fetched(), serials(&self.mesh.backend.secrets()?.roots)) {
                (fetched, found) if fetched > self.fetches && found == wanted => Ok(()),
                seen => Err(format!("{seen:?} instead of {wanted:?}")),
            }
        });
        println!("{what}: believed");
    }

    /// The connection breaks in the middle of the answer, and so do all that come to that replica until it is there again.
    fn fetch_while_the_active_is_killed(&mut self) {
        let active = self.pair.active();
        let answered = self.service.hold_next(self.pair.endpoints[active]);
        self.fetch();
        answered.recv_timeout(FETCH).expect("istiod asks the active");
        self.pair.kill(active);
        self.wait_until_believed("the active killed during the fetch");
        self.pair.restart(active);
    }

    /// One that hangs has the lock, so the other one, which the Service leads to, can't be active either: it answers all the same.
    fn fetch_while_nobody_is_active(&mut self) {
        let active = self.pair.active();
        self.pair.pause(active);
        self.service.set(&[self.pair.endpoints[1 - active]]);
        self.fetch();
        self.wait_until_believed("nobody active");
        self.pair.resume(active);
        self.service.set(&self.pair.endpoints);
    }

    /// Waits until the gates of a step are open and it is taken.
    fn take(&self, step: &[&str]) {
        let words = [&["authority", "x509"], step].concat();
        wait_until(GATE, &format!("{step:?}"), || self.pair.run(&words));
    }
}

/// istiod fetches at once when the list is another one; who answers has no use for the query.
fn ca_certificates(service: &Service, fetch: usize) -> serde_json::Value {
    let url = format!("https://localhost:{}/?{fetch}", service.port);
    json!([{"spiffeBundleUrl": url, "trustDomains": [TRUST_DOMAIN]}])
}
