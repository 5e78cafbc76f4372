//! Asking a replica for policies: on its `admin.sock`, for the command line; on its CA port, for an agent.

use std::{path::Path, sync::Arc};

use tonic::{Code, Request, Status, Streaming};

use super::{
    ca_client::{CaClient, Question},
    operator_client::{OperatorError, failure},
    pair_client::connect,
    policy_messages::{preview_view, service_name, update_view},
};
use crate::{
    proto::countersign::policy::v1::{
        PreviewRequest, WatchRequest, WatchResponse, policy_operator_service_client::PolicyOperatorServiceClient,
        policy_service_client::PolicyServiceClient, preview_request::Label,
    },
    service::{
        policy_follower::{PolicySource, PolicyStream, ServiceKey},
        policy_publisher::PreviewLabel,
        policy_view::{NamespacePreview, PolicyUpdate},
        ports::{BoxFuture, SignError},
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

/// The policies of the replicas that a client reaches on their CA port.
pub struct GatewayPolicies(Arc<CaClient>);

struct GatewayStream(Streaming<WatchResponse>);

impl GatewayPolicies {
    /// By `replicas`, to whom the caller proves itself as for a certificate.
    pub const fn new(replicas: Arc<CaClient>) -> Self {
        Self(replicas)
    }
}

impl PolicySource for GatewayPolicies {
    fn watch<'a>(
        &'a self,
        version: &'a str,
        known: &'a [ServiceKey],
    ) -> BoxFuture<'a, Result<Box<dyn PolicyStream>, String>> {
        Box::pin(async move {
            let call = |question: Question| {
                let known = known.iter().map(|service| service_name(&service.object())).collect();
                let (channel, request) =
                    question.bring(Request::new(WatchRequest { version: version.to_owned(), known }));
                async move { PolicyServiceClient::new(channel).watch(request).await.map(tonic::Response::into_inner) }
            };
            let stream = self.0.ask_anywhere(call, Ok::<_, SignError>).await.map_err(|error| error.to_string())?;
            Ok(Box::new(GatewayStream(stream)) as Box<dyn PolicyStream>)
        })
    }
}

impl PolicyStream for GatewayStream {
    fn next(&mut self) -> BoxFuture<'_, Result<PolicyUpdate, String>> {
        Box::pin(async {
            let message =
                self.0.message().await.map_err(|status| format!("{:?}: {}", status.code(), status.message()))?;
            message.map(update_view).ok_or_else(|| "the replica has ended the stream".to_owned())
        })
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
) -> Result<(NamespacePreview, NamespacePreview), OperatorError> {
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
