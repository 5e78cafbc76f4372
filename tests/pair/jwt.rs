//! JWT-SVIDs of a pair, by an agent's socket.

use std::{io::Write, path::Path, process::Stdio, time::Duration};

use countersign::proto::{
    JwtBundlesRequest, Jwtsvid, JwtsvidRequest, ValidateJwtsvidRequest, ValidateJwtsvidResponse,
    spiffe_workload_api_client::SpiffeWorkloadApiClient,
};
use rustix::process::Signal;
use serde_json::Value;
use spiffe::{JwtSource, WorkloadApiClient};
use tokio::runtime::{Builder, Runtime};
use tonic::{Code, Status, transport::Channel};

use crate::{
    pair::{Pair, Place, role},
    support::{
        countersign::{Agent, Serve, countersign},
        http::free_port,
        wait::wait_until,
        workload_api::{self, secured},
    },
};

const SOON: Duration = Duration::from_secs(20);
const TTL: Duration = Duration::from_secs(12);
pub(crate) const ID: &str = "spiffe://cluster.local/ns/default/sa/gateway";

/// The workload of a socket.
pub(crate) struct Workload {
    runtime: Runtime,
    client: SpiffeWorkloadApiClient<Channel>,
}

impl Workload {
    pub(crate) fn at(socket: &Path) -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let client = runtime.block_on(workload_api::connect(socket)).unwrap();
        Self { runtime, client }
    }

    pub(crate) fn fetch(&self, audience: &[&str]) -> Result<Jwtsvid, Status> {
        let audience = audience.iter().map(|&audience| audience.to_owned()).collect();
        let request = secured(JwtsvidRequest { audience, spiffe_id: String::new() });
        let answer = self.runtime.block_on(self.client.clone().fetch_jwtsvid(request))?.into_inner();
        assert_eq!(answer.svids.len(), 1, "one identity");
        Ok(answer.svids.into_iter().next().unwrap())
    }

    /// As soon as there is one.
    pub(crate) fn first(&self, audience: &[&str]) -> Jwtsvid {
        wait_until(SOON, &format!("a token for {audience:?}"), || self.fetch(audience))
    }

    pub(crate) fn validate(&self, audience: &str, token: &Jwtsvid) -> Result<ValidateJwtsvidResponse, Status> {
        let request = ValidateJwtsvidRequest { audience: audience.to_owned(), svid: token.svid.clone() };
        self.runtime.block_on(self.client.clone().validate_jwtsvid(secured(request))).map(tonic::Response::into_inner)
    }

    /// The names of the keys of its own trust domain.
    pub(crate) fn keys(&self) -> Result<Vec<String>, Status> {
        self.runtime.block_on(async {
            let mut bundles = self.client.clone().fetch_jwt_bundles(secured(JwtBundlesRequest {})).await?.into_inner();
            let first = bundles.message().await?.expect("the first message");
            let own = serde_json::from_slice::<Value>(&first.bundles["spiffe://cluster.local"]).unwrap();
            let keys = own["keys"].as_array().unwrap().iter();
            Ok(keys.map(|key| key["kid"].as_str().unwrap().to_owned()).collect())
        })
    }
}

/// What `inspect` says of a token by the bundles of a socket.
fn inspected(token: &str, socket: &Path) -> String {
    let bundle = format!("unix://{}", socket.display());
    let mut command = countersign();
    let child =
        command.args(["inspect", "-", "--bundle", &bundle]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut child = child.unwrap();
    child.stdin.take().unwrap().write_all(token.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn start() -> ([Serve; 2], Agent, Place) {
    let place = Place::new();
    let replicas = ["serve-0", "serve-1"].map(|name| {
        let replica = Serve::spawn(name, place.logs(), &place.data(), free_port(), &["--jwt-svid-ttl", "12s"]);
        replica.wait_until_ready();
        replica
    });
    // the standby is asked first: it passes on
    let addresses: Vec<_> = replicas.iter().rev().map(Serve::address).collect();
    let agent = Agent::start("agent", place.logs(), &place.data(), "default/gateway", &addresses, "1h");
    (replicas, agent, place)
}

#[test]
fn tokens_are_minted_by_the_pair_and_served_until_they_expire_when_it_is_gone() {
    let (replicas, agent, place) = start();
    let workload = Workload::at(&agent.socket);
    let first = workload.first(&["a", "b"]);
    assert_eq!(first.spiffe_id, ID);
    assert_eq!(workload.fetch(&["a", "b"]).unwrap().svid, first.svid, "it is kept");
    for audience in ["a", "b"] {
        let valid = wait_until(SOON, "the pair's key", || workload.validate(audience, &first));
        assert_eq!(valid.spiffe_id, ID);
    }
    let inspected = inspected(&first.svid, &agent.socket);
    assert!(
        inspected.contains("verifies to the bundle of unix:") && inspected.contains("audiences   a, b"),
        "{inspected}"
    );
    assert!(!inspected.contains(first.svid.rsplit('.').next().unwrap()), "{inspected}");
    let other = workload.validate("c", &first).unwrap_err();
    assert!(other.code() == Code::InvalidArgument && other.message().starts_with("expected audience in"), "{other}");
    let refused = workload.fetch(&["istio-ca"]).unwrap_err();
    assert!(
        refused.code() == Code::InvalidArgument && refused.message().contains("no JWT-SVID is minted"),
        "{refused}"
    );

    // what the standby mints once it is active is by the same key
    let active = replicas.iter().position(|replica| matches!(role(replica), Ok(Some(_)))).expect("one is active");
    replicas[active].process.signal(Signal::KILL);
    let second = workload.fetch(&["c"]).expect("a request is held until the other one is active");
    assert_eq!(workload.validate("c", &second).unwrap().spiffe_id, ID);

    replicas[1 - active].process.signal(Signal::KILL);
    let kept = workload.fetch(&["c"]).expect("it has not expired");
    assert_eq!(kept.svid, second.svid);
    let lost = wait_until(TTL * 2, "the end of the last token", || match workload.fetch(&["c"]) {
        Err(status) => Ok(status),
        Ok(_) => Err("there is one still"),
    });
    assert!(lost.code() == Code::Unavailable && lost.message().starts_with("could not fetch JWT-SVID: "), "{lost}");
    assert_eq!(workload.validate("c", &second).unwrap_err().message(), "token has expired");
    for log in [&replicas[0].process, &replicas[1].process, &agent.process].map(|process| process.errors()) {
        assert!(!log.contains(&first.svid) && !log.contains(&second.svid), "a token stands in a log:\n{log}");
    }
    let minted: String = replicas.iter().map(|replica| replica.process.errors()).collect();
    assert!(minted.contains("jwt_svid_minted") && minted.contains(r#"audiences=["a", "b"]"#), "{minted}");
    drop(place);
}

#[test]
fn a_denied_workload_hears_so_from_either_socket_and_gets_no_token_that_was_kept() {
    let (_replicas, agent, place) = start();
    let sockets = [Workload::at(&agent.socket), Workload::at(&place.data().join("workload.sock"))];
    sockets.iter().for_each(|workload| drop(workload.first(&["kept"])));
    let issuance = |change: &[&str]| {
        let data = place.data();
        let ended = countersign().arg("issuance").args(change).args(["--id", ID, "--data-dir"]).arg(data).output();
        let ended = ended.unwrap();
        assert!(ended.status.success(), "{change:?}: {ended:?}");
    };
    issuance(&["deny", "--reason", "stolen"]);
    for workload in &sockets {
        for audience in ["other", "kept"] {
            let denied = workload.fetch(&[audience]).expect_err("it is denied");
            assert_eq!((denied.code(), denied.message()), (Code::PermissionDenied, "no identity issued"), "{audience}");
        }
    }
    issuance(&["allow"]);
    sockets.iter().for_each(|workload| drop(workload.fetch(&["kept"]).expect("it is allowed again")));
}

#[test]
fn the_spiffe_crate_has_tokens_from_the_socket_of_a_replica_whether_active_or_not() {
    let pair = Pair::start();
    let socket = pair.data().join("workload.sock");
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let endpoint = format!("unix://{}", socket.display());
    runtime.block_on(async {
        let source = JwtSource::builder().endpoint(&endpoint).build().await.expect("a source");
        let svid = source.fetch_jwt_svid(["a", "b"]).await.expect("a token");
        assert_eq!((svid.spiffe_id().to_string().as_str(), svid.audience()), (ID, &["a".to_owned(), "b".into()][..]));
        let bundle = source.bundle_set().unwrap();
        let bundle = bundle.get(svid.spiffe_id().trust_domain()).expect("the own bundle");
        assert!(bundle.find_jwt_authority(svid.key_id()).is_some(), "its key is published");
        let client = WorkloadApiClient::connect_to(&endpoint).await.unwrap();
        let valid = client.validate_jwt_token("a", svid.token()).await.expect("it is valid");
        assert_eq!(valid.spiffe_id().to_string(), ID);
        client.validate_jwt_token("c", svid.token()).await.expect_err("it is for others");
        source.shutdown().await;
    });
}
