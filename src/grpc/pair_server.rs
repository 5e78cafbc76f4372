//! The servers on the sockets that are for this user alone: between replicas, and for the operator.

use std::{future::Future, sync::Arc};

use tonic::transport::{Error, Server};

use super::{operator_service::Operator, pair_service::ReplicaService, unix_listener::WorkloadListener};
use crate::{
    proto::countersign::v1::{operator_service_server::OperatorServiceServer, pair_service_server::PairServiceServer},
    service::{create_certificate::CreateCertificate, denial::IssuanceDenial, issuance_history::IssuanceHistory},
};

/// What the other replica forwards for all its connections comes on one.
const MAX_STREAMS: u32 = 100_000;

/// Serves the other replicas until `shutdown` resolves and what they asked is answered. The listener has checked who they
/// are.
///
/// # Errors
///
/// When the transport fails.
pub async fn serve_pair(
    listener: WorkloadListener,
    create: Arc<CreateCertificate>,
    history: Arc<dyn IssuanceHistory>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), Error> {
    Server::builder()
        .max_concurrent_streams(MAX_STREAMS)
        .add_service(PairServiceServer::new(ReplicaService::new(create, history)))
        .serve_with_incoming_shutdown(listener.incoming(), shutdown)
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
) -> Result<(), Error> {
    Server::builder()
        .add_service(OperatorServiceServer::new(Operator::new(history, denial)))
        .serve_with_incoming(listener.incoming())
        .await
}
