//! What else may be asked of a Gateway: labels of other kinds, and a backend outside the mesh that speaks TLS too.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{
    GATEWAY, HTTP_PORT, Place, TEAM,
    backend::{App, Backend, Class, Mode},
    load::Load,
    objects,
};
use crate::{
    network::in_own_network,
    support::{
        authority::{Authority, Kind},
        wait::wait_until,
    },
};

const CHANGE: Duration = Duration::from_secs(30);
const OUTSIDE: &str = "outside";
/// To which a Route leads.
const NEIGHBOUR: &str = "neighbour";
/// Which is asked about its requests.
const CHECKER: &str = "checker";

#[test]
fn each_label_means_what_it_means_to_istio_and_who_is_outside_the_mesh_stays_there() {
    in_own_network(
        "envoy_gateway::others::each_label_means_what_it_means_to_istio_and_who_is_outside_the_mesh_stays_there",
        |network| {
            let mut place = Place::with_objects(network);
            let backend = place.backend("backend", "backend", (Mode::Permissive, Class::Http, App::Itself));
            place.apply(&objects::namespace(TEAM, None));
            place.apply(&objects::service(TEAM, "backend", Class::Http, &[backend.ip()]));
            place.apply(&objects::pod(TEAM, "backend", "backend", "backend", true));
            place.apply(&objects::http_route(TEAM, "backend", "backend.test", &["backend"]));
            place.wait_for("an answer", "backend.test", CHANGE, Result::is_ok);
            labels(&place);
            neighbours_see_the_certificate_that_was_foretold(&mut place);
        },
    );
}

/// By the labels of its namespace: how the Service is asked, and what is said of it.
fn labels(place: &Place) {
    let rows = [
        ("istio.io/rev: canary", "mutual", "by revision canary"),
        ("istio-injection: disabled, istio.io/rev: canary", "plain", "InjectionDisabled"),
        ("istio-injection: enabled, istio.io/rev: canary", "mutual", "RevisionIgnored"),
        ("istio.io/dataplane-mode: ambient", "plain", "AmbientUnsupported"),
        ("istio.io/dataplane-mode: ambient, istio-injection: enabled", "mutual", "IstioNotDetected"),
        ("istio.io/rev: \"\"", "plain", "RevisionEmpty"),
    ];
    let load = Load::start(place.pod.at(HTTP_PORT), "backend.test");
    let begin = Instant::now();
    for (labels, chain, expected_word) in rows {
        let labelled = Instant::now();
        place.apply(&objects::namespace_with(TEAM, labels));
        let expected = Ok(format!("backend {chain}"));
        wait_until(CHANGE, &format!("{labels}: {chain}"), || match load.next(10) {
            answers if answers.keys().eq([&expected]) => Ok(()),
            other => Err(format!("{other:?}\n{}", place.policy(&["explain", TEAM]))),
        });
        println!("{labels}: {chain} after {:?}", labelled.elapsed());
        assert_eq!(load.next(40).into_keys().collect::<Vec<_>>(), [expected], "{labels}");
        let said = place.policy(&["explain", TEAM]);
        assert!(said.contains(expected_word), "{labels}: {said}");
    }
    load.check_since(begin, "from one label to the next");
}

/// Services outside the mesh whose TLS the user has set up, and which ask for a certificate without insisting on one: a Route leads to
/// the one, and a SecurityPolicy has the other one asked before each of its requests.
fn neighbours_see_the_certificate_that_was_foretold(place: &mut Place) {
    let own = Authority::root("a company");
    let own = own.below("servers", Kind::P256);
    let kind = (Mode::OwnTls, Class::Http, App::Itself);
    let roots = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": { "name": "company", "namespace": OUTSIDE }, "data": { "ca.crt": own.chain.last().unwrap() },
    });
    place.apply(&objects::namespace(OUTSIDE, None));
    place.apply(&roots.to_string());
    let neighbours = [NEIGHBOUR, CHECKER].map(|name| {
        let host = place.network.host(name);
        let backend = Backend::start(name, host, place.cluster.folder(), &own, (OUTSIDE, name), kind);
        place.apply(&objects::service(OUTSIDE, name, Class::Http, &[backend.ip()]));
        place.apply(&objects::server_policy(OUTSIDE, name, &format!("{name}.test"), "company"));
        backend
    });
    place.apply(&objects::checked_by(OUTSIDE, NEIGHBOUR, CHECKER));
    place.apply(&objects::http_route(OUTSIDE, NEIGHBOUR, "neighbour.test", &[NEIGHBOUR]));
    place.wait_for("an answer from outside the mesh", "neighbour.test", CHANGE, Result::is_ok);
    let said = place.policy(&["gateways", GATEWAY]);
    for (name, backend) in [NEIGHBOUR, CHECKER].into_iter().zip(neighbours) {
        for reason in ["ClientCertificateShared", "AlpnNoOverlapRisk"] {
            let is_it =
                |line: &str| line.contains(&format!("{reason}:")) && line.contains(&format!("{OUTSIDE}/{name}"));
            assert!(said.lines().any(is_it), "{reason}, {name}: {said}");
        }
        let log = wait_until(CHANGE, &format!("a request in the log of {name}"), || match backend.log().requests() {
            log if log.is_empty() => Err("none"),
            log => Ok(log),
        });
        for request in log {
            let peer = request["peer"].as_str().unwrap_or_default();
            assert!(peer.contains("/ns/envoy-gateway-system/sa/envoy-gw-gw-"), "{name}: {request}");
        }
    }
}
