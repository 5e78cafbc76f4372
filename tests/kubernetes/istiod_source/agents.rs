//! An agent that has its identity from istiod by way of the pair, or as long as it can from istiod itself.

use std::{fs, time::Duration};

use super::{
    client::PAIR,
    stage::{Gate, Stage},
};
use crate::{
    istio::{istiod::SERVER_NAME, objects::check_nothing_was_refused},
    istiod_agent::gateway::{ID, served},
    support::{countersign::countersign, http::loopback, process::Process, wait::wait_until},
};

/// Renewed at half of it.
const TTL: Duration = Duration::from_secs(8);
const START: Duration = Duration::from_secs(10);
/// An address that has failed goes last for 30 s; the renewal after that finds it well.
const BACK: Duration = Duration::from_secs(45);
const NOT_RENEWED: &str = "the SVID was not renewed";

#[test]
fn an_agent_rotates_by_way_of_the_pair_and_a_killed_replica_fails_none_of_its_calls() {
    let mut stage = Stage::set();
    let agent = start(&stage, &[]);
    let socket = stage.cluster.folder().join("agent.sock");
    let mut serial = String::new();
    let mut rotate = || {
        serial = wait_until(START, "another SVID", || match served(&socket) {
            Ok(served) if served.leaf.serial().to_string() != serial => Ok(served.leaf.serial().to_string()),
            other => Err(format!("{other:?}")),
        });
    };
    (0..3).for_each(|_| rotate());
    stage.replicas[0].process.kill();
    (0..3).for_each(|_| rotate());
    let log = agent.errors();
    assert!(!log.contains(NOT_RENEWED), "{log}");
    let passed: usize = stage.replicas.iter().map(|replica| replica.process.errors().matches(ID).count()).sum();
    assert!(passed >= 6, "{passed} by way of the pair");
    check_nothing_was_refused(&stage.cluster);
}

#[test]
fn istiod_goes_first_the_pair_second_and_istiod_first_again_when_it_is_back() {
    let stage = Stage::set();
    let direct = Gate::open();
    direct.lead_to(stage.istiod().port);
    let agent = start(&stage, &[loopback(direct.port).to_string()]);
    let socket = stage.cluster.folder().join("agent.sock");
    let passed = |serial: &str| stage.replicas.iter().any(|replica| replica.process.errors().contains(serial));
    let mut last = String::new();
    let mut rotate = || {
        last = wait_until(START, "another SVID", || match served(&socket) {
            Ok(served) if served.leaf.serial().to_string() != last => Ok(served.leaf.serial().to_string()),
            other => Err(format!("{other:?}")),
        });
        last.clone()
    };
    for _ in 0..2 {
        let serial = rotate();
        assert!(!passed(&serial), "{serial} by way of the pair, though istiod can be reached");
    }
    direct.shut();
    for _ in 0..3 {
        let serial = rotate();
        assert!(passed(&serial), "{serial} not by way of the pair");
    }
    direct.lead_to(stage.istiod().port);
    wait_until(BACK, "an SVID from istiod itself", || match rotate() {
        serial if passed(&serial) => Err(serial),
        _ => Ok(()),
    });
    let serial = rotate();
    assert!(!passed(&serial), "{serial} by way of the pair again");
    let log = agent.errors();
    assert!(!log.contains(NOT_RENEWED), "{log}");
    check_nothing_was_refused(&stage.cluster);
}

/// An agent for the gateway at `first` and then at both replicas.
fn start(stage: &Stage, first: &[String]) -> Process {
    let (_, token) = stage.caller("gateway");
    let folder = stage.cluster.folder().to_owned();
    let (socket, token_file, roots) = (folder.join("agent.sock"), folder.join("agent.token"), folder.join("agent.pem"));
    fs::write(&token_file, token).unwrap();
    fs::write(&roots, &stage.roots).unwrap();
    let mut command = countersign();
    command.arg("agent").arg("--socket").arg(&socket).arg("--token-file").arg(&token_file);
    command.arg("--root-file").arg(&roots).args(["--ca-identity", PAIR, "--svid-ttl", &format!("{}s", TTL.as_secs())]);
    command.args(["--ca-server-name", SERVER_NAME]);
    let replicas = stage.replicas.iter().map(|replica| loopback(replica.port).to_string());
    for address in first.iter().cloned().chain(replicas) {
        command.arg("--ca-address").arg(address);
    }
    Process::start("agent", &folder, &mut command)
}
