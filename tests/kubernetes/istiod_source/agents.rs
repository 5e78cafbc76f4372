//! An agent that has its identity from istiod by way of the pair, or from istiod itself.

use std::{fs, time::Duration};

use countersign::proto::Jwtsvid;
use serde_json::json;
use tonic::Code;

use super::{
    jwt_svids::fetch,
    stage::{Agent, Gate, Stage},
};
use crate::{
    istio::objects::check_nothing_was_refused,
    istiod_agent::gateway::{ID, served},
    support::{http::loopback, wait::wait_until},
    tokens::forged::Forger,
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
    let mut agent = Rotating::start(&stage, &replicas(&stage));
    (0..3).for_each(|_| drop(agent.rotate()));
    let none = fetch(&agent.agent.socket, "a").unwrap_err();
    assert!(none.code() == Code::Unimplemented && none.message().contains("set jwtSvids"), "{none}");
    let token = Jwtsvid { svid: "a.b.c".to_owned(), ..Jwtsvid::default() };
    wait_until(START, "no keys to validate by, and none to come", || match agent.agent.validate(&token) {
        Err(refused) if refused.code() == Code::Unimplemented => Ok(()),
        other => Err(format!("{other:?}")),
    });
    stage.replicas[0].process.kill();
    (0..3).for_each(|_| drop(agent.rotate()));
    agent.check_that_no_renewal_failed();
    let passed: usize = stage.replicas.iter().map(|replica| replica.process.errors().matches(ID).count()).sum();
    assert!(passed >= 6, "{passed} by way of the pair");
    check_nothing_was_refused(&stage.cluster);
}

#[test]
fn istiod_goes_first_the_pair_second_and_istiod_first_again_when_it_is_back() {
    let stage = Stage::set();
    let direct = Gate::open();
    direct.lead_to(stage.istiod().port);
    let mut agent = Rotating::start(&stage, &[vec![loopback(direct.port).to_string()], replicas(&stage)].concat());
    for _ in 0..2 {
        let serial = agent.rotate();
        assert!(!passed(&stage, &serial), "{serial} by way of the pair, though istiod can be reached");
    }
    direct.shut();
    for _ in 0..3 {
        let serial = agent.rotate();
        assert!(passed(&stage, &serial), "{serial} not by way of the pair");
    }
    direct.lead_to(stage.istiod().port);
    wait_until(BACK, "an SVID from istiod itself", || match agent.rotate() {
        serial if passed(&stage, &serial) => Err(serial),
        _ => Ok(()),
    });
    let serial = agent.rotate();
    assert!(!passed(&stage, &serial), "{serial} by way of the pair again");
    agent.check_that_no_renewal_failed();
    check_nothing_was_refused(&stage.cluster);
}

#[test]
fn an_agent_that_has_nothing_but_its_certificate_is_sent_by_the_pair_to_istiod_itself() {
    let stage = Stage::set();
    let mut agent =
        Rotating::start(&stage, &[replicas(&stage), vec![loopback(stage.istiod().port).to_string()]].concat());
    let serial = agent.rotate();
    assert!(passed(&stage, &serial), "{serial} not by way of the pair");

    let token = fs::read_to_string(&agent.agent.token_file).unwrap();
    let expired =
        Forger::with_the_clusters_key(stage.cluster.folder()).changed(&token, &json!({ "exp": 1_700_000_000 }));
    fs::write(&agent.agent.token_file, expired).unwrap();
    // one may have been on its way
    agent.rotate();
    for _ in 0..2 {
        let serial = agent.rotate();
        assert!(!passed(&stage, &serial), "{serial} by way of the pair, with a token that has expired");
    }
    agent.check_that_no_renewal_failed();
    check_nothing_was_refused(&stage.cluster);
}

fn replicas(stage: &Stage) -> Vec<String> {
    stage.replicas.iter().map(|replica| loopback(replica.port).to_string()).collect()
}

fn passed(stage: &Stage, serial: &str) -> bool {
    stage.replicas.iter().any(|replica| replica.process.errors().contains(serial))
}

/// An agent whose SVID is renewed every few seconds.
struct Rotating {
    agent: Agent,
    serial: String,
}

impl Rotating {
    /// One that asks at these addresses.
    fn start(stage: &Stage, addresses: &[String]) -> Self {
        let agent = stage.agent(addresses, &["--svid-ttl", &format!("{}s", TTL.as_secs())]);
        Self { agent, serial: String::new() }
    }

    /// Waits for another SVID: its serial.
    fn rotate(&mut self) -> String {
        self.serial = wait_until(START, "another SVID", || match served(&self.agent.socket) {
            Ok(served) if served.leaf.serial().to_string() != self.serial => Ok(served.leaf.serial().to_string()),
            other => Err(format!("{other:?}")),
        });
        self.serial.clone()
    }

    fn check_that_no_renewal_failed(&self) {
        let log = self.agent.process.errors();
        assert!(!log.contains(NOT_RENEWED), "{log}");
    }
}
