//! Several identities on one agent's socket.

use std::{collections::BTreeMap, path::Path, time::Duration};

use countersign::proto::envoy::{
    extensions::transport_sockets::tls::v3::Secret,
    service::{
        discovery::v3::DiscoveryRequest, secret::v3::secret_discovery_service_client::SecretDiscoveryServiceClient,
    },
};
use prost::Message as _;
use spiffe::WorkloadApiClient;
use tokio::runtime::{Builder, Runtime};
use tonic::transport::Endpoint;

use crate::{
    pair::Pair,
    support::{
        countersign::{Agent, Serve, countersign, write_token},
        http::{self, free_port, loopback},
        wait::wait_until,
    },
};

const SOON: Duration = Duration::from_secs(20);
const GATEWAY: &str = "spiffe://cluster.local/ns/default/sa/gateway";
const API: &str = "spiffe://cluster.local/ns/default/sa/api";

/// IDs by their hints.
type Identities = BTreeMap<String, String>;

/// A client of the socket.
struct Workload {
    runtime: Runtime,
    client: WorkloadApiClient,
}

impl Workload {
    fn at(socket: &Path) -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let client = runtime.block_on(WorkloadApiClient::connect_to(format!("unix://{}", socket.display()))).unwrap();
        Self { runtime, client }
    }

    /// The default one's hint, and all.
    fn x509(&self) -> Result<(String, Identities), String> {
        let svids = self.runtime.block_on(self.client.fetch_all_x509_svids()).map_err(|error| error.to_string())?;
        let named = svids.iter().map(|svid| (svid.hint().unwrap_or_default().to_owned(), svid.spiffe_id().to_string()));
        Ok((svids[0].hint().unwrap_or_default().to_owned(), named.collect()))
    }

    fn jwt(&self) -> Result<Identities, String> {
        let svids = self.runtime.block_on(self.client.fetch_all_jwt_svids(["a"], None));
        let svids = svids.map_err(|error| error.to_string())?;
        Ok(svids
            .iter()
            .map(|svid| (svid.hint().unwrap_or_default().to_owned(), svid.spiffe_id().to_string()))
            .collect())
    }
}

/// The names of the secrets that an Envoy would be sent that asks for these.
fn secrets(socket: &Path, names: &[&str]) -> Vec<String> {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let resource_names = names.iter().map(|&name| name.to_owned()).collect();
    let answer = runtime.block_on(async {
        let channel = Endpoint::from_shared(format!("unix:{}", socket.display())).unwrap().connect().await.unwrap();
        let type_url = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret".to_owned();
        let request = DiscoveryRequest { resource_names, type_url, ..DiscoveryRequest::default() };
        SecretDiscoveryServiceClient::new(channel).fetch_secrets(request).await.unwrap().into_inner()
    });
    answer.resources.iter().map(|any| Secret::decode(any.value.clone()).unwrap().name).collect()
}

fn named(all: &[(&str, &str)]) -> Identities {
    all.iter().map(|(hint, id)| ((*hint).to_owned(), (*id).to_owned())).collect()
}

#[test]
fn each_is_served_by_its_hint_as_soon_as_there_is_one_and_the_first_stays_the_default() {
    let pair = Pair::start();
    let (logs, data) = (pair.place.logs(), pair.data());
    let (token, admin) = (logs.join("api.token"), free_port());
    let (identity, listen) = (format!("api={}", token.display()), loopback(admin).to_string());
    let flags = ["--hint", "edge", "--identity", &identity, "--admin-listen", &listen];
    let addresses = pair.replicas.each_ref().map(Serve::address);
    let agent = Agent::start_with("agent", logs, &data, "default/gateway", &addresses, "1h", &flags);
    let workload = Workload::at(&agent.socket);

    let first = wait_until(SOON, "the first", || workload.x509());
    assert_eq!(first, ("edge".to_owned(), named(&[("edge", GATEWAY)])), "the other one has no token yet");
    let ready = http::get(loopback(admin), "/readyz").expect_err("it is ready without the other one");
    assert!(ready.contains("other identities") && ready.contains("api: "), "{ready}");
    assert_eq!(secrets(&agent.socket, &["default", API]), ["default"], "what is to come may be asked for");

    write_token(&data, "default/api", &token);
    let both = named(&[("edge", GATEWAY), ("api", API)]);
    wait_until(SOON, "both", || match workload.x509()? {
        (default, all) if default == "edge" && all == both => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let ready = wait_until(SOON, "readiness", || http::get(loopback(admin), "/readyz"));
    assert!(ready.contains(API), "{ready}");
    assert_eq!(workload.jwt().unwrap(), both);
    let by_name =
        workload.runtime.block_on(workload.client.fetch_jwt_svid(["a"], Some(&API.parse().unwrap()))).unwrap();
    assert_eq!((by_name.spiffe_id().to_string().as_str(), by_name.hint()), (API, Some("api")));
    assert_eq!(secrets(&agent.socket, &["default", API]), ["default", API]);
    let all = secrets(&agent.socket, &[]);
    assert!([GATEWAY, API].iter().all(|id| all.iter().any(|name| name == id)), "{all:?}");

    let deny = ["issuance", "deny", "--id", API, "--reason", "stolen", "--data-dir"];
    assert!(countersign().args(deny).arg(&data).output().unwrap().status.success());
    let denied = workload.runtime.block_on(workload.client.fetch_all_jwt_svids(["b"], None)).unwrap();
    let denied: Vec<_> = denied.iter().map(|svid| svid.spiffe_id().to_string()).collect();
    assert_eq!(denied, [GATEWAY], "one that is denied is left out");
}
