//! Envoys of two trust domains that federate with each other, and callers that neither of the two believes.

use std::{
    collections::BTreeSet,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use tempfile::TempDir;

use super::domain::Domain;
use crate::{
    envoy::{AccessLog, Envoy},
    envoy_config,
    support::{authority::Authority, countersign::Agent, http, wait::wait_until},
};

const BACKEND: &str = "prod/backend";
const GATEWAY: &str = "gateways/edge";
/// All that are federated with, each for its own SVIDs alone.
const ALL: &str = "ALL";
/// How an Envoy refuses a caller by a context of roots, and by one for all.
const UNKNOWN_CA: &str = "TLSV1_ALERT_UNKNOWN_CA";
const UNKNOWN: &str = "SSLV3_ALERT_CERTIFICATE_UNKNOWN";
/// Envoy gives up waiting for a secret after 15 s, and only then listens.
pub(super) const WARM_UP: Duration = Duration::from_secs(20);

#[test]
fn envoys_of_two_trust_domains_accept_each_other_and_nobody_of_a_third() {
    let dir = TempDir::new().unwrap();
    let names = ["one.example", "two.example", "three.example"];
    let [one, two, three] = names.map(|name| Domain::start(dir.path(), name, &[]));
    one.federate(&two);
    two.federate(&one);
    // it believes them, and neither of them believes it
    three.federate(&one);
    three.federate(&two);
    // a context of one trust domain's roots takes them for any ID, so that is asked for besides; ALL takes them for their own alone
    let of_one = Backend::start(dir.path(), &one, "spiffe://two.example", "spiffe://two.example/");
    let of_two = Backend::start(dir.path(), &two, ALL, "spiffe://");

    let from_one = Gateway::start(dir.path(), &one, "spiffe://two.example", &of_two);
    let from_two = Gateway::start(dir.path(), &two, ALL, &of_one);
    for (gateway, caller, backend) in [(&from_one, &one, &of_two), (&from_two, &two, &of_one)] {
        wait_until(WARM_UP, &format!("{} by way of the gateway of {}", backend.id, caller.name), || {
            http::get(gateway.envoy.address, "/")
        });
        backend.wait_for_caller(&caller.id(GATEWAY));
    }

    for (backend, resource, why) in [(&of_one, "spiffe://one.example", UNKNOWN_CA), (&of_two, ALL, UNKNOWN)] {
        let stranger = Gateway::start(dir.path(), &three, resource, backend);
        wait_until_refused(stranger.envoy.address, why);
    }

    // a root that is believed for four.example speaks for no other trust domain
    let four = Authority::root("four");
    let roots = dir.path().join("four.pem");
    fs::write(&roots, &four.certificate).unwrap();
    let by_hand = ["--url", "https://localhost:1/", "--bundle", roots.to_str().unwrap()];
    two.done(&[&["federation", "create", "four.example"], by_hand.as_slice()].concat());
    let own = "spiffe://four.example/ns/gateways/sa/edge";
    let honest = by_files(dir.path(), "honest", four.svid(own), &two, &of_two);
    wait_until(WARM_UP, "an answer for four.example", || http::get(honest.address, "/"));
    let forger = by_files(dir.path(), "forger", four.svid(&one.id(GATEWAY)), &two, &of_two);
    wait_until_refused(forger.address, UNKNOWN);

    for gateway in [&from_one, &from_two] {
        http::get(gateway.envoy.address, "/").unwrap();
    }
    two.done(&["federation", "delete", "one.example"]);
    wait_until_refused(from_one.envoy.address, UNKNOWN);
    wait_until_refused(from_two.envoy.address, "CERTIFICATE_VERIFY_FAILED");
    http::get(honest.address, "/").unwrap();
    for (backend, expected) in [(of_one, vec![two.id(GATEWAY)]), (of_two, vec![own.to_owned(), one.id(GATEWAY)])] {
        backend.wait_for_caller(&expected[0]);
        assert_eq!(backend.callers().into_iter().collect::<Vec<_>>(), expected, "{}", backend.id);
    }
}

/// A service of one trust domain that takes callers of another one.
pub(super) struct Backend {
    envoy: Envoy,
    id: String,
    log: PathBuf,
    _agent: Agent,
}

impl Backend {
    pub(super) fn start(dir: &Path, domain: &Domain, resource: &str, clients: &str) -> Self {
        let (agent, log) = (domain.agent("backend", BACKEND), dir.join(format!("{}.log", domain.name)));
        let config = envoy_config::backend_by(resource, &agent.socket, clients, &log);
        let envoy = Envoy::start(&format!("backend-{}", domain.name), dir, &config);
        Self { envoy, id: domain.id(BACKEND), log, _agent: agent }
    }

    fn callers(&self) -> BTreeSet<String> {
        let mut log = AccessLog::at(self.log.clone());
        log.requests().iter().map(|request| request.client.clone()).collect()
    }

    fn wait_for_caller(&self, id: &str) {
        wait_until(WARM_UP, &format!("{id} in the log of {}", self.id), || match self.callers() {
            callers if callers.contains(id) => Ok(()),
            callers => Err(format!("{callers:?}")),
        });
    }
}

/// A caller of a service, with an agent of its own.
pub(super) struct Gateway {
    pub(super) envoy: Envoy,
    _agent: Agent,
}

impl Gateway {
    /// One that verifies the service by that resource of its socket.
    pub(super) fn start(dir: &Path, domain: &Domain, resource: &str, backend: &Backend) -> Self {
        let port = backend.envoy.address.port();
        let agent = domain.agent(&format!("gateway-{port}"), GATEWAY);
        let config = envoy_config::gateway_by(resource, &agent.socket, port, &backend.id);
        let envoy = Envoy::start(&format!("gateway-{}-{port}", domain.name), dir, &config);
        Self { envoy, _agent: agent }
    }
}

/// A caller that shows such a certificate, and believes who is called.
fn by_files(dir: &Path, name: &str, svid: (String, String), called: &Domain, backend: &Backend) -> Envoy {
    let mount = dir.join(name);
    fs::create_dir(&mount).unwrap();
    let roots = fs::read_to_string(called.roots()).unwrap();
    for (file, text) in [("tls.crt", svid.0), ("tls.key", svid.1), ("ca.crt", roots)] {
        fs::write(mount.join(file), text).unwrap();
    }
    for (file, secret) in envoy_config::secrets_of_mounted(&mount) {
        fs::write(mount.join(file), secret.to_string()).unwrap();
    }
    let config = envoy_config::gateway_of_files(&mount, backend.envoy.address.port(), &backend.id);
    Envoy::start(name, dir, &config)
}

/// Waits until a gateway's request fails in the handshake, with this reason.
fn wait_until_refused(gateway: SocketAddr, why: &str) {
    wait_until(WARM_UP, &format!("a refusal: {why}"), || match http::get(gateway, "/") {
        Err(seen) if seen.contains("TLS_error") && seen.contains(why) => Ok(()),
        seen => Err(format!("{seen:?}")),
    });
}
