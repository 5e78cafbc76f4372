//! Where a rotation is ordered: by operators on `admin.sock`, and by replicas that pass orders of theirs on.

use std::{path::Path, sync::Arc};

use tonic::{Request, Response, Status};

use super::{
    operator_client::{OperatorError, failure},
    operator_service::actor,
    pair_client::connect,
    pair_service::{Peers, answered},
    rotation_messages::{answer, order_of, report_of, request_for},
};
use crate::{
    proto::countersign::rotation::v1::{
        ForwardedRotate, RotateRequest, Rotation, rotation_operator_service_client::RotationOperatorServiceClient,
        rotation_operator_service_server::RotationOperatorService, rotation_pair_service_server::RotationPairService,
    },
    service::{
        authority_rotation::AuthorityRotation,
        denial::Actor,
        ports::{RotationOrder, RotationReport},
    },
};

/// The operator's side. The listener lets in nobody but this process's user and root.
pub(super) struct RotationOperator(pub(super) Arc<AuthorityRotation>);

/// The other replicas' side.
pub(super) struct RotationReplica {
    pub(super) rotation: Arc<AuthorityRotation>,
    pub(super) peers: Peers,
}

#[tonic::async_trait]
impl RotationOperatorService for RotationOperator {
    async fn rotate(&self, request: Request<RotateRequest>) -> Result<Response<Rotation>, Status> {
        let actor = actor(&request)?;
        answer(self.0.order(order_of(request.into_inner())?, actor).await).map(Response::new)
    }
}

#[tonic::async_trait]
impl RotationPairService for RotationReplica {
    async fn rotate(&self, request: Request<ForwardedRotate>) -> Result<Response<Rotation>, Status> {
        let (_, extensions, ForwardedRotate { request, actor_uid, replica }) = request.into_parts();
        let asserted_by = Some(self.peers.name(&extensions, replica)?);
        let order = order_of(request.unwrap_or_default()).map_err(answered)?;
        let done = self.rotation.order(order, Actor { uid: actor_uid, asserted_by }).await;
        answer(done).map(Response::new).map_err(answered)
    }
}

/// Has the active do it, for the command line.
///
/// # Errors
///
/// When nobody is active, the active refuses, or goes away.
pub async fn rotate(socket: &Path, order: &RotationOrder) -> Result<RotationReport, OperatorError> {
    let mut client = RotationOperatorServiceClient::new(connect(socket).await.map_err(OperatorError::NoActive)?);
    let rotation = client.rotate(request_for(order)).await.map_err(|status| failure(&status))?.into_inner();
    report_of(rotation).map_err(|status| failure(&status))
}
