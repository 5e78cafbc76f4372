//! What the active answers its operator on `admin.sock`.

use std::sync::Arc;

use tonic::{Request, Response, Status, transport::server::UdsConnectInfo};

use super::pair_service::{RecordStream, records_of};
use crate::{
    domain::{
        attestation::{Denial, DeniedSubject},
        clock::Timestamp,
    },
    proto::countersign::v1::{
        self as wire, AllowRequest, DenialChanged, DenyRequest, ListDeniedRequest, ListDeniedResponse,
        ListIssuanceRequest, denied_subject::Kind, operator_service_server::OperatorService,
    },
    service::{
        denial::{DenialError, IssuanceDenial},
        issuance_history::IssuanceHistory,
        signing_state::ChangeError,
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
        let actor_uid = actor_uid(&request)?;
        let DenyRequest { subject, reason } = request.into_inner();
        let subject = subject_of(subject)?;
        let reason = reason.parse().map_err(|error| Status::invalid_argument(format!("reason: {error}")))?;
        changed(subject.clone(), self.denial.deny(subject, reason, actor_uid).await)
    }

    async fn allow(&self, request: Request<AllowRequest>) -> Result<Response<DenialChanged>, Status> {
        let actor_uid = actor_uid(&request)?;
        let AllowRequest { subject, reason } = request.into_inner();
        let subject = subject_of(subject)?;
        let reason = (!reason.is_empty()).then(|| reason.parse()).transpose();
        let reason = reason.map_err(|error| Status::invalid_argument(format!("reason: {error}")))?;
        changed(subject.clone(), self.denial.allow(subject, reason, actor_uid).await)
    }

    async fn list_denied(&self, _request: Request<ListDeniedRequest>) -> Result<Response<ListDeniedResponse>, Status> {
        let denied = self.denial.denied().map_err(|error| status_of(&error))?;
        let denials = denied.iter().map(|(subject, denial)| wire_denial(subject, denial)).collect();
        Ok(Response::new(ListDeniedResponse { denials }))
    }
}

/// The user at the other end of the connection, as the kernel says.
fn actor_uid<T>(request: &Request<T>) -> Result<u32, Status> {
    let peer = request.extensions().get::<UdsConnectInfo>().and_then(|connection| connection.peer_cred);
    peer.map(|peer| peer.uid()).ok_or_else(|| Status::permission_denied("the system does not say who asks"))
}

fn subject_of(subject: Option<wire::DeniedSubject>) -> Result<DeniedSubject, Status> {
    let subject = subject.and_then(|subject| subject.kind);
    match subject.ok_or_else(|| Status::invalid_argument("subject is missing"))? {
        Kind::SpiffeId(id) => id.parse().map(DeniedSubject::Identity).map_err(|error| format!("spiffe_id: {error}")),
        Kind::Serial(serial) => serial.parse().map(DeniedSubject::Serial).map_err(|error| format!("serial: {error}")),
    }
    .map_err(Status::invalid_argument)
}

fn changed(
    subject: DeniedSubject,
    result: Result<Option<Denial>, DenialError>,
) -> Result<Response<DenialChanged>, Status> {
    let old = result.map_err(|error| status_of(&error))?;
    Ok(Response::new(DenialChanged { old: old.map(|old| wire_denial(subject, &old)) }))
}

fn wire_denial(subject: DeniedSubject, denial: &Denial) -> wire::Denial {
    wire::Denial {
        subject: Some(wire_subject(&subject)),
        reason: denial.reason.to_string(),
        since: denial.since.seconds(),
        actor_uid: denial.actor_uid,
    }
}

/// A subject as it is sent.
pub(super) fn wire_subject(subject: &DeniedSubject) -> wire::DeniedSubject {
    let kind = match subject {
        DeniedSubject::Identity(id) => Kind::SpiffeId(id.to_string()),
        DeniedSubject::Serial(serial) => Kind::Serial(serial.to_string()),
    };
    wire::DeniedSubject { kind: Some(kind) }
}

/// A denial as it was received.
pub(super) fn denial_of(denial: wire::Denial) -> Result<(DeniedSubject, Denial), Status> {
    let wire::Denial { subject, reason, since, actor_uid } = denial;
    let reason = reason.parse().map_err(|error| Status::invalid_argument(format!("reason: {error}")))?;
    Ok((subject_of(subject)?, Denial { reason, since: Timestamp::from_seconds(since), actor_uid }))
}

fn status_of(error: &DenialError) -> Status {
    let text = error.to_string();
    match error {
        DenialError::NotActive => Status::failed_precondition(text),
        DenialError::NeverIssued(..) => Status::invalid_argument(text),
        DenialError::NotDenied(_) => Status::not_found(text),
        DenialError::Change(ChangeError::Full { .. }) => Status::resource_exhausted(text),
        DenialError::Change(ChangeError::State(_)) => Status::data_loss(text),
    }
}
