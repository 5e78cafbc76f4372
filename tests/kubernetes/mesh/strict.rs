//! A service that takes nothing but mutual TLS, called with an identity that istiod signed.

use std::{path::Path, time::Duration};

use serde_json::Value;

use super::{
    BACKEND, GATEWAY, Mesh, Roots, WARM_UP,
    gateway::{Expected, Gateway},
    pair::Pair,
    traffic::Traffic,
    wait_until_through,
};
use crate::{
    network::in_own_network,
    support::{
        authority::{Authority, Kind},
        http,
        wait::wait_until,
    },
};

const GATEWAY_TTL: Duration = Duration::from_secs(8);
const SIDECAR_TTL: Duration = Duration::from_secs(16);
const ROTATIONS: usize = 4;
/// Envoys write their logs out within.
const SOON: Duration = Duration::from_secs(5);

#[test]
fn gateway_and_sidecar_verify_each_other_with_identities_of_istiod() {
    in_own_network("mesh::strict::gateway_and_sidecar_verify_each_other_with_identities_of_istiod", |network| {
        let root = Authority::root("mesh");
        let mesh = Mesh::start(network, &root, &root.below("istiod", Kind::P256), SIDECAR_TTL);
        let agent = mesh.agent("gateway", GATEWAY_TTL);
        check(&mesh, &agent.socket, "agent, istiod", || ());
    });
}

#[test]
fn the_same_by_way_of_a_pair_before_istiod_one_of_which_dies() {
    in_own_network("mesh::strict::the_same_by_way_of_a_pair_before_istiod_one_of_which_dies", |network| {
        let root = Authority::root("mesh");
        let mesh = Mesh::start(network, &root, &root.below("istiod", Kind::P256), SIDECAR_TTL);
        let mut pair = Pair::start(&mesh);
        let agent = mesh.place.agent_at("gateway", GATEWAY_TTL, pair.agent_flags(), Roots::Watched);
        check(&mesh, &agent.socket, "agent, pair, istiod", || pair.kill_one());
    });
}

/// Whatever stands behind `socket`, and whatever is done `meanwhile`.
fn check(mesh: &Mesh, socket: &Path, what: &str, meanwhile: impl FnOnce()) {
    let gateway = mesh.place.gateway("envoy", socket, mesh.backend.service());
    wait_until_through(&gateway, WARM_UP);
    let traffic = Traffic::start(gateway.address);
    let serials = || mesh.backend.log().distinct(GATEWAY, "serial").len();
    meanwhile();
    wait_until(GATEWAY_TTL * 4, "the gateway's certificates at the sidecar", || match serials() {
        seen if seen > ROTATIONS => Ok(()),
        seen => Err(format!("{seen}")),
    });
    let requests = traffic.check();
    drop(traffic);
    wait_until(SOON, "every request in the log of the service", || match mesh.backend.service_log().requests().len() {
        logged if logged >= requests => Ok(()),
        logged => Err(format!("{logged} of {requests}")),
    });

    let (ours, theirs) = (gateway.log().requests(), mesh.backend.log().requests());
    let passed: Vec<&Value> = ours.iter().filter(|request| request["status"] == 200).collect();
    for (side, requests, own, peer) in
        [("gateway", passed, GATEWAY, BACKEND), ("sidecar", theirs.iter().collect(), BACKEND, GATEWAY)]
    {
        assert!(requests.len() > 100, "the {side} logged {} requests", requests.len());
        for request in &requests {
            assert_eq!((&request["own"], &request["peer"]), (&own.into(), &peer.into()), "{side}: {request}");
            let (start, end) = (seconds(&request["start"]), seconds(&request["not_after"]));
            assert!(end.is_none_or(|end| start.unwrap() <= end), "used after its end: {request}");
        }
    }
    let told = mesh.backend.service_log().requests();
    let client = format!("By={BACKEND};");
    assert!(!told.is_empty(), "the service has logged nothing");
    for request in &told {
        let header = request["client"].as_str().unwrap_or_default();
        assert!(header.starts_with(&client) && header.ends_with(&format!("URI={GATEWAY}")), "{request}");
    }
    println!(
        "{what}: {requests} requests, none failed; {} certificates of the gateway; {}",
        serials(),
        ours.last().unwrap()
    );
    check_that_it_is_verified(mesh, socket);
}

/// What is asked for by whoever must not come through.
const REFUSED: &str = "/refused";

/// That the same way is closed to whoever does without one of the proofs.
fn check_that_it_is_verified(mesh: &Mesh, socket: &Path) {
    let service = mesh.backend.service();
    let plain = http::get(service, REFUSED).unwrap_err();

    let folder = mesh.place.cluster.folder();
    let asked = |name: &str, expected: &Expected<'_>| {
        let gateway = Gateway::start(name, folder, socket, service, expected);
        wait_until(WARM_UP, &format!("a refusal in the log of {name}"), || {
            let answer = http::get(gateway.address, REFUSED).expect_err("a request that must fail");
            let log = gateway.log().requests();
            let why = log.iter().filter_map(|request| request["why"].as_str()).find(|why| why.contains("TLS_error"));
            why.map(str::to_owned).ok_or_else(|| format!("{answer}; {log:?}"))
        })
    };
    let other = asked("expects-another", &Expected::Id("spiffe://cluster.local/ns/prod/sa/other"));
    assert!(other.contains("SAN"), "{other}");
    let nobody = asked("shows-nothing", &Expected::IdButShowNothing(BACKEND));
    assert!(nobody.contains("HANDSHAKE_FAILURE"), "{nobody}");

    let told = mesh.backend.service_log().requests();
    assert!(told.iter().all(|request| request["path"] != REFUSED), "the service was reached");
    println!("refused: plaintext ({plain}); another SPIFFE ID ({other}); no certificate ({nobody})");
}

fn seconds(value: &Value) -> Option<f64> {
    value.as_f64().or_else(|| value.as_str()?.parse().ok())
}
