//! A collector of OpenTelemetry's: takes spans over gRPC and keeps them.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::{KeyValue, any_value::Value},
    trace::v1::{Span, status::StatusCode},
};
use prost::Message as _;
use tokio::{
    net::TcpListener,
    runtime::{Builder, Runtime},
};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{
    Request, Response, Status,
    transport::{Certificate, Identity, Server, ServerTlsConfig},
};

use super::{authority::Authority, http::loopback};

/// It listens until it is dropped.
pub(crate) struct Collector {
    endpoint: String,
    kept: Kept,
    _runtime: Runtime,
}

/// A span as far as tests look at it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// The `service.instance.id` of the process that made it, else its `service.name`.
    pub(crate) process: String,
    pub(crate) name: String,
    pub(crate) kind: i32,
    pub(crate) trace: Vec<u8>,
    pub(crate) id: Vec<u8>,
    pub(crate) parent: Vec<u8>,
    pub(crate) is_error: bool,
    attributes: Vec<KeyValue>,
}

#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Received>>);

#[derive(Default)]
struct Received {
    spans: Vec<Seen>,
    /// All that came, as bytes, and the metadata of each call.
    raw: Vec<u8>,
    metadata: Vec<String>,
}

impl Collector {
    /// Starts one on a port that the system chooses.
    pub(crate) fn start() -> Self {
        Self::with(Server::builder(), "http")
    }

    /// The same over TLS, with a certificate of this authority, for clients that have one of it too.
    pub(crate) fn start_over_tls(authority: &Authority) -> Self {
        let (certificate, key) = authority.server_at(loopback(0).ip());
        let clients = Certificate::from_pem(&authority.certificate);
        let tls = ServerTlsConfig::new().identity(Identity::from_pem(certificate, key)).client_ca_root(clients);
        Self::with(Server::builder().tls_config(tls).unwrap(), "https")
    }

    fn with(mut server: Server, scheme: &str) -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind(loopback(0))).unwrap();
        let (endpoint, kept) = (format!("{scheme}://{}", listener.local_addr().unwrap()), Kept::default());
        let server = server.add_service(TraceServiceServer::new(kept.clone()));
        runtime.spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        Self { endpoint, kept, _runtime: runtime }
    }

    /// What makes a process send its spans here soon, under this name.
    pub(crate) fn variables(&self, instance: &str) -> Vec<(String, String)> {
        variables_of(&self.endpoint, instance)
    }

    /// The spans so far.
    pub(crate) fn spans(&self) -> Vec<Seen> {
        self.kept.received(|received| received.spans.clone())
    }

    /// All that was sent, as it was sent.
    pub(crate) fn raw(&self) -> Vec<u8> {
        self.kept.received(|received| received.raw.clone())
    }

    /// The metadata of each call.
    pub(crate) fn metadata(&self) -> Vec<String> {
        self.kept.received(|received| received.metadata.clone())
    }
}

/// What makes a process send its spans to this address soon, under this name.
pub(crate) fn variables(address: SocketAddr, instance: &str) -> Vec<(String, String)> {
    variables_of(&format!("http://{address}"), instance)
}

fn variables_of(endpoint: &str, instance: &str) -> Vec<(String, String)> {
    let variables = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.to_owned()),
        ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=of-the-test".to_owned()),
        ("OTEL_RESOURCE_ATTRIBUTES", format!("service.instance.id={instance}")),
        ("OTEL_BSP_SCHEDULE_DELAY", "100".to_owned()),
    ];
    variables.map(|(name, value)| (name.to_owned(), value)).to_vec()
}

impl Seen {
    fn new(process: &str, span: Span) -> Self {
        let is_error = span.status.is_some_and(|status| status.code() == StatusCode::Error);
        Self {
            process: process.to_owned(),
            name: span.name,
            kind: span.kind,
            trace: span.trace_id,
            id: span.span_id,
            parent: span.parent_span_id,
            is_error,
            attributes: span.attributes,
        }
    }

    /// An attribute, as text.
    pub(crate) fn attribute(&self, key: &str) -> Option<String> {
        text_of(&self.attributes, key)
    }
}

impl Kept {
    fn received<T>(&self, look: impl FnOnce(&mut Received) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[tonic::async_trait]
impl TraceService for Kept {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let (metadata, _, message) = request.into_parts();
        self.received(|received| {
            received.metadata.push(format!("{metadata:?}"));
            received.raw.extend(message.encode_to_vec());
            for spans in message.resource_spans {
                let attributes = spans.resource.unwrap_or_default().attributes;
                let text = |key| text_of(&attributes, key);
                let process = text("service.instance.id").or_else(|| text("service.name")).unwrap_or_default();
                let spans = spans.scope_spans.into_iter().flat_map(|scope| scope.spans);
                received.spans.extend(spans.map(|span| Seen::new(&process, span)));
            }
        });
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

fn text_of(attributes: &[KeyValue], key: &str) -> Option<String> {
    let found = attributes.iter().find(|attribute| attribute.key == key)?;
    let value = found.value.clone()?.value?;
    if let Value::StringValue(text) = value {
        Some(text)
    } else if let Value::IntValue(number) = value {
        Some(number.to_string())
    } else {
        None
    }
}
