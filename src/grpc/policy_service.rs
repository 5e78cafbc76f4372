//! `countersign.policy.v1`: for gateways on the CA port, and for the operator.

use std::{collections::VecDeque, net::IpAddr, pin::Pin, sync::Arc, time::Duration};

use futures_util::stream::unfold;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::{Instant, timeout_at},
};
use tokio_stream::Stream;
use tonic::{Request, Response, Status};
use tracing::info;

use super::{
    authentication::evidence_of,
    policy_messages::{Reader, preview, update},
    status::status_of,
};
use crate::{
    domain::{attestation::Evidence, policy::PolicySnapshot},
    proto::countersign::policy::v1::{
        PreviewRequest, PreviewResponse, WatchRequest, WatchResponse,
        policy_operator_service_server::PolicyOperatorService, policy_service_server::PolicyService,
        preview_request::Label,
    },
    service::{
        create_certificate::CreateCertificate,
        line_limit::{Line, LineLimit},
        policy_publisher::{PolicyAccess, PolicyPublisher, PreviewError, PreviewLabel},
    },
};

/// Streams of gateways at one time.
const STREAMS: usize = 256;
/// A stream of a gateway ends after this, and its next one needs a proof again.
const LIFE: Duration = Duration::from_secs(30 * 60);

type UpdateStream = Pin<Box<dyn Stream<Item = Result<WatchResponse, Status>> + Send>>;

/// What gateways are told.
pub(super) struct GatewayPolicy {
    access: PolicyAccess,
    create: Arc<CreateCertificate>,
    streams: Arc<Semaphore>,
    /// Of refusals, by gRPC code and the caller's address.
    lines: LineLimit<i32, Option<IpAddr>>,
}

/// What the operator is told.
pub(super) struct OperatorPolicy(Arc<PolicyPublisher>);

impl GatewayPolicy {
    /// Those of `access`, who prove themselves to `create`.
    pub(super) fn new(access: PolicyAccess, create: Arc<CreateCertificate>) -> Self {
        Self { access, create, streams: Arc::new(Semaphore::new(STREAMS)), lines: LineLimit::default() }
    }

    /// Whether whoever brings this is one of the gateways.
    async fn admit(&self, evidence: &Evidence) -> Result<(), Status> {
        let (status, reason) = match self.create.identify(evidence).await {
            Ok(id) if self.access.gateways.contains(&id) => return Ok(()),
            Ok(id) => {
                let reason = format!("{id} may not follow policies: it is not a gateway-identity");
                (Status::permission_denied(reason.clone()), reason)
            }
            Err(error) => (status_of(&error), error.to_string()),
        };
        if let Some(Line { left_out }) = self.lines.line(status.code().into(), evidence.source) {
            info!(event = "policy_watch_refused", code = ?status.code(), reason, left_out);
        }
        Err(status)
    }
}

impl OperatorPolicy {
    /// Of `publisher`. The listener lets in nobody but this process's user and root.
    pub(super) const fn new(publisher: Arc<PolicyPublisher>) -> Self {
        Self(publisher)
    }
}

#[tonic::async_trait]
impl PolicyService for GatewayPolicy {
    type WatchStream = UpdateStream;

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<UpdateStream>, Status> {
        let (metadata, extensions, message) = request.into_parts();
        self.admit(&evidence_of(&metadata, &extensions)).await?;
        let full = |_| Status::resource_exhausted(format!("{STREAMS} streams are open already"));
        let place = Arc::clone(&self.streams).try_acquire_owned().map_err(full)?;
        let deadline = Some(Instant::now() + LIFE);
        Ok(Response::new(updates(&self.access.publisher, Reader::Gateway, &message, deadline, Some(place))))
    }
}

#[tonic::async_trait]
impl PolicyOperatorService for OperatorPolicy {
    type WatchStream = UpdateStream;

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<UpdateStream>, Status> {
        Ok(Response::new(updates(&self.0, Reader::Operator, request.get_ref(), None, None)))
    }

    async fn preview(&self, request: Request<PreviewRequest>) -> Result<Response<PreviewResponse>, Status> {
        let PreviewRequest { namespace, label } = request.into_inner();
        let label = match label {
            Some(Label::Injection(true)) => PreviewLabel::Injection,
            Some(Label::Revision(revision)) => PreviewLabel::Revision(revision),
            Some(Label::None(true)) => PreviewLabel::None,
            _ => return Err(Status::invalid_argument("no label is named")),
        };
        let previewed = self.0.preview(&namespace, label).map_err(|error| match error {
            PreviewError::NoNamespace(_) => Status::not_found(error.to_string()),
            PreviewError::NotKnownYet => Status::unavailable(error.to_string()),
        })?;
        Ok(Response::new(preview(&previewed, self.0.trust_domain())))
    }
}

/// One reader of the policies.
struct Following {
    publisher: Arc<PolicyPublisher>,
    reader: Reader,
    snapshots: watch::Receiver<Option<Arc<PolicySnapshot>>>,
    /// What it was told of last.
    told: Option<Arc<PolicySnapshot>>,
    unsent: VecDeque<WatchResponse>,
    deadline: Option<Instant>,
    _place: Option<OwnedSemaphorePermit>,
}

fn updates(
    publisher: &Arc<PolicyPublisher>,
    reader: Reader,
    request: &WatchRequest,
    deadline: Option<Instant>,
    place: Option<OwnedSemaphorePermit>,
) -> UpdateStream {
    let mut snapshots = publisher.follow();
    snapshots.mark_changed();
    let following = Following {
        publisher: Arc::clone(publisher),
        reader,
        snapshots,
        told: publisher.snapshot(&request.version),
        unsent: VecDeque::new(),
        deadline,
        _place: place,
    };
    Box::pin(unfold(Some(following), |following: Option<Following>| async move {
        let mut following = following?;
        match following.next().await {
            Ok(message) => Some((Ok(message), Some(following))),
            Err(status) => Some((Err(status), None)),
        }
    }))
}

impl Following {
    async fn next(&mut self) -> Result<WatchResponse, Status> {
        loop {
            if let Some(message) = self.unsent.pop_front() {
                return Ok(message);
            }
            let changed = match self.deadline {
                Some(deadline) => timeout_at(deadline, self.snapshots.changed()).await,
                None => Ok(self.snapshots.changed().await),
            };
            match changed {
                Ok(Ok(())) => {}
                Ok(Err(_closed)) => return Err(Status::unavailable("this replica is leaving")),
                Err(_elapsed) => return Err(Status::unavailable("open the stream again, with a proof that holds now")),
            }
            let Some(newest) = self.snapshots.borrow_and_update().clone() else { continue };
            self.unsent = update(&self.publisher, self.reader, self.told.as_deref(), &newest);
            self.told = Some(newest);
        }
    }
}
