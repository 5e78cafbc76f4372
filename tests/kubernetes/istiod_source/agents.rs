//! An agent that has its identity from istiod by way of the pair.

use std::{fs, time::Duration};

use super::{client::PAIR, stage::Stage};
use crate::{
    istio::objects::check_nothing_was_refused,
    istiod_agent::gateway::{ID, served},
    support::{countersign::countersign, http::loopback, process::Process, wait::wait_until},
};

/// Renewed at half of it.
const TTL: Duration = Duration::from_secs(8);
const START: Duration = Duration::from_secs(10);
const NOT_RENEWED: &str = "the SVID was not renewed";

#[test]
fn an_agent_rotates_by_way_of_the_pair_and_a_killed_replica_fails_none_of_its_calls() {
    let mut stage = Stage::set();
    let (_, token) = stage.caller("gateway");
    let folder = stage.cluster.folder().to_owned();
    let (socket, token_file, roots) = (folder.join("agent.sock"), folder.join("agent.token"), folder.join("agent.pem"));
    fs::write(&token_file, token).unwrap();
    fs::write(&roots, &stage.roots).unwrap();
    let mut command = countersign();
    command.arg("agent").arg("--socket").arg(&socket).arg("--token-file").arg(&token_file);
    command.arg("--root-file").arg(&roots).args(["--ca-identity", PAIR, "--svid-ttl", &format!("{}s", TTL.as_secs())]);
    for replica in &stage.replicas {
        command.arg("--ca-address").arg(loopback(replica.port).to_string());
    }
    let agent = Process::start("agent", &folder, &mut command);
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
