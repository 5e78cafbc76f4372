//! Clients of the socket in a gateway's pod: of the Workload API, and of Envoy's secret discovery.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use countersign::proto::envoy::{
    config::core::v3::{Node, data_source::Specifier},
    extensions::transport_sockets::tls::v3::{Secret, secret},
    service::{
        discovery::v3::DiscoveryRequest, secret::v3::secret_discovery_service_client::SecretDiscoveryServiceClient,
    },
};
use prost::Message as _;
use tokio::time::timeout;
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};

use crate::{
    cluster::block_on,
    support::{certificate::Certificate, workload_api::x509_svids},
};

const TYPE_URL: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";
/// Of one look; a stream that says nothing for so long has nothing.
const PATIENCE: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(50);

async fn connect(socket: &Path) -> Result<Channel, Status> {
    let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display())).unwrap();
    endpoint.connect().await.map_err(|error| Status::unknown(format!("no connection: {error}")))
}

/// The leaf that a caller of the Workload API gets.
pub(crate) fn leaf_by_workload_api(socket: &Path) -> Result<Certificate, Status> {
    block_on(async { first(&mut x509_stream(socket).await?).await })
}

async fn x509_stream(socket: &Path) -> Result<tonic::Streaming<countersign::proto::X509svidResponse>, Status> {
    timeout(PATIENCE, x509_svids(socket)).await.unwrap_or_else(|_| Err(silent()))
}

async fn first(stream: &mut tonic::Streaming<countersign::proto::X509svidResponse>) -> Result<Certificate, Status> {
    let answer = timeout(PATIENCE, stream.message()).await.map_err(|_elapsed| silent())??;
    let svid = answer.ok_or_else(|| Status::ok("the stream ended"))?.svids.swap_remove(0);
    Ok(first_of(&svid.x509_svid))
}

fn silent() -> Status {
    Status::deadline_exceeded(format!("nothing within {PATIENCE:?}"))
}

/// The first of some concatenated DER certificates.
fn first_of(der: &[u8]) -> Certificate {
    let (rest, _first) = x509_parser::parse_x509_certificate(der).unwrap();
    Certificate::from_der(&der[..der.len() - rest.len()])
}

/// The leaf that secret discovery has under the name `default`.
pub(crate) fn leaf_by_sds(socket: &Path) -> Result<Certificate, String> {
    let asked = async {
        let channel = connect(socket).await?;
        let request = DiscoveryRequest {
            // pilot-agent answers nobody without
            node: Some(Node { id: "test".to_owned(), cluster: "test".to_owned() }),
            resource_names: vec!["default".to_owned()],
            type_url: TYPE_URL.to_owned(),
            ..DiscoveryRequest::default()
        };
        let requests = futures_util::StreamExt::chain(tokio_stream::once(request), tokio_stream::pending());
        let mut answers = SecretDiscoveryServiceClient::new(channel).stream_secrets(requests).await?.into_inner();
        answers.message().await?.ok_or_else(|| Status::ok("the stream ended"))
    };
    let answer = block_on(async { timeout(PATIENCE, asked).await.unwrap_or_else(|_| Err(silent())) });
    let answer = answer.map_err(|status| status.to_string())?;
    let secret = Secret::decode(answer.resources[0].value.clone()).unwrap();
    let Some(secret::Type::TlsCertificate(certificate)) = secret.r#type else { return Err(format!("{secret:?}")) };
    let chain = certificate.certificate_chain.and_then(|chain| chain.specifier);
    let Some(Specifier::InlineBytes(chain)) = chain else { return Err(format!("{chain:?}")) };
    Ok(Certificate::from_pem(str::from_utf8(&chain).unwrap()).swap_remove(0))
}

/// One look at the socket.
#[derive(Clone, Debug)]
pub(crate) struct Look {
    pub(crate) at: Instant,
    /// Seconds since 1970.
    pub(crate) clock: i64,
    pub(crate) seen: Result<Certificate, (Code, String)>,
}

/// Asks the Workload API again and again, as clients do that start while it runs.
pub(crate) struct Watch {
    shared: Arc<Shared>,
    worker: Option<JoinHandle<()>>,
}

struct Shared {
    socket: PathBuf,
    stop: AtomicBool,
    looks: Mutex<Vec<Look>>,
}

impl Watch {
    pub(crate) fn start(socket: &Path) -> Self {
        let shared =
            Arc::new(Shared { socket: socket.to_owned(), stop: AtomicBool::new(false), looks: Mutex::default() });
        let worker = thread::spawn({
            let shared = Arc::clone(&shared);
            move || shared.work()
        });
        Self { shared, worker: Some(worker) }
    }

    pub(crate) fn looks(&self) -> Vec<Look> {
        self.shared.looks.lock().unwrap().clone()
    }
}

impl Shared {
    fn work(&self) {
        while !self.stop.load(Ordering::Relaxed) {
            let seen =
                leaf_by_workload_api(&self.socket).map_err(|status| (status.code(), status.message().to_owned()));
            let clock = time::OffsetDateTime::now_utc().unix_timestamp();
            self.looks.lock().unwrap().push(Look { at: Instant::now(), clock, seen });
            thread::sleep(PAUSE);
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(worker) = self.worker.take() {
            let _its_panic_is_shown = worker.join();
        }
    }
}
