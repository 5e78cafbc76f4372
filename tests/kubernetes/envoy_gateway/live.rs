//! Live sidecars behind the gateway: the real istiod configures them by way of the real pilot-agent, and nobody has written down
//! what it would do.

mod refusals;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant, SystemTime},
};

use kube::{
    Api,
    api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams},
};
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tonic::transport::Server;

use super::{EFFECT, HTTP_PORT, Place, TEAM, backend::Class, grpc, load::Load, objects, render};
use crate::{
    cluster::block_on,
    istio::objects::{MESH_ROOTS, roots_of},
    mesh::{
        UPSTREAM_ENVOY,
        control_plane::ControlPlane,
        pod::{Pod, SECOND_PORT, Wanted},
    },
    network::{Network, in_own_network},
    pair::TRUST_DOMAIN,
    support::{
        http::{self, free_port},
        wait::wait_until,
    },
};

const NAMES: [&str; 2] = ["backend-v1", "backend-v2"];
/// Services of the same pods at a port without a name.
const UNNAMED: [&str; 2] = ["unnamed-v1", "unnamed-v2"];
/// Of the Routes that split requests between the ones and between the others.
const HOSTS: [&str; 2] = ["split.test", "unnamed.test"];
const GRPC: &str = "by-route";
const H2C: &str = "by-h2c";
/// Of sidecars' certificates.
const TTL: Duration = Duration::from_secs(3600);
const CHANGE: Duration = Duration::from_secs(40);

/// Each request comes to a sidecar on a connection of its own: a kept one would hide what changes.
const ONE_REQUEST: &str = "
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {name: one-request, namespace: istio-system}
spec:
  configPatches:
    - applyTo: NETWORK_FILTER
      match: {context: SIDECAR_INBOUND, listener: {filterChain: {filter: {name: envoy.filters.network.http_connection_manager}}}}
      patch:
        operation: MERGE
        value:
          typed_config:
            '@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
            common_http_protocol_options: {max_requests_per_connection: 1}
";

struct Live {
    /// By each of the hosts.
    loads: [Load; 2],
    /// Two that split the load, and one of gRPC.
    pods: [Pod; 3],
    _istiod: ControlPlane,
    place: Place,
    runtime: Runtime,
}

/// How requests came to the sidecars.
type Callers = BTreeMap<(String, String), usize>;

impl Live {
    fn start(network: Network) -> Self {
        let server: SocketAddr = (network.address(), free_port()).into();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (reporter, health) = tonic_health::server::health_reporter();
        runtime.spawn(Server::builder().add_service(health).serve(server));
        runtime.block_on(reporter.set_service_status("known", tonic_health::ServingStatus::Serving));

        let mut place = Place::with_objects(network);
        let root = place.mesh.chain.last().unwrap();
        let mut istiod = ControlPlane::plan_for(TRUST_DOMAIN, &place.cluster, &place.mesh.cacerts(root));
        istiod.install(&place.cluster);
        istiod.start(&place.cluster);
        place.apply(&objects::namespace(TEAM, Some("enabled")));
        [UPSTREAM_ENVOY, ONE_REQUEST].into_iter().for_each(|object| place.apply(object));
        istiod.wait_until_ready();
        set_strict(&place, true);
        let pods = [NAMES[0], NAMES[1], GRPC].map(|name| {
            let app = (name == GRPC).then_some(server);
            start_pod(&mut place, &istiod, name, app)
        });
        let of_grpc = pods[2].service();
        place.apply(&objects::service(TEAM, GRPC, Class::Grpc, &[ip(of_grpc)]));
        let same_pod = objects::service(TEAM, H2C, Class::H2c, &[ip(of_grpc)]);
        place.apply(&same_pod.replace(&format!("selector: {{app: {H2C}}}"), &format!("selector: {{app: {GRPC}}}")));
        for (name, pod) in NAMES.into_iter().zip(&pods) {
            place.apply(&objects::service(TEAM, name, Class::Http, &[ip(pod.service())]));
        }
        for ((name, of), pod) in UNNAMED.into_iter().zip(NAMES).zip(&pods) {
            place.apply(&objects::unnamed_service(TEAM, name, of, ip(pod.second()), SECOND_PORT));
        }
        place.apply(&objects::http_route(TEAM, "split", HOSTS[0], &NAMES));
        place.apply(&objects::http_route(TEAM, "unnamed", HOSTS[1], &UNNAMED));
        place.apply(&objects::grpc_route(TEAM, GRPC, "by-route.test", &[GRPC]));
        place.apply(&objects::http_route(TEAM, H2C, "by-h2c.test", &[H2C]));
        let loads = HOSTS.map(|host| {
            place.wait_for("an answer", host, CHANGE, Result::is_ok);
            Load::start(place.pod.at(HTTP_PORT), host)
        });
        Self { loads, pods, _istiod: istiod, place, runtime }
    }

    /// Where the load comes to sidecars: named ports and unnamed ones.
    fn ports(&self) -> impl Iterator<Item = SocketAddr> {
        self.pods[..2].iter().flat_map(|pod| [pod.service(), pod.second()])
    }

    /// How often each caller came to each sidecar since `begin` for a host: the sidecar's ID and the caller's, or that there was none.
    fn callers_since(&self, begin: f64, host: &str) -> Callers {
        let is_such = |request: &&Value| {
            request["status"] == 200 && request["host"] == host && seconds(&request["start"]) >= begin
        };
        let mut callers = Callers::new();
        for pod in &self.pods {
            for request in pod.log().requests().iter().filter(is_such) {
                let text = |field: &str| request[field].as_str().unwrap_or("plaintext").to_owned();
                *callers.entry((text("own"), text("peer"))).or_default() += 1;
            }
        }
        callers
    }

    /// Of the requests of a while by each host, all of which are answered: which sidecars they came to and from whom.
    fn next_callers(&self) -> [Callers; 2] {
        let begin = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64();
        let mut loads = self.loads.iter();
        HOSTS.map(|host| {
            let asked = loads.next().unwrap().next(80);
            assert!(asked.keys().all(Result::is_ok), "{host}: {asked:?}");
            let count = asked.values().sum::<usize>();
            wait_until(CHANGE, "requests in the sidecars' logs", || match self.callers_since(begin, host) {
                callers if callers.values().sum::<usize>() >= count => Ok(callers),
                callers => Err(format!("{host}: {callers:?}")),
            })
        })
    }

    fn check_mutual(&self, what: &str) {
        let gateway = render(&[]).identity;
        let expected = NAMES.map(|name| (format!("spiffe://{TRUST_DOMAIN}/ns/{TEAM}/sa/{name}"), gateway.clone()));
        for (host, callers) in HOSTS.into_iter().zip(self.next_callers()) {
            println!("{what}, {host}: {callers:?}");
            assert_eq!(callers.into_keys().collect::<Vec<_>>(), expected, "{what}, {host}");
        }
    }

    fn wait_until_plain(&self) {
        self.wait_until_all("plaintext alone at the sidecars", |peer| peer == "plaintext");
    }

    fn wait_until_mutual(&self) {
        self.wait_until_all("mutual TLS alone at the sidecars", |peer| peer != "plaintext");
    }

    fn wait_until_all(&self, what: &str, is_so: impl Fn(&str) -> bool) {
        wait_until(CHANGE, what, || match self.next_callers() {
            callers if callers.iter().flat_map(Callers::keys).all(|(_, peer)| is_so(peer)) => Ok(()),
            callers => Err(format!("{callers:?}")),
        });
    }

    /// A later Service of the same pods names their port otherwise: sidecars go by the older one, as is said.
    fn an_older_service_decides(&self) {
        let later = objects::service(TEAM, "later", Class::Http, &[ip(self.pods[0].service())]);
        let later = later.replace("name: http", "name: tcp").replace("{app: later}", &format!("{{app: {}}}", NAMES[0]));
        self.place.apply(&later);
        self.place.wait_until_explained(&format!("leads to where Service {TEAM}/{} leads", NAMES[0]), EFFECT);
        let said = self.place.policy(&["explain", &format!("{TEAM}/later")]);
        assert!(said.contains("PortProtocolConflict") && said.contains("port 8080 is http/1"), "{said}");
        // bytes that are not taken for HTTP are no requests in the log of a sidecar
        self.check_mutual("beside a later Service");
        self.place.delete(("", "v1", "Service"), "later");
    }

    /// gRPC by both kinds of Routes, with its status in trailers.
    fn check_grpc(&self, what: &str) {
        let gateway = self.place.pod.at(HTTP_PORT);
        for name in [GRPC, H2C] {
            let host = format!("{name}.test");
            let status = wait_until(CHANGE, &format!("an answer {name}, {what}"), || {
                self.runtime.block_on(grpc::check(gateway, &host, "known"))
            });
            assert_eq!(status, "0", "{name}, {what}");
            let unknown = self.runtime.block_on(grpc::check(gateway, &host, "unknown")).unwrap_err();
            assert!(unknown.contains("NotFound"), "{name}, {what}: {unknown}");
        }
    }
}

/// Of the log, in which numbers may be texts.
fn seconds(value: &Value) -> f64 {
    value.as_f64().or_else(|| value.as_str()?.parse().ok()).unwrap_or_default()
}

fn ip(address: SocketAddr) -> std::net::Ipv4Addr {
    match address {
        SocketAddr::V4(address) => *address.ip(),
        SocketAddr::V6(address) => panic!("{address}"),
    }
}

fn start_pod(place: &mut Place, istiod: &ControlPlane, name: &str, grpc: Option<SocketAddr>) -> Pod {
    let host = place.network.host(name);
    let account = block_on(place.cluster.account(TEAM, name));
    let roots = roots_of(&place.cluster, TEAM, MESH_ROOTS);
    let metadata = istiod.proxy_metadata();
    let wanted = Wanted { istiod: &istiod.name_and_port(), roots: &roots, ttl: TTL, metadata, grpc };
    Pod::start(name, host, &place.cluster, &account, &wanted)
}

/// Whether there is a PeerAuthentication for the namespace. Without one sidecars take plaintext as well.
fn set_strict(place: &Place, is_strict: bool) {
    if !is_strict {
        return place.delete(("security.istio.io", "v1", "PeerAuthentication"), "default");
    }
    let kind = GroupVersionKind::gvk("security.istio.io", "v1", "PeerAuthentication");
    let resource = ApiResource::from_gvk(&kind);
    let all = || Api::<DynamicObject>::namespaced_with(place.cluster.admin(), TEAM, &resource);
    let object: Value = json!({
        "apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication", "metadata": { "name": "default" },
        "spec": { "mtls": { "mode": "STRICT" } },
    });
    let params = PatchParams::apply("test").force();
    block_on(async { all().patch("default", &params, &Patch::Apply(&object)).await.map(drop) }).unwrap();
}

#[test]
fn live_sidecars_take_mutual_tls_whatever_peer_authentication_says() {
    in_own_network("envoy_gateway::live::live_sidecars_take_mutual_tls_whatever_peer_authentication_says", |network| {
        let begin = Instant::now();
        let mut live = Live::start(network);
        println!("ready after {:?}", begin.elapsed());
        live.wait_until_mutual();
        let begin = Instant::now();
        live.check_mutual("labelled, STRICT");
        live.check_grpc("STRICT");

        set_strict(&live.place, false);
        for port in live.ports() {
            wait_until(CHANGE, "a sidecar that takes plaintext", || http::get(port, "/"));
        }
        live.check_mutual("labelled, PeerAuthentication deleted");
        live.check_grpc("PERMISSIVE");

        live.place.apply(&objects::namespace(TEAM, None));
        live.wait_until_plain();
        live.check_grpc("label removed, PERMISSIVE");
        live.place.apply(&objects::namespace(TEAM, Some("enabled")));
        live.wait_until_mutual();
        live.check_mutual("label back, PERMISSIVE");
        live.check_grpc("label back, PERMISSIVE");
        live.an_older_service_decides();

        set_strict(&live.place, true);
        for port in live.ports() {
            wait_until(CHANGE, "a sidecar that refuses plaintext", || match http::get(port, "/") {
                Err(_refused) => Ok(()),
                Ok(answer) => Err(answer),
            });
        }
        live.check_mutual("labelled, STRICT again");
        for (host, load) in HOSTS.into_iter().zip(&live.loads) {
            let requests = load.check_since(begin, &format!("from STRICT to STRICT again, {host}"));
            println!("{host}: {requests} requests in {:?}, none failed", begin.elapsed());
        }
        refusals::check(&mut live);
    });
}
