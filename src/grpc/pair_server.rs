//! The servers between replicas, and for the operator: a socket for this user alone, and a port for replicas alone.

use std::{future::Future, sync::Arc, time::Duration};

use rustls::ServerConfig;
use tokio::{net::TcpListener, sync::watch};
use tonic::transport::{Error, Server};

use super::{
    authority_service::AuthorityOperator,
    federation_service::FederationOperator,
    mesh_pair_service::MeshReplicaService,
    operator_service::Operator,
    pair_service::{Peers, ReplicaService},
    pair_trust::{PairTrustAccess, PassedTrust},
    policy_service::OperatorPolicy,
    rotation_service::{RotationOperator, RotationReplica},
    tls_listener::accept_tls,
    unix_listener::WorkloadListener,
};
pub use super::{
    mesh_pair_service::MeshPairServices,
    pair_service::{CertifiedPeers, PairServices},
};
use crate::{
    proto::countersign::{
        policy::v1::policy_operator_service_server::PolicyOperatorServiceServer,
        rotation::v1::{
            rotation_operator_service_server::RotationOperatorServiceServer,
            rotation_pair_service_server::RotationPairServiceServer,
        },
        trust::v1::pair_trust_service_server::PairTrustServiceServer,
        v1::{
            authority_service_server::AuthorityServiceServer,
            federation_service_server::FederationServiceServer,
            operator_service_server::OperatorServiceServer,
            pair_service_server::{PairService, PairServiceServer},
        },
    },
    service::{
        authority_export::AuthorityExport, authority_rotation::AuthorityRotation, denial::IssuanceDenial,
        federation::Federation, issuance_history::IssuanceHistory, policy_publisher::PolicyPublisher,
    },
};

/// What the other replica forwards for all its connections comes on one.
const MAX_STREAMS: u32 = 100_000;
/// A replica that is older than this one may forward a request of 4 MiB; the proof comes with it.
const MAX_MESSAGE: usize = 8 << 20;
/// So that the connections of replicas that have vanished do not stay.
const KEEPALIVE_EVERY: Duration = Duration::from_secs(10);
const KEEPALIVE_ANSWER: Duration = Duration::from_secs(5);

/// Serves the other replicas until `shutdown` resolves and what they asked is answered. The listener has checked who they
/// are.
///
/// # Errors
///
/// When the transport fails.
pub async fn serve_pair(
    listener: WorkloadListener,
    services: PairServices,
    trust: PairTrustAccess,
    shutdown: impl Future<Output = ()>,
) -> Result<(), Error> {
    let rotation = rotation_service(&services, Peers::SameUser);
    let service = ReplicaService::new(services, Peers::SameUser);
    Server::builder()
        .max_concurrent_streams(MAX_STREAMS)
        .add_optional_service(rotation)
        .add_service(trust_service(trust, Peers::SameUser))
        .add_service(PairServiceServer::new(service).max_decoding_message_size(MAX_MESSAGE))
        .serve_with_incoming_shutdown(listener.incoming(), shutdown)
        .await
}

/// The same on the pair port, by the newest configuration in `tls`, which lets in nobody but replicas.
///
/// # Errors
///
/// When the transport fails.
pub async fn serve_pair_port(
    port: TcpListener,
    tls: watch::Receiver<Option<Arc<ServerConfig>>>,
    services: PairServices,
    trust: PairTrustAccess,
    peers: CertifiedPeers,
    shutdown: impl Future<Output = ()>,
) -> Result<(), Error> {
    let peers = Peers::Certified(peers);
    let (rotation, trust) = (rotation_service(&services, peers.clone()), trust_service(trust, peers.clone()));
    serve_port(port, tls, ReplicaService::new(services, peers), (rotation, Some(trust)), shutdown).await
}

fn trust_service(trust: PairTrustAccess, peers: Peers) -> PairTrustServiceServer<PassedTrust> {
    PairTrustServiceServer::new(PassedTrust::new(trust, peers)).max_decoding_message_size(MAX_MESSAGE)
}

fn rotation_service(services: &PairServices, peers: Peers) -> Option<RotationPairServiceServer<RotationReplica>> {
    let rotation = services.rotation.clone()?;
    Some(RotationPairServiceServer::new(RotationReplica { rotation, peers }))
}

/// The same where istiod signs.
///
/// # Errors
///
/// When the transport fails.
pub async fn serve_mesh_pair_port(
    port: TcpListener,
    tls: watch::Receiver<Option<Arc<ServerConfig>>>,
    services: MeshPairServices,
    shutdown: impl Future<Output = ()>,
) -> Result<(), Error> {
    serve_port(port, tls, MeshReplicaService(services), (None, None), shutdown).await
}

async fn serve_port(
    port: TcpListener,
    tls: watch::Receiver<Option<Arc<ServerConfig>>>,
    service: impl PairService,
    (rotation, trust): (
        Option<RotationPairServiceServer<RotationReplica>>,
        Option<PairTrustServiceServer<PassedTrust>>,
    ),
    shutdown: impl Future<Output = ()>,
) -> Result<(), Error> {
    Server::builder()
        .max_concurrent_streams(MAX_STREAMS)
        .http2_keepalive_interval(Some(KEEPALIVE_EVERY))
        .http2_keepalive_timeout(Some(KEEPALIVE_ANSWER))
        .add_optional_service(rotation)
        .add_service(PairServiceServer::new(service).max_decoding_message_size(MAX_MESSAGE))
        .add_optional_service(trust)
        .serve_with_incoming_shutdown(accept_tls(port, tls), shutdown)
        .await
}

/// Serves the operator on `admin.sock`.
///
/// # Errors
///
/// When the transport fails.
pub async fn serve_operator(
    listener: WorkloadListener,
    history: Arc<dyn IssuanceHistory>,
    denial: Arc<IssuanceDenial>,
    export: Arc<AuthorityExport>,
    rotation: Option<Arc<AuthorityRotation>>,
    federation: Option<Arc<Federation>>,
    policy: Option<Arc<PolicyPublisher>>,
) -> Result<(), Error> {
    Server::builder()
        .add_service(OperatorServiceServer::new(Operator::new(history, denial)))
        .add_service(AuthorityServiceServer::new(AuthorityOperator::new(export)))
        .add_optional_service(rotation.map(|rotation| RotationOperatorServiceServer::new(RotationOperator(rotation))))
        .add_optional_service(
            federation.map(|federation| FederationServiceServer::new(FederationOperator::new(federation))),
        )
        .add_optional_service(policy.map(|policy| PolicyOperatorServiceServer::new(OperatorPolicy::new(policy))))
        .serve_with_incoming(listener.incoming())
        .await
}

/// As [`serve_operator`], where there is nothing to operate but policies.
///
/// # Errors
///
/// When the transport fails.
pub async fn serve_policy_operator(listener: WorkloadListener, policy: Arc<PolicyPublisher>) -> Result<(), Error> {
    let service = PolicyOperatorServiceServer::new(OperatorPolicy::new(policy));
    Server::builder().add_service(service).serve_with_incoming(listener.incoming()).await
}
