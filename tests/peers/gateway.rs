//! The main job: an Envoy outside the mesh calls, with the identity that our socket gives it, an Envoy that demands it.

use std::{path::Path, time::Duration};

use tempfile::TempDir;

use crate::{
    envoy::{AccessLog, Envoy},
    envoy_config::{self, Sds},
    load::Load,
    support::{
        countersign::{Agent, Serve, ca_address, root_file, write_token},
        http::{self, free_port},
        wait::wait_until,
    },
};

const BACKEND: &str = "spiffe://cluster.local/ns/prod/sa/backend";
const GATEWAYS: &str = "spiffe://cluster.local/ns/gateways/";

/// Envoy gives up waiting for a secret after 15 s, and only then listens.
const WARM_UP: Duration = Duration::from_secs(30);
const RECOVERY: Duration = Duration::from_secs(3);

/// Whose renewals are looked at: one gateway for each variant of SDS.
const VARIANTS: [(&str, Sds); 2] = [("sotw", Sds::StateOfTheWorld), ("delta", Sds::Delta)];

/// Two replicas; the first is the active.
struct Pair {
    replicas: [Serve; 2],
    started: u32,
}

impl Pair {
    fn start(dir: &Path) -> Self {
        let start = |name| Serve::start(name, dir, &dir.join("data"), &[]);
        Self { replicas: [start("serve-1"), start("serve-2")], started: 2 }
    }

    fn addresses(&self) -> Vec<String> {
        self.replicas.iter().map(Serve::address).collect()
    }

    /// Kills the active. Its successor is the other one.
    fn kill_active(&mut self) {
        self.replicas[0].process.kill();
        self.replicas.swap(0, 1);
    }

    /// Starts the one that was killed again, at its old address.
    fn restore(&mut self, dir: &Path) {
        self.started += 1;
        let (name, port) = (format!("serve-{}", self.started), self.replicas[1].port);
        let fresh = Serve::spawn(&name, dir, &dir.join("data"), port, &[]);
        fresh.wait_until_ready();
        self.replicas[1] = fresh;
    }
}

/// A backend and the two gateways that call it, each with an agent and an identity of its own.
struct Mesh {
    _agents: Vec<Agent>,
    _backend: Envoy,
    gateways: Vec<Envoy>,
    log: AccessLog,
}

impl Mesh {
    fn start(dir: &Path, cas: &[String], ttl: &str) -> Self {
        let agent = |name: &str, account: &str| Agent::start(name, dir, &dir.join("data"), account, cas, ttl);
        let mut agents = vec![agent("agent-backend", "prod/backend")];
        let log = dir.join("access.log");
        let backend = Envoy::start("backend", dir, &envoy_config::backend(&agents[0].socket, GATEWAYS, &log));
        let mut gateways = Vec::new();
        for (name, sds) in VARIANTS {
            let agent = agent(&format!("agent-{name}"), &format!("gateways/{name}"));
            let config = envoy_config::gateway(&agent.socket, sds, backend.address.port(), BACKEND);
            gateways.push(Envoy::start(name, dir, &config));
            agents.push(agent);
        }
        Self { _agents: agents, _backend: backend, gateways, log: AccessLog::at(log) }
    }

    /// Waits until both gateways get through to the backend.
    fn wait_until_through(&self, within: Duration) {
        for gateway in &self.gateways {
            wait_until(within, "the backend by way of the gateway", || http::get(gateway.address, "/"));
        }
    }

    fn load(&self) -> Vec<Load> {
        self.gateways.iter().map(|gateway| Load::start(gateway.address, "/")).collect()
    }

    /// How many serials each gateway has shown to the backend.
    fn serials(&mut self) -> Vec<usize> {
        VARIANTS.iter().map(|(name, _)| self.log.serials(&format!("{GATEWAYS}sa/{name}"))).collect()
    }

    /// Waits, under load without a failure, until every gateway has shown `more` serials beyond those of now.
    fn wait_for_serials(&mut self, load: &[Load], more: usize, within: Duration) {
        let before = self.serials();
        wait_until(within, &format!("{more} more serials at the backend"), || {
            let requests: Vec<u64> = load.iter().map(Load::check).collect();
            let now = self.serials();
            let reached = before.iter().zip(&now).all(|(before, now)| *now >= before + more);
            if reached { Ok(()) } else { Err(format!("{now:?} serials, {requests:?} requests")) }
        });
    }

    /// Ends the load and holds what the backend saw to what the clients saw.
    fn finish(&mut self, load: Vec<Load>) {
        let before = self.log.requests().len();
        let asked: u64 = load.into_iter().map(Load::stop).sum();
        assert!(asked > 0 && before > 0, "{asked} requests, {before} of them logged while the load ran");
        wait_until(RECOVERY, "every request in the log of the backend", || {
            let logged = self.log.requests().len();
            if u64::try_from(logged).unwrap() >= asked { Ok(()) } else { Err(format!("{logged} of {asked}")) }
        });
        for request in self.log.requests() {
            assert!(request.start <= request.not_after, "used after it had expired: {request:?}");
        }
    }
}

#[test]
fn a_hundred_rotations_are_not_noticed_by_state_of_the_world_nor_by_delta() {
    let dir = TempDir::new().unwrap();
    let pair = Pair::start(dir.path());
    let mut mesh = Mesh::start(dir.path(), &pair.addresses(), "3s");
    mesh.wait_until_through(WARM_UP);
    let load = mesh.load();
    mesh.wait_for_serials(&load, 100, Duration::from_secs(300));
    mesh.finish(load);
}

#[test]
fn the_death_of_the_active_is_not_noticed() {
    let dir = TempDir::new().unwrap();
    let mut pair = Pair::start(dir.path());
    let mut mesh = Mesh::start(dir.path(), &pair.addresses(), "4s");
    mesh.wait_until_through(WARM_UP);
    let load = mesh.load();
    for _ in 0..5 {
        mesh.wait_for_serials(&load, 1, Duration::from_secs(20));
        pair.kill_active();
        mesh.wait_for_serials(&load, 2, Duration::from_secs(20));
        pair.restore(dir.path());
    }
    mesh.finish(load);
}

#[test]
fn without_a_ca_other_routes_work_and_the_one_to_the_mesh_comes_with_it() {
    let dir = TempDir::new().unwrap();
    let data = dir.path().join("data");
    // The root and the token have to be there before the agents are; then no CA is, until the end.
    let port = {
        let mut once = Serve::start("serve-once", dir.path(), &data, &[]);
        write_token(&data, "default/gateway", &dir.path().join("warm.token"));
        once.process.kill();
        once.port
    };
    assert!(root_file(&data).exists(), "serve left no root-cert.pem");
    let mesh = Mesh::start(dir.path(), &[ca_address(port), ca_address(free_port())], "1h");
    for gateway in &mesh.gateways {
        let left = WARM_UP.saturating_sub(gateway.started.elapsed());
        wait_until(left, "the route that needs no secret", || http::get(gateway.address, "/local"));
        http::get(gateway.address, "/").expect_err("a request to the backend before there is a CA");
    }

    let serve = Serve::spawn("serve", dir.path(), &data, port, &[]);
    serve.wait_until_ready();
    mesh.wait_until_through(RECOVERY);
}
