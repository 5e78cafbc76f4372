//! The signing authority in an operator's hands, on `admin.sock`.

use std::{path::Path, sync::Arc};

use tonic::{Code, Request, Response, Status, transport::server::UdsConnectInfo};
use zeroize::Zeroizing;

use super::{operator_client::OperatorError, pair_client::connect};
use crate::{
    proto::countersign::v1::{
        ExportAuthorityRequest, ExportAuthorityResponse, authority_service_client::AuthorityServiceClient,
        authority_service_server::AuthorityService,
    },
    service::{
        authority_backup::Passphrase,
        authority_export::{AuthorityExport, ExportError},
    },
};

/// The service. The listener lets in nobody but this process's user and root.
pub(super) struct AuthorityOperator {
    export: Arc<AuthorityExport>,
}

impl AuthorityOperator {
    pub(super) const fn new(export: Arc<AuthorityExport>) -> Self {
        Self { export }
    }
}

#[tonic::async_trait]
impl AuthorityService for AuthorityOperator {
    async fn export(
        &self,
        request: Request<ExportAuthorityRequest>,
    ) -> Result<Response<ExportAuthorityResponse>, Status> {
        let peer = request.extensions().get::<UdsConnectInfo>().and_then(|connection| connection.peer_cred);
        let actor =
            peer.map(|peer| peer.uid()).ok_or_else(|| Status::permission_denied("the system does not say who asks"))?;
        let passphrase = String::from_utf8(request.into_inner().passphrase.to_vec())
            .map_err(|_text_with_a_secret| Status::invalid_argument("passphrase: not UTF-8"))?;
        let passphrase = Passphrase::new(Zeroizing::new(passphrase));
        let passphrase = passphrase.map_err(|error| Status::invalid_argument(error.to_string()))?;
        let backup = self.export.export(passphrase, actor).await.map_err(|error| match error {
            ExportError::NotActive => Status::failed_precondition(error.to_string()),
            ExportError::Backup(_) => Status::data_loss(error.to_string()),
        })?;
        Ok(Response::new(ExportAuthorityResponse { backup: backup.into() }))
    }
}

/// Has the active whose `admin.sock` this is make a backup. The answer is encrypted with the passphrase.
///
/// # Errors
///
/// When nobody is active there, the active refuses, or goes away.
pub async fn export(socket: &Path, passphrase: &str) -> Result<Vec<u8>, OperatorError> {
    let channel = connect(socket).await.map_err(OperatorError::NoActive)?;
    let request = ExportAuthorityRequest { passphrase: passphrase.as_bytes().to_vec().into() };
    let answer = AuthorityServiceClient::new(channel).export(request).await;
    answer.map(|answer| answer.into_inner().backup.to_vec()).map_err(|status| {
        let (code, text) = (status.code(), status.message().to_owned());
        if code == Code::FailedPrecondition {
            OperatorError::NoActive(text)
        } else if code == Code::Unimplemented {
            OperatorError::Refused("the active replica is of a version that can't do this: update it".into())
        } else if [Code::InvalidArgument, Code::DataLoss, Code::PermissionDenied].contains(&code) {
            OperatorError::Refused(text)
        } else {
            OperatorError::Broken(text)
        }
    })
}
