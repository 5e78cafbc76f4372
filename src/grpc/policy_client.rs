//! Asking a replica for policies on its `admin.sock`, for the command line.

use std::path::Path;

use tonic::{Code, Status, Streaming};

use super::{
    operator_client::{OperatorError, failure},
    pair_client::connect,
    policy_messages::{preview_view, update_view},
};
use crate::{
    proto::countersign::policy::v1::{
        PreviewRequest, WatchRequest, WatchResponse, policy_operator_service_client::PolicyOperatorServiceClient,
        preview_request::Label,
    },
    service::{
        policy_publisher::PreviewLabel,
        policy_view::{NamespaceListing, PolicyUpdate},
    },
};

/// Policies as they change.
pub struct PolicyUpdates(Streaming<WatchResponse>);

impl PolicyUpdates {
    /// Of the replica whose socket this is.
    ///
    /// # Errors
    ///
    /// When nobody answers, or policies are not followed there.
    pub async fn open(socket: &Path) -> Result<Self, OperatorError> {
        let channel = connect(socket).await.map_err(OperatorError::NoActive)?;
        let mut client = PolicyOperatorServiceClient::new(channel);
        let stream = client.watch(WatchRequest::default()).await.map_err(|status| refused(&status))?;
        Ok(Self(stream.into_inner()))
    }

    /// The next one.
    ///
    /// # Errors
    ///
    /// When the replica leaves.
    pub async fn next(&mut self) -> Result<PolicyUpdate, OperatorError> {
        let message = self.0.message().await.map_err(|status| failure(&status))?;
        message.map(update_view).ok_or_else(|| OperatorError::Broken("the replica has left".into()))
    }
}

/// What holds in a namespace, and what would with another label.
///
/// # Errors
///
/// When nobody answers, there is no such namespace, or policies are not followed there.
pub async fn preview(
    socket: &Path,
    namespace: &str,
    label: PreviewLabel,
) -> Result<(NamespaceListing, NamespaceListing), OperatorError> {
    let channel = connect(socket).await.map_err(OperatorError::NoActive)?;
    let label = match label {
        PreviewLabel::Injection => Label::Injection(true),
        PreviewLabel::Revision(revision) => Label::Revision(revision),
        PreviewLabel::None => Label::None(true),
    };
    let request = PreviewRequest { namespace: namespace.to_owned(), label: Some(label) };
    let answer = PolicyOperatorServiceClient::new(channel).preview(request).await;
    Ok(preview_view(answer.map_err(|status| refused(&status))?.into_inner()))
}

fn refused(status: &Status) -> OperatorError {
    let code = status.code();
    if code == Code::Unimplemented {
        let fix = "this replica does not follow policies: start it with --state kubernetes --policy true";
        OperatorError::Refused(fix.into())
    } else if code == Code::Unavailable {
        OperatorError::Refused(status.message().to_owned())
    } else {
        failure(status)
    }
}
