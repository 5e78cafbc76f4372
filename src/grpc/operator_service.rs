//! What a replica answers its operator on `admin.sock`.

use std::sync::Arc;

use tonic::{Request, Response, Status, transport::server::UdsConnectInfo};

use super::{
    denial_messages::{allow_of, changed, deny_of, list_of},
    issuance_messages::{RecordStream, records_of},
};
use crate::{
    proto::countersign::v1::{
        AllowRequest, DenialChanged, DenyRequest, ListDeniedRequest, ListDeniedResponse, ListIssuanceRequest,
        operator_service_server::OperatorService,
    },
    service::{
        denial::{Actor, IssuanceDenial},
        issuance_history::IssuanceHistory,
    },
};

/// The operator's service. The listener lets in nobody but this process's user and root.
pub(super) struct Operator {
    history: Arc<dyn IssuanceHistory>,
    denial: Arc<IssuanceDenial>,
}

impl Operator {
    /// Lists `history`, the logs of all replicas, and denies by `denial`.
    pub(super) const fn new(history: Arc<dyn IssuanceHistory>, denial: Arc<IssuanceDenial>) -> Self {
        Self { history, denial }
    }
}

#[tonic::async_trait]
impl OperatorService for Operator {
    type ListIssuanceStream = RecordStream;

    async fn list_issuance(
        &self,
        _request: Request<ListIssuanceRequest>,
    ) -> Result<Response<Self::ListIssuanceStream>, Status> {
        Ok(Response::new(records_of(self.history.as_ref())))
    }

    async fn deny(&self, request: Request<DenyRequest>) -> Result<Response<DenialChanged>, Status> {
        let actor = actor(&request)?;
        let change = deny_of(request.into_inner())?;
        Ok(changed(change.subject().clone(), self.denial.change(change, actor).await)?)
    }

    async fn allow(&self, request: Request<AllowRequest>) -> Result<Response<DenialChanged>, Status> {
        let actor = actor(&request)?;
        let change = allow_of(request.into_inner())?;
        Ok(changed(change.subject().clone(), self.denial.change(change, actor).await)?)
    }

    async fn list_denied(&self, _request: Request<ListDeniedRequest>) -> Result<Response<ListDeniedResponse>, Status> {
        Ok(list_of(&self.denial.denied_here_or_by_active().await)?)
    }
}

/// The user at the other end of the connection, as the kernel says.
pub(super) fn actor<T>(request: &Request<T>) -> Result<Actor, Status> {
    let peer = request.extensions().get::<UdsConnectInfo>().and_then(|connection| connection.peer_cred);
    let uid =
        peer.map(|peer| peer.uid()).ok_or_else(|| Status::permission_denied("the system does not say who asks"))?;
    Ok(Actor { uid, asserted_by: None })
}
