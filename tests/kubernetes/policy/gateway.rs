//! A gateway's side of the watch API.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use countersign::proto::countersign::policy::v1::{
    Service, WatchRequest, WatchResponse, policy_service_client::PolicyServiceClient,
};
use tokio::time::timeout;
use tonic::{
    Request, Status, Streaming,
    transport::{Certificate, ClientTlsConfig, Endpoint},
};

use crate::{
    cluster::Cluster,
    pair::{replica::Replica, roots},
};

const LIMIT: Duration = Duration::from_secs(30);

/// What it has been told, put together.
pub(super) struct Gateway {
    pub(super) services: BTreeMap<(String, String), Service>,
    pub(super) version: String,
    pub(super) resets: usize,
    stream: Streaming<WatchResponse>,
}

impl Gateway {
    pub(super) async fn open(
        cluster: &Cluster,
        replica: &Replica,
        token_file: Option<&Path>,
        version: &str,
    ) -> Result<Self, Status> {
        let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(roots(cluster))).domain_name("localhost");
        let endpoint = Endpoint::from_shared(format!("https://{}", replica.address())).unwrap();
        let channel = endpoint.tls_config(tls).unwrap().connect().await.unwrap();
        let mut request = Request::new(WatchRequest { version: version.to_owned(), ..WatchRequest::default() });
        if let Some(file) = token_file {
            let token = fs::read_to_string(file).unwrap();
            request.metadata_mut().insert("authorization", format!("Bearer {}", token.trim()).parse().unwrap());
        }
        let stream = PolicyServiceClient::new(channel).watch(request).await?.into_inner();
        Ok(Self { services: BTreeMap::new(), version: String::new(), resets: 0, stream })
    }

    /// Takes up what comes until the state is whole, and as `is_reached` wants it.
    pub(super) async fn until(
        &mut self,
        what: &str,
        is_reached: impl Fn(&BTreeMap<(String, String), Service>) -> bool,
    ) {
        let reach = async {
            loop {
                let is_whole = self.take_next().await;
                if is_whole && is_reached(&self.services) {
                    return;
                }
            }
        };
        if timeout(LIMIT, reach).await.is_err() {
            panic!("{what}: not within {LIMIT:?}; {} Services at {:?}", self.services.len(), self.version);
        }
    }

    async fn take_next(&mut self) -> bool {
        let message = self.stream.message().await.unwrap().expect("the stream goes on");
        if message.reset {
            self.resets += 1;
            self.services.clear();
        }
        for gone in message.services_gone {
            self.services.remove(&(gone.namespace, gone.name));
        }
        for service in message.services {
            let name = service.service.clone().unwrap();
            self.services.insert((name.namespace, name.name), service);
        }
        let is_whole = !message.version.is_empty();
        if is_whole {
            self.version = message.version;
        }
        is_whole
    }
}
