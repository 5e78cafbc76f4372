//! Envoys that call each other over mutual TLS, each by the exact SPIFFE ID of the other, on a new connection for each request.

use std::{fs, path::Path, time::Duration};

use crate::{
    envoy::{AccessLog, Envoy},
    envoy_config::{self, Sds},
    load::Load,
    pair::Pair,
    sidecar::Sidecar,
    support::{certificate::Certificate, countersign::Agent, http, wait::wait_until},
};

const CLIENT: &str = "spiffe://cluster.local/ns/default/sa/client";
const SERVER: &str = "spiffe://cluster.local/ns/default/sa/server";
const SIDECAR: &str = "spiffe://cluster.local/ns/default/sa/sidecar";
const WARM_UP: Duration = Duration::from_secs(30);
const LOGGED: Duration = Duration::from_secs(3);

/// All of them, under load.
pub(crate) struct Traffic {
    loads: Vec<Load>,
    envoys: Vec<Named>,
    logs: [AccessLog; 2],
    _agents: [Agent; 2],
    _sidecar: Sidecar,
}

impl Traffic {
    /// Starts them, and the load once each gets through to the other.
    pub(crate) fn start(pair: &Pair) -> Self {
        let agents = [pair.agent("client"), pair.agent("server")];
        let sidecar = Sidecar::start(pair);
        let dir = pair.logs();
        let logs = [dir.join("server.log"), dir.join("sidecar.log")];
        let (client, server) = (&agents[0].socket, &agents[1].socket);
        let server = serve(dir, "server", server, &[CLIENT, SIDECAR], &logs[0]);
        let sidecar_server = serve(dir, "sidecar-server", &sidecar.socket, &[CLIENT], &logs[1]);
        let clients = [
            call(dir, "client", client, &server, SERVER),
            call(dir, "client-of-sidecar", client, &sidecar_server, SIDECAR),
            call(dir, "sidecar-client", &sidecar.socket, &server, SERVER),
        ];
        let loads = clients.iter().map(load).collect();
        let envoys = clients.into_iter().chain([server, sidecar_server]).collect();
        Self { loads, envoys, logs: logs.map(AccessLog::at), _agents: agents, _sidecar: sidecar }
    }

    /// Fails if a request has.
    pub(crate) fn check(&self) {
        for load in &self.loads {
            load.check();
        }
    }

    /// Waits, under load, until the Envoys believe the roots of that file, no less and no more.
    pub(crate) fn wait_for_roots(&self, roots: &Path, within: Duration) {
        let wanted = || serials(&fs::read_to_string(roots).unwrap());
        for (name, envoy) in &self.envoys {
            wait_until(within, &format!("the published roots alone at {name}"), || {
                self.check();
                let (wanted, found) = (wanted(), serials(&envoy.secrets()?.roots));
                if wanted == found { Ok(()) } else { Err(format!("{found:?} instead of {wanted:?}")) }
            });
        }
    }

    /// Waits, under load, until each Envoy shows another certificate than it does now.
    pub(crate) fn wait_for_renewals(&self, within: Duration) {
        let leaf = |envoy: &Envoy| Ok::<_, String>(serials(&envoy.secrets()?.chain));
        let before: Vec<_> = self.envoys.iter().map(|(_, envoy)| leaf(envoy).unwrap()).collect();
        for ((name, envoy), before) in self.envoys.iter().zip(before) {
            wait_until(within, &format!("another certificate at {name}"), || {
                self.check();
                let now = leaf(envoy)?;
                if now == before { Err(format!("{now:?}")) } else { Ok(()) }
            });
        }
    }

    /// Ends the load and holds what the servers saw to it: how many requests there were, and how many certificates were shown.
    pub(crate) fn end(mut self) -> (u64, usize) {
        let asked: u64 = self.loads.into_iter().map(Load::stop).sum();
        for (name, envoy) in &self.envoys {
            let (taken, refused) = envoy.secrets_taken_and_refused();
            assert!(taken > 0 && refused == 0, "{name} took {taken} secrets and refused {refused}");
        }
        wait_until(LOGGED, "every request in the logs of the servers", || {
            let logged: usize = self.logs.iter_mut().map(|log| log.requests().len()).sum();
            if u64::try_from(logged).unwrap() >= asked { Ok(()) } else { Err(format!("{logged} of {asked}")) }
        });
        for request in self.logs.iter_mut().flat_map(AccessLog::requests) {
            assert!(request.start <= request.not_after, "used after it had expired: {request:?}");
        }
        let shown = self.logs.iter_mut().map(|log| log.serials(CLIENT) + log.serials(SIDECAR)).sum();
        (asked, shown)
    }
}

type Named = (&'static str, Envoy);

fn serve(dir: &Path, name: &'static str, socket: &Path, callers: &[&str], log: &Path) -> Named {
    (name, Envoy::start(name, dir, &envoy_config::backend_of(socket, "ROOTCA", callers, log)))
}

fn call(dir: &Path, name: &'static str, socket: &Path, server: &Named, id: &str) -> Named {
    let server = server.1.address.port();
    (name, Envoy::start(name, dir, &envoy_config::gateway(socket, Sds::StateOfTheWorld, server, id)))
}

fn load(client: &Named) -> Load {
    let (name, Envoy { address, .. }) = client;
    let path = format!("/{name}");
    wait_until(WARM_UP, &path, || http::get(*address, &path));
    Load::start_with(1, *address, &path)
}

/// Sorted.
fn serials(pem: &str) -> Vec<String> {
    let mut serials: Vec<String> = Certificate::from_pem(pem).into_iter().map(|one| one.serial).collect();
    serials.sort();
    serials
}
