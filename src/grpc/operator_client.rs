//! Asking the active on its `admin.sock`, for the command line.

use std::path::{Path, PathBuf};

use tonic::{Code, Status};

use super::{
    denial_messages::{allow_request, denied_of, deny_request, old_of},
    issuance_messages::relay,
    pair_client::connect,
    status::said_by,
};
use crate::{
    domain::attestation::{Denial, Denied, DeniedSubject, Reason},
    proto::countersign::v1::{
        DenialChanged, ListDeniedRequest, ListIssuanceRequest, operator_service_client::OperatorServiceClient,
    },
    service::issuance_history::{Entries, HistoryError},
};

/// Why the active did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    /// Nobody answers at the socket, which only the active has.
    #[error("no replica is active ({0})")]
    NoActive(String),
    /// The active's answer.
    #[error("{0}")]
    Refused(String),
    /// The connection broke: what was asked may have been done or not.
    #[error("the active replica went away before it answered ({0})")]
    Broken(String),
}

/// The logs of all replicas.
pub fn entries_by_admin_socket(socket: PathBuf) -> Entries {
    relay(async move {
        let channel = connect(&socket).await.map_err(HistoryError)?;
        let records = OperatorServiceClient::new(channel).list_issuance(ListIssuanceRequest {}).await;
        Ok(records.map_err(|status| HistoryError(said_by(&status)))?.into_inner())
    })
}

/// Denies a subject. Returns the denial that was there before.
///
/// # Errors
///
/// When nobody is active, the active refuses, or goes away.
pub async fn deny(socket: &Path, subject: &DeniedSubject, reason: &Reason) -> Result<Option<Denial>, OperatorError> {
    let mut client = OperatorServiceClient::new(connect(socket).await.map_err(OperatorError::NoActive)?);
    old(client.deny(deny_request(subject, reason)).await.map_err(|status| failure(&status))?.into_inner())
}

/// Takes a denial back. Returns it.
///
/// # Errors
///
/// When nobody is active, the active refuses, or goes away.
pub async fn allow(
    socket: &Path,
    subject: &DeniedSubject,
    reason: Option<&Reason>,
) -> Result<Option<Denial>, OperatorError> {
    let mut client = OperatorServiceClient::new(connect(socket).await.map_err(OperatorError::NoActive)?);
    old(client.allow(allow_request(subject, reason)).await.map_err(|status| failure(&status))?.into_inner())
}

/// All that is denied.
///
/// # Errors
///
/// When nobody is active, the active refuses, or goes away.
pub async fn denied(socket: &Path) -> Result<Denied, OperatorError> {
    let mut client = OperatorServiceClient::new(connect(socket).await.map_err(OperatorError::NoActive)?);
    let list = client.list_denied(ListDeniedRequest {}).await.map_err(|status| failure(&status))?.into_inner();
    denied_of(list).map_err(|status| failure(&status))
}

fn old(changed: DenialChanged) -> Result<Option<Denial>, OperatorError> {
    old_of(changed).map_err(|status| failure(&status))
}

/// Codes of the active's own answers, which no broken connection has.
const REFUSALS: [Code; 6] = [
    Code::InvalidArgument,
    Code::NotFound,
    Code::ResourceExhausted,
    Code::DataLoss,
    Code::PermissionDenied,
    Code::Aborted,
];

/// Why the active did not do it, by its status.
pub(super) fn failure(status: &Status) -> OperatorError {
    let (code, text) = (status.code(), status.message().to_owned());
    if REFUSALS.contains(&code) {
        OperatorError::Refused(text)
    } else if code == Code::FailedPrecondition {
        OperatorError::NoActive(text)
    } else if code == Code::Unimplemented {
        OperatorError::Refused("the active replica is of a version that can't do this: update it".into())
    } else {
        OperatorError::Broken(said_by(status))
    }
}
