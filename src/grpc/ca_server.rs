//! The server on the CA port: signing API, health, reflection.

use std::{future::Future, sync::Arc, time::Duration};

use futures_util::future::join_all;
use rustls::ServerConfig;
use tokio::{
    net::TcpListener,
    sync::{oneshot, watch},
    time::sleep,
};
use tonic::{service::RoutesBuilder, transport::Server};
use tonic_health::pb::health_server::{Health, HealthServer};

use super::{
    certificate_service::CertificateService,
    jwt_service::{JwtMint, NoJwtMint},
    pass_on_service::PassOnService,
    policy_service::GatewayPolicy,
    reflection::add_reflection,
    tls_listener::accept_tls,
    trust_service::{FollowedTrust, TrustAccess},
};
use crate::{
    domain::x509::VerifiedCsr,
    proto::{
        ISTIO_CA_DESCRIPTORS,
        countersign::{
            policy::v1::policy_service_server::PolicyServiceServer,
            trust::v1::{jwt_service_server::JwtServiceServer, trust_service_server::TrustServiceServer},
        },
        istio::v1::auth::istio_certificate_service_server::IstioCertificateServiceServer,
    },
    service::{
        caller_attestation::Identify, create_certificate::CreateCertificate, istiod_pass_on::PassOn,
        mint_jwt_svid::MintJwtSvid, policy_publisher::PolicyAccess, under_way::UnderWay,
    },
};

/// As istiod: what a fleet opens on one connection is not refused for its number.
const MAX_STREAMS: u32 = 100_000;
/// Of a request, also of one for another service of this port. Twice the longest CSR: what else a request bears is far smaller. istiod takes 4 MiB, and each
/// stream can hold that much of a message that never becomes whole.
const MAX_MESSAGE: usize = 2 * VerifiedCsr::MAX_PEM_BYTES;
/// For the last answers to reach the wire.
const FLUSH: Duration = Duration::from_millis(100);
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

/// Serves certificates, JWT-SVIDs and `trust`, with `policy` also that, until `shutdown` resolves; then says GOAWAY on each connection
/// and returns when every certificate that was asked for
/// has been answered. What else is open then, such as somebody watching health, is cut.
///
/// # Errors
///
/// When the server can't go on.
pub async fn serve_ca(
    tcp: TcpListener,
    tls: watch::Receiver<Option<Arc<ServerConfig>>>,
    (create, mint): (Arc<CreateCertificate>, Arc<MintJwtSvid>),
    health: HealthServer<impl Health>,
    trust: TrustAccess,
    policy: Option<PolicyAccess>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let signing = IstioCertificateServiceServer::new(CertificateService::new(Arc::clone(&create)));
    let mut routes = RoutesBuilder::default();
    routes.add_service(signing.max_decoding_message_size(MAX_MESSAGE));
    let trust = TrustServiceServer::new(FollowedTrust::new(trust, Arc::clone(&create) as _));
    routes.add_service(trust.max_decoding_message_size(MAX_MESSAGE));
    routes.add_service(JwtServiceServer::new(JwtMint::new(mint)).max_decoding_message_size(MAX_MESSAGE));
    if let Some(access) = policy {
        let policy = PolicyServiceServer::new(GatewayPolicy::new(access, Arc::clone(&create) as _));
        routes.add_service(policy.max_decoding_message_size(MAX_MESSAGE));
    }
    serve(tcp, tls, routes, &[create.under_way()], health, shutdown).await
}

/// What a replica in front of istiod has besides, if it signs JWT-SVIDs by keys of its own.
pub struct OwnKeys {
    /// Mints, in the way of the other.
    pub mint: Arc<MintJwtSvid>,
    /// Attests callers.
    pub create: Arc<CreateCertificate>,
    /// The keys, beside the mesh's roots.
    pub trust: TrustAccess,
}

/// As [`serve_ca`], where istiod signs. Who follows `policy`, or asks something of `keys`, proves himself to this replica.
///
/// # Errors
///
/// When the server can't go on.
pub async fn serve_pass_on(
    tcp: TcpListener,
    tls: watch::Receiver<Option<Arc<ServerConfig>>>,
    (pass_on, keys): (Arc<PassOn>, Option<OwnKeys>),
    health: HealthServer<impl Health>,
    policy: Option<(PolicyAccess, Arc<dyn Identify>)>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let mut routes = RoutesBuilder::default();
    routes.add_service(PassOnService::new(Arc::clone(&pass_on), MAX_MESSAGE));
    let mut under_way = vec![pass_on.under_way()];
    match &keys {
        Some(OwnKeys { mint, create, trust }) => {
            let mint = JwtServiceServer::new(JwtMint::new(Arc::clone(mint)));
            routes.add_service(mint.max_decoding_message_size(MAX_MESSAGE));
            let trust = TrustServiceServer::new(FollowedTrust::new(trust.clone(), Arc::clone(create) as _));
            routes.add_service(trust.max_decoding_message_size(MAX_MESSAGE));
            under_way.push(create.under_way());
        }
        None => {
            routes.add_service(JwtServiceServer::new(NoJwtMint).max_decoding_message_size(MAX_MESSAGE));
        }
    }
    if let Some((access, callers)) = policy {
        let policy = PolicyServiceServer::new(GatewayPolicy::new(access, callers));
        routes.add_service(policy.max_decoding_message_size(MAX_MESSAGE));
    }
    serve(tcp, tls, routes, &under_way, health, shutdown).await
}

async fn serve(
    tcp: TcpListener,
    tls: watch::Receiver<Option<Arc<ServerConfig>>>,
    mut routes: RoutesBuilder,
    under_way: &[&UnderWay],
    health: HealthServer<impl Health>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    routes.add_service(health.max_decoding_message_size(MAX_MESSAGE));
    add_reflection(&mut routes, ISTIO_CA_DESCRIPTORS)?;
    let server = Server::builder()
        .max_concurrent_streams(MAX_STREAMS)
        .http2_keepalive_interval(Some(KEEPALIVE_EVERY))
        .http2_keepalive_timeout(Some(KEEPALIVE_ANSWER))
        .add_routes(routes.routes());
    let (leave, leaving) = oneshot::channel();
    let shutdown = async move {
        shutdown.await;
        let _heard_unless_the_server_has_ended = leave.send(());
    };
    tokio::select! {
        result = server.serve_with_incoming_shutdown(accept_tls(tcp, tls), shutdown) => Ok(result?),
        () = async {
            let _asked_or_ended = leaving.await.is_ok();
            join_all(under_way.iter().map(|under_way| under_way.none())).await;
            sleep(FLUSH).await;
        } => Ok(()),
    }
}
