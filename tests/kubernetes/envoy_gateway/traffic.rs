//! Whom the gateway accepts behind a Service, with policies as a replica writes them.

use std::time::{Duration, Instant};

use super::{
    HTTP_PORT, Place, TEAM,
    backend::{App, Class, Mode},
    load::Load,
    objects,
};
use crate::{network::in_own_network, pair::TRUST_DOMAIN, support::wait::wait_until};

/// A change of routes, and clusters that are made anew.
const CHANGE: Duration = Duration::from_secs(30);
/// From a change in the cluster to its effect on a request.
const EFFECT: Duration = Duration::from_secs(1);
const STRICT: (Mode, Class, App) = (Mode::Strict, Class::Http, App::Itself);

fn answers(answer: &Result<String, String>) -> bool {
    answer.is_ok()
}

fn refuses(answer: &Result<String, String>) -> bool {
    answer.as_ref().is_err_and(|why| why.contains("status 503"))
}

#[test]
fn mutual_tls_with_those_behind_a_service_and_nobody_else() {
    in_own_network("envoy_gateway::traffic::mutual_tls_with_those_behind_a_service_and_nobody_else", |network| {
        let begin = Instant::now();
        let mut place = Place::start(network);
        println!("ready after {:?}", begin.elapsed());
        place.apply(&objects::namespace(TEAM, Some("enabled")));
        both_identities_are_seen(&mut place);
        eight_accounts_are_accepted(&mut place);
        a_rule_may_mix(&mut place);
        a_wrong_identity_is_refused_in_both_flavours(&mut place);
    });
}

fn both_identities_are_seen(place: &mut Place) {
    let backends = ["v1", "v2"].map(|account| place.backend(&format!("backend-{account}"), account, STRICT));
    for (backend, account) in backends.iter().zip(["v1", "v2"]) {
        let name = format!("backend-{account}");
        place.apply(&objects::service(TEAM, &name, Class::Http, &[backend.ip()]));
        place.apply(&objects::pod(TEAM, &name, &name, account, true));
        place.apply(&objects::policy(TEAM, &name));
    }
    place.wait_for_services(2);
    place.apply(&objects::http_route(TEAM, "split", "split.test", &["backend-v1", "backend-v2"]));
    place.wait_for("an answer", "split.test", CHANGE, answers);
    let load = Load::start(place.pod.at(HTTP_PORT), "split.test");
    let begin = Instant::now();
    let seen = load.next(60);
    load.check_since(begin, "with both accounts");
    assert_eq!(seen.len(), 2, "{seen:?}");
    drop(load);
    for (backend, account) in backends.iter().zip(["v1", "v2"]) {
        let log = backend.log().requests();
        assert!(log.len() > 10, "{log:?}");
        let own = format!("spiffe://{TRUST_DOMAIN}/ns/{TEAM}/sa/{account}");
        for request in log {
            assert_eq!(request["own"], *own, "{request}");
            let peer = request["peer"].as_str().unwrap();
            assert!(
                peer.starts_with(&format!("spiffe://{TRUST_DOMAIN}/ns/envoy-gateway-system/sa/envoy-gw-gw-")),
                "{peer}"
            );
        }
    }
    // the first one goes on for the next test
    place.apply(&objects::service(TEAM, "alone", Class::Http, &[backends[0].ip()]));
    place.apply(&objects::pod(TEAM, "alone-1", "alone", "v1", true));
    place.apply(&objects::policy(TEAM, "alone"));
    place.wait_for_services(3);
    place.apply(&objects::http_route(TEAM, "alone", "alone.test", &["alone"]));
    place.wait_for("an answer by one alone", "alone.test", CHANGE, answers);
    who_leaves(place);
}

fn who_leaves(place: &Place) {
    let leave = |name: &str| place.delete(("", "v1", "Pod"), name);
    place.apply(&objects::pod(TEAM, "alone-2", "alone", "another", true));
    place.wait_for("an answer beside another account", "alone.test", EFFECT, answers);
    leave("alone-1");
    place.wait_for("a refusal of an account that is not behind the Service", "alone.test", EFFECT, refuses);
    place.apply(&objects::pod(TEAM, "alone-3", "alone", "v1", true));
    place.wait_for("an answer by the account that is back", "alone.test", EFFECT, answers);
    leave("alone-2");
    leave("alone-3");
    place.wait_for("a refusal with nobody behind the Service", "alone.test", EFFECT, refuses);
}

fn eight_accounts_are_accepted(place: &mut Place) {
    let ends = ["a0", "a7"].map(|account| place.backend(&format!("many-{account}"), account, STRICT));
    place.apply(&objects::service(TEAM, "many", Class::Http, &ends.each_ref().map(|backend| backend.ip())));
    for number in 0..8 {
        place.apply(&objects::pod(TEAM, &format!("many-{number}"), "many", &format!("a{number}"), true));
    }
    place.apply(&objects::policy(TEAM, "many"));
    place.wait_for_services(4);
    place.apply(&objects::http_route(TEAM, "many", "many.test", &["many"]));
    place.wait_for("an answer by one of eight", "many.test", CHANGE, answers);
    let load = Load::start(place.pod.at(HTTP_PORT), "many.test");
    let begin = Instant::now();
    let seen = load.next(40);
    load.check_since(begin, "eight accounts");
    assert_eq!(seen.len(), 2, "{seen:?}");
}

fn a_rule_may_mix(place: &mut Place) {
    let plain = place.backend("plain", "plain", (Mode::NoSidecar, Class::Http, App::Itself));
    let member = place.backend("member", "member", STRICT);
    place.apply(&objects::service(TEAM, "plain", Class::Http, &[plain.ip()]));
    place.apply(&objects::service(TEAM, "member", Class::Http, &[member.ip()]));
    place.apply(&objects::pod(TEAM, "member", "member", "member", true));
    place.apply(&objects::policy(TEAM, "member"));
    place.wait_for_services(6);
    place.apply(&objects::http_route(TEAM, "mixed", "mixed.test", &["plain", "member"]));
    place.wait_for("an answer of a mixed rule", "mixed.test", CHANGE, answers);
    let load = Load::start(place.pod.at(HTTP_PORT), "mixed.test");
    let begin = Instant::now();
    let seen: Vec<_> = load.next(40).into_keys().collect();
    load.check_since(begin, "a rule that mixes");
    assert_eq!(seen, [Ok("member mutual".to_owned()), Ok("plain no sidecar".to_owned())]);
}

fn a_wrong_identity_is_refused_in_both_flavours(place: &mut Place) {
    let intruder = place.backend("intruder", "intruder", STRICT);
    let roots = place.mesh.chain.last().unwrap().clone();
    for name in ["wrong", "portable", "wrong-portable"] {
        place.apply(&objects::service(TEAM, name, Class::Http, &[intruder.ip()]));
        place.apply(&objects::pod(TEAM, name, name, "somebody", true));
    }
    place.apply(&objects::policy(TEAM, "wrong"));
    place.apply(&objects::portable_policy(TEAM, "portable", "intruder", &roots));
    place.apply(&objects::portable_policy(TEAM, "wrong-portable", "somebody", &roots));
    place.wait_for_services(9);
    for (name, is_so) in [("wrong", refuses as fn(&_) -> bool), ("portable", answers), ("wrong-portable", refuses)] {
        let host = format!("{name}.test");
        place.apply(&objects::http_route(TEAM, name, &host, &[name]));
        let by_whom = |answer: &_| is_so(answer) && !format!("{answer:?}").contains("cluster_not_found");
        place.wait_for(&format!("what is said to {name}"), &host, CHANGE, by_whom);
    }
    wait_until(CHANGE, "a request to the intruder", || match intruder.log().requests() {
        log if log.is_empty() => Err("none"),
        _ => Ok(()),
    });
    let reasons = place.pod.log();
    assert!(reasons.contains("CERTIFICATE_VERIFY_FAILED:verify_cert_failed:_SAN_matcher"), "{reasons}");
}
