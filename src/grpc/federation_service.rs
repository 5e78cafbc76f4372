//! Orders about other trust domains: taken on `admin.sock`, given there by the command line, and passed on to the active.

use std::{path::Path, sync::Arc};

use tonic::{Request, Response, Status};

use super::{
    federation_messages::{answer_of, domains_of, order_of, wire_order},
    operator_client::{OperatorError, failure},
    operator_service::actor,
    pair_client::connect,
};
use crate::{
    proto::countersign::v1::{
        FederationAnswer, FederationOrder as WireOrder, federation_service_client::FederationServiceClient,
        federation_service_server::FederationService,
    },
    service::federation::{FederatedDomain, Federation, FederationOrder},
};

/// The operator's service. The listener lets in nobody but this process's user and root.
pub(super) struct FederationOperator(Arc<Federation>);

impl FederationOperator {
    /// Has `federation` carry orders out.
    pub(super) const fn new(federation: Arc<Federation>) -> Self {
        Self(federation)
    }
}

#[tonic::async_trait]
impl FederationService for FederationOperator {
    async fn order(&self, request: Request<WireOrder>) -> Result<Response<FederationAnswer>, Status> {
        let actor = actor(&request)?;
        answer_of(self.0.order(order_of(request.into_inner())?, actor).await)
    }
}

/// Has the active carry out an order. Returns how it stands with those trust domains that it was about.
///
/// # Errors
///
/// When nobody is active, the active refuses, or goes away.
pub async fn order(socket: &Path, order: &FederationOrder) -> Result<Vec<FederatedDomain>, OperatorError> {
    let mut client = FederationServiceClient::new(connect(socket).await.map_err(OperatorError::NoActive)?);
    let answer = client.order(wire_order(order)).await.map_err(|status| failure(&status))?.into_inner();
    domains_of(answer).map_err(|status| failure(&status))
}
