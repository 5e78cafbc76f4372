//! The server on the CA port: signing API, health, reflection.

use std::{future::Future, sync::Arc, time::Duration};

use rustls::ServerConfig;
use tokio::{net::TcpListener, sync::watch};
use tonic::{service::RoutesBuilder, transport::Server};
use tonic_health::pb::health_server::{Health, HealthServer};

use super::{certificate_service::CertificateService, reflection::add_reflection, tls_listener::accept_tls};
use crate::{
    proto::{ISTIO_CA_DESCRIPTORS, istio::v1::auth::istio_certificate_service_server::IstioCertificateServiceServer},
    service::create_certificate::CreateCertificate,
};

/// As istiod: what a fleet opens on one connection is not refused for its number.
const MAX_STREAMS: u32 = 100_000;
/// As istiod: a request is at most this large.
const MAX_MESSAGE: usize = 4 << 20;
const KEEPALIVE_EVERY: Duration = Duration::from_secs(30);
const KEEPALIVE_ANSWER: Duration = Duration::from_secs(10);

/// Why a server ended.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The transport failed.
    #[error("gRPC transport: {0}")]
    Transport(#[from] tonic::transport::Error),
    /// The descriptors that were compiled in can't be read.
    #[error("gRPC reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// Serves until `shutdown` resolves; then says GOAWAY on each connection and returns when the calls in progress have been
/// answered.
///
/// # Errors
///
/// When the server can't go on.
pub async fn serve_ca(
    tcp: TcpListener,
    tls: watch::Receiver<Option<Arc<ServerConfig>>>,
    create: Arc<CreateCertificate>,
    health: HealthServer<impl Health>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let signing = IstioCertificateServiceServer::new(CertificateService::new(create));
    let mut routes = RoutesBuilder::default();
    routes.add_service(signing.max_decoding_message_size(MAX_MESSAGE)).add_service(health);
    add_reflection(&mut routes, ISTIO_CA_DESCRIPTORS)?;
    let server = Server::builder()
        .max_concurrent_streams(MAX_STREAMS)
        .http2_keepalive_interval(Some(KEEPALIVE_EVERY))
        .http2_keepalive_timeout(Some(KEEPALIVE_ANSWER))
        .add_routes(routes.routes());
    Ok(server.serve_with_incoming_shutdown(accept_tls(tcp, tls), shutdown).await?)
}
