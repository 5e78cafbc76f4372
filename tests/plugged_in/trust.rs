//! What is published to verify by reaches an agent at once, whoever is active, and stays when nobody is.

use std::{collections::HashMap, fs, path::Path, time::Duration};

use countersign::{
    domain::x509::Certificate,
    proto::{
        JwtBundlesRequest, X509BundlesRequest, X509svidRequest, spiffe_workload_api_client::SpiffeWorkloadApiClient,
    },
};
use tokio::runtime::Runtime;
use tonic::transport::Channel;

use crate::{
    place::Place,
    support::{
        authority::{Authority, CaDir, Kind},
        countersign::{Serve, countersign, write_token},
        http::{self, loopback},
        process::Process,
        wait::wait_until,
        workload_api::{self, secured},
    },
};

/// From files that changed to the socket: they are noticed within 2 s, and nothing is renewed for it.
const SOON: Duration = Duration::from_secs(10);
const TRUST_DOMAIN: &str = "spiffe://cluster.local";

/// A client of a workload socket.
struct Client {
    runtime: Runtime,
    api: SpiffeWorkloadApiClient<Channel>,
}

impl Client {
    fn new(socket: &Path) -> Self {
        let runtime = Runtime::new().unwrap();
        let api = runtime.block_on(workload_api::connect(socket)).unwrap();
        Self { runtime, api }
    }

    /// The serial of the SVID; it tells whether there was a renewal.
    fn leaf(&self) -> Vec<u8> {
        let mut api = self.api.clone();
        let request = secured(X509svidRequest {});
        let answer = self.runtime.block_on(async { api.fetch_x509svid(request).await?.into_inner().message().await });
        answer.unwrap().unwrap().svids[0].x509_svid.to_vec()
    }

    fn roots(&self) -> Vec<u8> {
        let mut api = self.api.clone();
        let request = secured(X509BundlesRequest {});
        let answer =
            self.runtime.block_on(async { api.fetch_x509_bundles(request).await?.into_inner().message().await });
        answer.unwrap().unwrap().bundles[TRUST_DOMAIN].to_vec()
    }

    fn jwks(&self) -> HashMap<String, serde_json::Value> {
        let mut api = self.api.clone();
        let request = secured(JwtBundlesRequest {});
        let answer =
            self.runtime.block_on(async { api.fetch_jwt_bundles(request).await?.into_inner().message().await });
        let bundles = answer.unwrap().unwrap().bundles.into_iter();
        bundles.map(|(domain, jwks)| (domain, serde_json::from_slice(&jwks).unwrap())).collect()
    }

    fn wait_for_roots(&self, expected: &[&Authority]) {
        let der = |root: &&Authority| Certificate::all_from_pem(root.certificate.as_bytes()).unwrap()[0].der().to_vec();
        let expected: Vec<u8> = expected.iter().flat_map(der).collect();
        wait_until(SOON, "the roots on the socket", || {
            let roots = self.roots();
            if roots == expected { Ok(()) } else { Err(format!("{} bytes, not {}", roots.len(), expected.len())) }
        });
    }

    /// The key identifier of the only key of JWT-SVIDs.
    fn wait_for_key(&self) -> String {
        wait_until(SOON, "a key of JWT-SVIDs on the socket", || {
            let jwks = self.jwks();
            let own = &jwks[TRUST_DOMAIN];
            assert!(own.get("spiffe_sequence").is_none(), "{own}");
            match own["keys"].as_array().unwrap().as_slice() {
                [key] if key.get("use").is_none() => Ok(key["kid"].as_str().unwrap().to_owned()),
                _ => Err(own.to_string()),
            }
        })
    }
}

/// An agent that verifies replicas by a file of its own: when theirs changes it renews nothing.
fn agent(name: &str, place: &Place, roots: &Path, addresses: &[String]) -> (Process, Client) {
    let (socket, token) = (place.logs().join(format!("{name}.sock")), place.logs().join(format!("{name}.token")));
    write_token(&place.data(), &format!("default/{name}"), &token);
    let mut command = countersign();
    command.arg("agent").arg("--socket").arg(&socket).arg("--token-file").arg(&token);
    command.arg("--root-file").arg(roots).args(["--svid-ttl", "1h"]);
    for address in addresses {
        command.args(["--ca-address", address]);
    }
    let process = Process::start(name, place.logs(), &mut command);
    wait_until(SOON, "a socket", || if socket.exists() { Ok(()) } else { Err("no such file") });
    (process, Client::new(&socket))
}

fn is_active(serve: &Serve) -> bool {
    http::get(loopback(serve.admin_port), "/readyz").is_ok_and(|ready| ready.contains("(active in term"))
}

#[test]
fn a_change_of_roots_reaches_agents_without_a_renewal_through_whoever_is_active() {
    let place = Place::new();
    let [old, new] = ["old", "new"].map(Authority::root);
    let signer = old.below("1", Kind::P256);
    let both = old.certificate.clone() + &new.certificate;
    let ca = CaDir::mounted(&signer.cacerts(&old.certificate));
    let mut replicas = [place.start("serve-0", &ca), place.start("serve-1", &ca)];
    let addresses = replicas.each_ref().map(Serve::address);
    let roots = place.logs().join("roots.pem");
    fs::write(&roots, &old.certificate).unwrap();
    // two agents know one replica each, so that one of them follows the standby
    let known = [&addresses[..1], &addresses[1..], &addresses[..]];
    let names = ["agent-0", "agent-1", "agent"];
    let agents: Vec<_> =
        names.iter().zip(known).map(|(name, addresses)| agent(name, &place, &roots, addresses)).collect();
    let own = Client::new(&place.data().join("workload.sock"));
    let clients: Vec<&Client> = agents.iter().map(|(_, client)| client).chain([&own]).collect();
    let leaves: Vec<_> = clients[..3].iter().map(|client| client.leaf()).collect();
    let keys: Vec<_> = clients.iter().map(|client| client.wait_for_key()).collect();
    assert!(keys.iter().all(|key| *key == keys[0]), "{keys:?}");

    ca.swap(&signer.cacerts(&both));
    clients.iter().for_each(|client| client.wait_for_roots(&[&old, &new]));
    ca.swap(&signer.cacerts(&old.certificate));
    clients.iter().for_each(|client| client.wait_for_roots(&[&old]));

    let active = usize::from(is_active(&replicas[1]));
    assert!(is_active(&replicas[active]));
    replicas[active].process.kill();
    wait_until(SOON, "the standby active", || if is_active(&replicas[1 - active]) { Ok(()) } else { Err("not yet") });
    ca.swap(&signer.cacerts(&both));
    for client in [clients[1 - active], clients[2]] {
        client.wait_for_roots(&[&old, &new]);
        assert_eq!(client.wait_for_key(), keys[0], "it is kept in the state");
    }
    // whoever knew only the one that is gone keeps what it had
    clients[active].wait_for_roots(&[&old]);
    assert_eq!(clients[active].wait_for_key(), keys[0]);
    let now: Vec<_> = clients[..3].iter().map(|client| client.leaf()).collect();
    assert_eq!(now, leaves, "nothing was renewed for it");
}
