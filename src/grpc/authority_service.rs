//! The signing authority in an operator's hands, on `admin.sock`.

use std::{path::Path, sync::Arc};

use tonic::{Request, Response, Status, transport::server::UdsConnectInfo};
use zeroize::Zeroizing;

use super::{
    operator_client::{OperatorError, failure},
    pair_client::connect,
};
use crate::{
    proto::countersign::v1::{
        ExportAuthorityRequest, ExportAuthorityResponse, authority_service_client::AuthorityServiceClient,
        authority_service_server::AuthorityService,
    },
    service::{
        authority_backup::Passphrase,
        authority_export::{AuthorityExport, ExportError, Exported},
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
        let Exported { file, is_of_ended_term } =
            self.export.export(passphrase, actor).await.map_err(|error| match error {
                ExportError::NotActive(_) => Status::failed_precondition(error.to_string()),
                ExportError::Backup(_) => Status::data_loss(error.to_string()),
            })?;
        Ok(Response::new(ExportAuthorityResponse { backup: file.into(), of_ended_term: is_of_ended_term }))
    }
}

/// What became of asking for a backup.
#[derive(Debug)]
pub enum ExportAnswer {
    /// It was made.
    Backup(Exported),
    /// That replica has nothing that must be saved: in its words.
    NotActive(String),
    /// No replica runs there, or none that may be asked.
    NoReplica,
}

/// Has the replica whose `admin.sock` this is make a backup, encrypted with the passphrase.
///
/// # Errors
///
/// When it refuses, or goes away.
pub async fn export(socket: &Path, passphrase: &str) -> Result<ExportAnswer, OperatorError> {
    let Ok(channel) = connect(socket).await else { return Ok(ExportAnswer::NoReplica) };
    let request = ExportAuthorityRequest { passphrase: passphrase.as_bytes().to_vec().into() };
    match AuthorityServiceClient::new(channel).export(request).await {
        Ok(answer) => {
            let ExportAuthorityResponse { backup, of_ended_term } = answer.into_inner();
            Ok(ExportAnswer::Backup(Exported { file: backup.to_vec(), is_of_ended_term: of_ended_term }))
        }
        Err(status) => match failure(&status) {
            OperatorError::NoActive(why) => Ok(ExportAnswer::NotActive(why)),
            error @ (OperatorError::Refused(_) | OperatorError::Broken(_)) => Err(error),
        },
    }
}
