//! `istio.v1.auth.IstioCertificateService` where istiod signs. The generated server would decode a request and lose what it does
//! not know of it; this one keeps the bytes.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    mem::{Discriminant, discriminant},
    net::IpAddr,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::stream::{Once, once};
use prost::Message as _;
use tokio::sync::Semaphore;
use tonic::{
    Code, Request, Response, Status,
    body::Body,
    codegen::{BoxFuture, Service, http},
    metadata::MetadataMap,
    server::{Grpc, NamedService, ServerStreamingService},
};
use tracing::{debug, info, warn};
use zeroize::Zeroizing;

use super::{
    authentication::PeerConnection,
    certificate_service::signing_request,
    raw_message::{CREATE_CERTIFICATE, TakesRaw},
    status::{NO_IMPERSONATION, NOT_AUTHENTICATED, signing_error},
    trace_context::{answering, callers_context},
};
use crate::{
    proto::istio::v1::auth::{
        IstioCertificateRequest, IstioCertificateResponse, istio_certificate_service_server::SERVICE_NAME,
    },
    service::{
        istiod_pass_on::{PassOn, PassOnError, PassOnRequest},
        line_limit::{Line, LineLimit},
        ports::PassedRequest,
    },
};

/// By what went wrong and which code says so, and by the caller's address.
type RefusalLines = LineLimit<(Discriminant<PassOnError>, Code), Option<IpAddr>>;

/// The signing API.
#[derive(Clone)]
pub(super) struct PassOnService {
    pass_on: Arc<PassOn>,
    lines: Arc<RefusalLines>,
    max_message: usize,
}

/// Agents ask istiod itself then.
const CERTIFICATE_ONLY: &str =
    "this authority passes tokens on to istiod and can't pass on a certificate: ask istiod itself, or bring a token";

impl PassOnService {
    /// Over the use case. Requests have at most `max_message` bytes.
    pub(super) fn new(pass_on: Arc<PassOn>, max_message: usize) -> Self {
        Self { pass_on, lines: Arc::default(), max_message }
    }

    async fn create_certificate(self, request: Request<Bytes>) -> Result<IstioCertificateResponse, Status> {
        let (metadata, extensions, message) = request.into_parts();
        let decoded = IstioCertificateRequest::decode(message.clone());
        let decoded = decoded.map_err(|error| Status::internal(format!("failed to decode the request: {error}")))?;
        let connection = extensions.get::<PeerConnection>();
        let authorization = bearer(&metadata);
        let request = PassOnRequest {
            token: authorization.as_deref().and_then(|value| token_in(value)),
            has_certificate: connection.is_some_and(|connection| connection.presented.is_some()),
            source: connection.map(PeerConnection::source),
            asked: signing_request(decoded),
            passed: PassedRequest {
                authorization: authorization.unwrap_or_default(),
                clusters: metadata.get_all("clusterid").iter().map(|value| value.as_bytes().to_vec()).collect(),
                message: message.to_vec(),
            },
        };
        let nobody_waits = Semaphore::const_new(0);
        let held = connection.map_or(&nobody_waits, |connection| &connection.held);
        match self.pass_on.answer(request, held).await {
            Ok(cert_chain) => Ok(IstioCertificateResponse { cert_chain }),
            Err(error) => {
                let status = status_of(&error);
                let line =
                    self.lines.line((discriminant(&error), status.code()), connection.map(PeerConnection::source));
                say(line, connection, status.code(), &error);
                Err(status)
            }
        }
    }
}

fn say(line: Option<Line>, peer: Option<&PeerConnection>, code: Code, error: &PassOnError) {
    let peer = peer.map(|peer| peer.address.to_string()).unwrap_or_default();
    let Some(Line { left_out }) = line else {
        debug!(event = "create_certificate_refused", peer, ?code, reason = %error);
        return;
    };
    if code == Code::Unavailable {
        warn!(event = "create_certificate_unavailable", peer, reason = %error, left_out);
    } else {
        info!(event = "create_certificate_refused", peer, ?code, reason = %error, left_out);
    }
}

impl NamedService for PassOnService {
    const NAME: &'static str = SERVICE_NAME;
}

impl Service<http::Request<Body>> for PassOnService {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move {
            if request.uri().path() != CREATE_CERTIFICATE {
                return Ok(Status::unimplemented("").into_http());
            }
            let mut grpc = Grpc::new(TakesRaw).max_decoding_message_size(service.max_message);
            Ok(grpc.server_streaming(HeadFirst(service), request).await)
        })
    }
}

/// Sends the head of an answer before there is one: who has it knows that the request was taken, and does not bring it to another
/// replica as well, which would ask istiod for the same. To a caller it is a single answer all the same.
struct HeadFirst(PassOnService);

impl ServerStreamingService<Bytes> for HeadFirst {
    type Response = IstioCertificateResponse;
    type ResponseStream = Once<BoxFuture<IstioCertificateResponse, Status>>;
    type Future = Ready<Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<Bytes>) -> Self::Future {
        let caller = callers_context(request.metadata());
        let answer = self.0.clone().create_certificate(request);
        let answer: BoxFuture<_, _> = Box::pin(answering(CREATE_CERTIFICATE, caller, answer));
        ready(Ok(Response::new(once(answer))))
    }
}

/// The value that istiod takes the token from: the first of that form.
fn bearer(metadata: &MetadataMap) -> Option<Zeroizing<Vec<u8>>> {
    let mut values = metadata.get_all("authorization").iter().map(|value| value.as_bytes());
    values.find(|value| value.starts_with(BEARER)).map(|value| Zeroizing::new(value.to_vec()))
}

const BEARER: &[u8] = b"Bearer ";

fn token_in(authorization: &[u8]) -> Option<Zeroizing<String>> {
    let token = std::str::from_utf8(authorization.strip_prefix(BEARER)?).ok()?;
    Some(Zeroizing::new(token.trim().to_owned()))
}

/// istiod's codes and texts for what is judged here in its place.
fn status_of(error: &PassOnError) -> Status {
    match error {
        PassOnError::NoProof | PassOnError::NoAccount => Status::unauthenticated(NOT_AUTHENTICATED),
        PassOnError::Impersonation(_) => Status::unauthenticated(NO_IMPERSONATION),
        PassOnError::CertificateOnly => Status::failed_precondition(CERTIFICATE_ONLY),
        PassOnError::Csr(error) => Status::invalid_argument(signing_error(error)),
        PassOnError::ByIstiod { code, message } => Status::new(Code::from(*code), message.clone()),
        PassOnError::Unreachable(_)
        | PassOnError::NoRoots(_)
        | PassOnError::Limited
        | PassOnError::Overloaded
        | PassOnError::Answer(_)
        | PassOnError::Failed => Status::unavailable(error.to_string()),
    }
}
