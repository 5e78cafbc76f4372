//! Envoy's secret discovery service over the published identity: state of the world, incremental, and unary. Istio's names
//! (`default`, `ROOTCA`), SPIRE's (`ALL`, IDs), and the wildcard.
//!
//! What a stream asked for and holds is [`subscription`]'s; the two protocols are [`state_of_world`] and [`delta`], both
//! without I/O; this file moves messages.

mod accepted;
mod delta;
mod resources;
mod served_secret;
mod state_of_world;
mod subscription;
mod validation;

use std::sync::Arc;

use futures_util::stream::{self, BoxStream, StreamExt};
use tonic::{Request, Response, Status, Streaming};
use tracing::warn;

use self::{accepted::Accepted, delta::Delta, served_secret::SECRET_TYPE_URL, state_of_world::StateOfWorld};
pub(super) use self::{
    resources::{Identities, SecretSet, Validation},
    validation::ValidationContexts,
};
use super::phase::Phases;
use crate::{
    proto::{
        envoy::service::{
            discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse},
            secret::v3::secret_discovery_service_server::{SecretDiscoveryService, SecretDiscoveryServiceServer},
        },
        google::rpc,
    },
    service::{
        context_acceptance::{AcceptanceBook, StreamEntry},
        metrics::{Metrics, OpenStream},
    },
};

/// The service.
pub(super) struct SecretDiscovery {
    secrets: Phases<SecretSet>,
    /// What clients have accepted of the contexts of Services.
    book: Arc<AcceptanceBook>,
    metrics: Arc<Metrics>,
}

/// One protocol's side of one stream, without I/O.
trait Session: Default + Send + 'static {
    /// What the client sends.
    type Request: Send + 'static;
    /// What it is answered.
    type Response: Send + 'static;

    /// Whether the client does not accept what it was sent.
    fn is_refusal(request: &Self::Request) -> bool;

    /// Takes note of a request: an acknowledgement, a refusal, a change of names.
    ///
    /// # Errors
    ///
    /// A status to end the stream with.
    fn note(&mut self, request: Self::Request) -> Result<(), Status>;

    /// What the client is owed now, if anything.
    ///
    /// # Errors
    ///
    /// A status to end the stream with.
    fn respond(&mut self, secrets: &SecretSet) -> Result<Option<Self::Response>, Status>;

    /// What the client has accepted.
    fn accepted(&mut self) -> &mut Accepted;
}

impl SecretDiscovery {
    pub(super) fn server(
        secrets: Phases<SecretSet>,
        book: Arc<AcceptanceBook>,
        metrics: Arc<Metrics>,
    ) -> SecretDiscoveryServiceServer<Self> {
        SecretDiscoveryServiceServer::new(Self { secrets, book, metrics })
    }

    fn exchange<S: Session>(&self, requests: Streaming<S::Request>) -> Response<Responses<S::Response>> {
        let exchange = Exchange {
            session: S::default(),
            requests,
            half_closed: false,
            phases: self.secrets.subscribe(),
            current: None,
            entry: self.book.entry(),
            counted: self.metrics.open_stream(),
        };
        let responses =
            stream::try_unfold(exchange, |mut exchange| async { Ok(Some((exchange.next().await?, exchange))) });
        Response::new(responses.boxed())
    }
}

type Responses<M> = BoxStream<'static, Result<M, Status>>;

/// A stream in both directions.
struct Exchange<S: Session> {
    session: S,
    requests: Streaming<S::Request>,
    /// Whether the client has said that it will ask nothing more. What it asked for is served all the same.
    half_closed: bool,
    phases: Phases<SecretSet>,
    current: Option<Arc<SecretSet>>,
    entry: StreamEntry,
    counted: OpenStream,
}

impl<S: Session> Exchange<S> {
    /// The next response. There is always one more to come: a stream never ends with OK, because some clients don't come
    /// back after that.
    ///
    /// # Errors
    ///
    /// A status to end the stream with: the client's fault, or `Unavailable` when the socket closes.
    async fn next(&mut self) -> Result<S::Response, Status> {
        loop {
            tokio::select! {
                request = self.requests.message(), if !self.half_closed => match request? {
                    Some(request) => {
                        if S::is_refusal(&request) {
                            self.counted.refused();
                        }
                        self.session.note(request)?;
                    }
                    None => self.half_closed = true,
                },
                secrets = self.phases.next() => self.current = Some(secrets?),
            }
            let response = match &self.current {
                Some(secrets) => self.session.respond(secrets)?,
                None => None,
            };
            self.entry.take(self.session.accepted().take_news());
            if let Some(response) = response {
                self.counted.pushed();
                return Ok(response);
            }
        }
    }
}

#[tonic::async_trait]
impl SecretDiscoveryService for SecretDiscovery {
    type DeltaSecretsStream = Responses<DeltaDiscoveryResponse>;
    type StreamSecretsStream = Responses<DiscoveryResponse>;

    async fn delta_secrets(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaSecretsStream>, Status> {
        Ok(self.exchange::<Delta>(request.into_inner()))
    }

    async fn stream_secrets(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamSecretsStream>, Status> {
        Ok(self.exchange::<StateOfWorld>(request.into_inner()))
    }

    async fn fetch_secrets(&self, request: Request<DiscoveryRequest>) -> Result<Response<DiscoveryResponse>, Status> {
        let mut session = StateOfWorld::default();
        session.note(request.into_inner())?;
        let secrets = self.secrets.subscribe().next().await?;
        let response = session
            .respond(&secrets)?
            .ok_or_else(|| Status::unavailable("the SVID has expired and has no successor yet"))?;
        Ok(Response::new(DiscoveryResponse { version_info: String::new(), nonce: String::new(), ..response }))
    }
}

/// Refuses requests for other resources than secrets. Empty is taken for secrets: nothing else is served here.
fn check_type_url(type_url: &str) -> Result<(), Status> {
    if type_url.is_empty() || type_url == SECRET_TYPE_URL {
        return Ok(());
    }
    Err(Status::invalid_argument(format!("type_url must be {SECRET_TYPE_URL:?}, not {type_url:?}")))
}

/// What a response is called in the answer to it.
fn nonce_of(response: u64) -> String {
    format!("{response:08x}")
}

/// The response that is called so.
fn number_of(nonce: &str) -> Option<u64> {
    u64::from_str_radix(nonce, 16).ok()
}

/// A refused response is not sent again: it would be refused again. The next change may fare better.
fn log_refusal(node: &str, error: &rpc::Status) {
    warn!(event = "secrets_refused", node, error = error.message, "a client refused the secrets it was sent");
}
