//! The root of a trust domain is rotated while Envoys of it and of another one call each other.

use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use super::{
    domain::Domain,
    envoys::{Backend, Gateway, WARM_UP},
};
use crate::{
    load::Load,
    support::{http, wait::wait_until},
};

const TTL: &str = "8s";
/// The longest that a step waits: for three readings of the bundle endpoint by whoever reads it least often.
const GATE: Duration = Duration::from_secs(60);

fn authority(domain: &Domain, phase: &str) -> String {
    let shown: Value = serde_json::from_str(&domain.done(&["authority", "x509", "show", "-o", "json"])).unwrap();
    let found = shown["authorities"].as_array().unwrap().iter().find(|one| one["phase"] == phase);
    found.unwrap_or_else(|| panic!("none is {phase}: {shown}"))["id"].as_str().unwrap().to_owned()
}

/// The X.509 authorities that one domain knows of another, as DER in base64.
fn known(to: &Domain, of: &Domain) -> Vec<String> {
    let document: Value = serde_json::from_str(&to.done(&["federation", "show", of.name])).unwrap();
    let keys = document["keys"].as_array().unwrap().iter().filter(|key| key["use"] == "x509-svid");
    keys.map(|key| key["x5c"][0].as_str().unwrap().to_owned()).collect()
}

#[test]
fn no_request_fails_in_either_direction_while_the_root_of_one_of_two_federated_trust_domains_is_rotated() {
    let begun = Instant::now();
    let dir = TempDir::new().unwrap();
    let [one, two] = ["one.example", "two.example"].map(|name| Domain::start_short_lived(dir.path(), name, TTL));
    one.federate(&two);
    two.federate(&one);
    let of_one = Backend::start(dir.path(), &one, "spiffe://two.example", "spiffe://two.example/");
    let of_two = Backend::start(dir.path(), &two, "spiffe://one.example", "spiffe://one.example/");
    let from_one = Gateway::start(dir.path(), &one, "spiffe://two.example", &of_two);
    let from_two = Gateway::start(dir.path(), &two, "spiffe://one.example", &of_one);
    let loads = [&from_one, &from_two].map(|gateway| {
        wait_until(WARM_UP, "an answer from the other trust domain", || http::get(gateway.envoy.address, "/"));
        Load::start_with(1, gateway.envoy.address, "/")
    });
    let check = || loads.iter().map(Load::check).sum::<u64>();
    // without a stop: the other domain hears of each step by its own fetches alone
    let step = |words: &[&str]| {
        let words = [&["authority", "x509"], words].concat();
        wait_until(GATE, &format!("{words:?}"), || {
            check();
            two.run(&words)
        });
        println!("{:?}: {words:?}", begun.elapsed());
    };

    let (first, before) = (authority(&two, "active"), known(&one, &two));
    step(&["prepare"]);
    let next = authority(&two, "prepared");
    step(&["activate", &next]);
    let both = known(&one, &two);
    assert!(
        both.len() == 2 && both.contains(&before[0]),
        "the gate was open before the other domain had both: {both:?}"
    );
    step(&["taint", &first]);
    step(&["revoke", &first]);
    let after = wait_until(GATE, "the new root alone", || match known(&one, &two) {
        known if known.len() == 1 => Ok(known),
        known => Err(format!("{known:?}")),
    });
    assert_ne!(after, before);
    let so_far = check();
    wait_until(GATE, "more requests by the new root alone", || match check() {
        now if now > so_far + 40 => Ok(()),
        now => Err(format!("{now} after {so_far}")),
    });
    let requests: u64 = loads.into_iter().map(Load::stop).sum();
    println!("{requests} requests, none failed, in {:?}", begun.elapsed());
}
