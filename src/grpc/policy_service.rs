//! `countersign.policy.v1`: for gateways on the CA port, and for the operator.

use std::{collections::VecDeque, net::IpAddr, pin::Pin, sync::Arc, time::Duration};

use futures_util::stream::{try_unfold, unfold};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};
use tracing::info;

use super::{
    authentication::evidence_of,
    policy_messages::{Part, Reader, Told, preview, update},
    policy_places::{Place, Places},
    policy_report::Reports,
    status::status_of,
};
use crate::{
    domain::{
        attestation::Evidence,
        identity::SpiffeId,
        policy::{GatewayPlan, ObjectName, PolicySnapshot},
    },
    proto::countersign::policy::v1::{
        PreviewRequest, PreviewResponse, ReportRequest, ReportResponse, WatchRequest, WatchResponse,
        policy_operator_service_server::PolicyOperatorService, policy_service_server::PolicyService,
        preview_request::Label,
    },
    service::{
        caller_attestation::Identify,
        create_certificate::CreateError,
        gateway_reaches::GatewayReaches,
        line_limit::{Line, LineLimit},
        policy_enforcement::Judged,
        policy_publisher::{PolicyAccess, PolicyPublisher, PreviewError, PreviewLabel},
    },
};

/// A stream of a gateway ends after this, and its next one needs a proof again.
const LIFE: Duration = Duration::from_secs(30 * 60);

type UpdateStream = Pin<Box<dyn Stream<Item = Result<WatchResponse, Status>> + Send>>;

type AnswerStream = Pin<Box<dyn Stream<Item = Result<ReportResponse, Status>> + Send>>;

/// What gateways are told, and what they tell.
pub(super) struct GatewayPolicy {
    access: PolicyAccess,
    callers: Arc<dyn Identify>,
    /// For streams that follow, and for those that report.
    following: Places,
    reporting: Places,
    /// Of refusals, by gRPC code and the caller's address.
    lines: LineLimit<i32, Option<IpAddr>>,
}

/// What the operator is told.
pub(super) struct OperatorPolicy(Arc<PolicyPublisher>);

impl GatewayPolicy {
    /// Those of `access`, as far as `callers` knows them.
    pub(super) fn new(access: PolicyAccess, callers: Arc<dyn Identify>) -> Self {
        let (following, reporting) = (Places::default(), Places::default());
        Self { access, callers, following, reporting, lines: LineLimit::default() }
    }

    /// Which of the gateways it is that brings this.
    async fn admit(&self, evidence: &Evidence) -> Result<SpiffeId, Status> {
        let (status, reason) = match self.callers.identify(evidence).await {
            Ok(id) if self.access.gateways.contains(&id) => return Ok(id),
            Ok(id) => {
                let reason = format!("{id} may not follow policies: it is not a gateway-identity");
                (Status::permission_denied(reason.clone()), reason)
            }
            Err(error) => {
                let error = CreateError::from(error);
                (status_of(&error), error.to_string())
            }
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
        let gateway = self.admit(&evidence_of(&metadata, &extensions)).await?;
        let place = self.following.take(&gateway)?;
        let publisher = &self.access.publisher;
        let source = GatewaySource {
            gateway,
            deadline: Instant::now() + LIFE,
            snapshots: publisher.follow(),
            plans: publisher.reaches().follow(),
            _place: place,
        };
        Ok(Response::new(updates(publisher, Source::Gateway(source), &message)))
    }

    type ReportStream = AnswerStream;

    async fn report(&self, request: Request<Streaming<ReportRequest>>) -> Result<Response<AnswerStream>, Status> {
        let (metadata, extensions, requests) = request.into_parts();
        let gateway = self.admit(&evidence_of(&metadata, &extensions)).await?;
        let place = self.reporting.take(&gateway)?;
        let enforcement = self.access.enforcement();
        let reports = Reports::new(enforcement, gateway, requests, Instant::now() + LIFE, place);
        let answer = |mut reports: Reports| async { Ok(reports.next().await?.map(|answer| (answer, reports))) };
        Ok(Response::new(Box::pin(try_unfold(reports, answer))))
    }
}

#[tonic::async_trait]
impl PolicyOperatorService for OperatorPolicy {
    type WatchStream = UpdateStream;

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<UpdateStream>, Status> {
        Ok(Response::new(updates(&self.0, Source::Operator(self.0.enforcement().follow()), request.get_ref())))
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
    source: Source,
    /// What it was told of last; before that, of which Services it says that it knows them.
    told: Result<Told, Vec<ObjectName>>,
    unsent: VecDeque<Part>,
}

/// Where what a reader is told comes from.
enum Source {
    /// A gateway hears of policies as soon as they are known.
    Gateway(GatewaySource),
    /// An operator hears of them once it is known whether they are in force, and listens for as long as he likes.
    Operator(watch::Receiver<Option<Judged>>),
}

struct GatewaySource {
    gateway: SpiffeId,
    deadline: Instant,
    snapshots: watch::Receiver<Option<Arc<PolicySnapshot>>>,
    plans: watch::Receiver<Option<Arc<GatewayPlan>>>,
    _place: Place,
}

fn updates(publisher: &Arc<PolicyPublisher>, mut source: Source, request: &WatchRequest) -> UpdateStream {
    match &mut source {
        Source::Gateway(source) => source.snapshots.mark_changed(),
        Source::Operator(judged) => judged.mark_changed(),
    }
    let following = Following {
        publisher: Arc::clone(publisher),
        source,
        told: publisher.snapshot(&request.version).map(Told::of).ok_or_else(|| known_of(request)),
        unsent: VecDeque::new(),
    };
    Box::pin(unfold(Some(following), |following: Option<Following>| async move {
        let mut following = following?;
        match following.next().await {
            Ok(message) => Some((Ok(message), Some(following))),
            Err(status) => Some((Err(status), None)),
        }
    }))
}

fn known_of(request: &WatchRequest) -> Vec<ObjectName> {
    request.known.iter().map(|service| ObjectName::new(&service.namespace, &service.name)).collect()
}

impl Following {
    async fn next(&mut self) -> Result<WatchResponse, Status> {
        loop {
            if let Some(part) = self.unsent.pop_front() {
                return Ok(part.render(self.publisher.trust_domain()));
            }
            let (reader, newest) = match &mut self.source {
                Source::Gateway(source) => (Reader::Gateway, source.newest(self.publisher.reaches()).await?),
                Source::Operator(judged) => {
                    judged.changed().await.map_err(|_closed| leaving())?;
                    (Reader::Operator, judged.borrow_and_update().clone().map(Told::judged))
                }
            };
            let Some(newest) = newest else { continue };
            self.unsent = update(&self.publisher, reader, self.told.as_ref().map_err(Vec::as_slice), &newest);
            self.told = Ok(newest);
        }
    }
}

impl GatewaySource {
    /// Waits for a change of anything that it is told.
    async fn newest(&mut self, reaches: &GatewayReaches) -> Result<Option<Told>, Status> {
        tokio::select! {
            changed = self.snapshots.changed() => changed,
            changed = self.plans.changed() => changed,
            () = sleep_until(self.deadline) => {
                return Err(Status::unavailable("open the stream again, with a proof that holds now"));
            }
        }
        .map_err(|_closed| leaving())?;
        let Some(snapshot) = self.snapshots.borrow_and_update().clone() else { return Ok(None) };
        self.plans.mark_unchanged();
        Ok(reaches.of(&self.gateway).map(|reach| Told { reach, ..Told::of(snapshot) }))
    }
}

fn leaving() -> Status {
    Status::unavailable("this replica is leaving")
}

#[cfg(test)]
mod tests;
