//! Requests by way of the gateway, with policies as a replica writes them.

use std::time::{Duration, Instant};

use super::{
    GATEWAY, HTTP_PORT, Place,
    backend::{App, Backend, Class, Mode},
    load::Load,
    objects,
};
use crate::{cluster::block_on, network::in_own_network, pair::TRUST_DOMAIN, support::wait::wait_until};

const TEAM: &str = "test-infra";
/// A change of routes, and clusters that are made anew.
const CHANGE: Duration = Duration::from_secs(30);
/// From a change in the cluster to its effect on a request.
const EFFECT: Duration = Duration::from_secs(1);

#[test]
fn mutual_tls_with_both_identities_and_nobody_else_is_accepted() {
    in_own_network("envoy_gateway::traffic::mutual_tls_with_both_identities_and_nobody_else_is_accepted", |network| {
        let begin = Instant::now();
        let mut place = Place::start(network);
        println!("ready after {:?}", begin.elapsed());
        let backend = |place: &mut Place, name: &str, account: &str| {
            let host = place.host(name);
            let kind = (Mode::Strict, Class::Http, App::Itself);
            Backend::start(name, host, place.cluster.folder(), &place.mesh, (TEAM, account), kind)
        };
        let backends = [backend(&mut place, "backend-v1", "v1"), backend(&mut place, "backend-v2", "v2")];
        block_on(async {
            let cluster = &place.cluster;
            cluster.apply(&objects::namespace(TEAM, Some("enabled"))).await;
            for (number, backend) in backends.iter().enumerate() {
                let (name, account) = (format!("backend-v{}", number + 1), format!("v{}", number + 1));
                let std::net::SocketAddr::V4(address) = backend.address() else { panic!("IPv6") };
                cluster.apply(&objects::service(TEAM, &name, Class::Http, &[*address.ip()])).await;
                cluster.apply(&objects::pod(TEAM, &name, &name, &account, true)).await;
                cluster.apply(&objects::policy(TEAM, &name)).await;
            }
            cluster.apply(&objects::http_route(TEAM, "split", "/", &["backend-v1", "backend-v2"])).await;
        });
        place.wait_for_policies();
        wait_until(CHANGE, "an answer", || place.get("/").map_err(|why| format!("{why}\n{}", place.pod.log())));
        let load = Load::start(place.pod.at(HTTP_PORT), "/");
        let answers = load.next(100);
        println!("{answers:?}");
        for (number, backend) in backends.iter().enumerate() {
            let log = backend.log().requests();
            let own = format!("spiffe://{TRUST_DOMAIN}/ns/{TEAM}/sa/v{}", number + 1);
            assert!(!log.is_empty());
            for request in log {
                assert_eq!(request["own"], *own, "{request}");
                assert!(request["peer"].as_str().unwrap().contains("/sa/envoy-gw-gw-"), "{request}");
            }
        }
        let _ = (GATEWAY, EFFECT);
    });
}
