//! `countersign.trust.v1.TrustService` on the CA port: what is published for others to verify by, live.

use std::{net::IpAddr, pin::Pin, sync::Arc, time::Duration};

use futures_util::stream::unfold;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};
use tracing::info;

use super::{
    authentication::evidence_of,
    policy_places::{Place, Places},
    status::status_of,
    trust_messages::{Rendered, follower},
};
use crate::{
    domain::{attestation::Evidence, identity::SpiffeId},
    proto::countersign::trust::v1::{FollowRequest, Trust, trust_service_server::TrustService},
    service::{
        caller_attestation::Identify,
        create_certificate::CreateError,
        line_limit::{Line, LineLimit},
        published_trust::TrustReceiver,
        trust_followers::{FollowerStream, TrustFollowers},
    },
};

/// A stream ends after this, and the next one needs a proof again.
const LIFE: Duration = Duration::from_secs(30 * 60);
/// For the first message, which says who follows.
const FIRST_WITHIN: Duration = Duration::from_secs(5);
/// Streams at one time. Each agent has one.
const STREAMS: usize = 4096;

/// What agents follow at a replica.
#[derive(Clone, Debug)]
pub struct TrustAccess {
    /// What is published.
    pub trust: TrustReceiver,
    /// Who follows it.
    pub followers: Arc<TrustFollowers>,
}

/// The service.
pub(super) struct FollowedTrust {
    access: TrustAccess,
    callers: Arc<dyn Identify>,
    places: Places,
    rendered: Arc<Rendered>,
    /// Of refusals, by gRPC code and the caller's address.
    lines: LineLimit<i32, Option<IpAddr>>,
}

impl FollowedTrust {
    /// Of `access`, for whoever `callers` knows.
    pub(super) fn new(access: TrustAccess, callers: Arc<dyn Identify>) -> Self {
        let (places, rendered) = (Places::with_room(STREAMS), Arc::default());
        Self { access, callers, places, rendered, lines: LineLimit::default() }
    }

    /// Whoever may have a certificate may follow.
    async fn admit(&self, evidence: &Evidence) -> Result<SpiffeId, Status> {
        let error = match self.callers.identify(evidence).await {
            Ok(id) => return Ok(id),
            Err(error) => CreateError::from(error),
        };
        let status = status_of(&error);
        if let Some(Line { left_out }) = self.lines.line(status.code().into(), evidence.source) {
            info!(event = "trust_follower_refused", code = ?status.code(), reason = %error, left_out);
        }
        Err(status)
    }
}

type TrustUpdates = Pin<Box<dyn Stream<Item = Result<Trust, Status>> + Send>>;

#[tonic::async_trait]
impl TrustService for FollowedTrust {
    type FollowStream = TrustUpdates;

    async fn follow(&self, request: Request<Streaming<FollowRequest>>) -> Result<Response<TrustUpdates>, Status> {
        // so that the other replica is asked while this one still answers what is under way
        self.access.trust.has_changed().map_err(|_closed| leaving())?;
        let (metadata, extensions, requests) = request.into_parts();
        let identity = self.admit(&evidence_of(&metadata, &extensions)).await?;
        let place = self.places.take(&identity)?;
        let mut trust = self.access.trust.clone();
        trust.mark_changed();
        let following = Following {
            identity,
            requests: Some(requests),
            trust,
            followers: Arc::clone(&self.access.followers),
            stream: None,
            rendered: Arc::clone(&self.rendered),
            deadline: Instant::now() + LIFE,
            _place: place,
        };
        Ok(Response::new(Box::pin(unfold(Some(following), |following: Option<Following>| async move {
            let mut following = following?;
            match following.next().await {
                Ok(Some(message)) => Some((Ok(message), Some(following))),
                Ok(None) => None,
                Err(status) => Some((Err(status), None)),
            }
        }))))
    }
}

/// One follower's stream.
struct Following {
    identity: SpiffeId,
    /// `None` when the follower has said that it will say nothing more.
    requests: Option<Streaming<FollowRequest>>,
    trust: TrustReceiver,
    followers: Arc<TrustFollowers>,
    /// Since the first message.
    stream: Option<FollowerStream>,
    rendered: Arc<Rendered>,
    deadline: Instant,
    _place: Place,
}

impl Following {
    /// `None` when the follower has said that it ends.
    async fn next(&mut self) -> Result<Option<Trust>, Status> {
        if self.stream.is_none() {
            self.begin().await?;
        }
        loop {
            tokio::select! {
                request = said(self.requests.as_mut()) => match (request?, &self.stream) {
                    (Some(FollowRequest { leaves: true, .. }), _) => {
                        if let Some(stream) = self.stream.take() {
                            stream.leaves();
                        }
                        return Ok(None);
                    }
                    (Some(request), Some(stream)) => stream.says(request.in_effect),
                    _ => self.requests = None,
                },
                changed = self.trust.changed() => {
                    changed.map_err(|_closed| leaving())?;
                    if let Some(trust) = &*self.trust.borrow_and_update() {
                        return Ok(Some(self.rendered.message(trust)));
                    }
                }
                () = sleep_until(self.deadline) => {
                    return Err(Status::unavailable("open the stream again, with a proof that holds now"));
                }
            }
        }
    }

    async fn begin(&mut self) -> Result<(), Status> {
        let first = timeout(FIRST_WITHIN, said(self.requests.as_mut())).await;
        let first = first.map_err(|_elapsed| Status::deadline_exceeded("nothing was said: who follows?"))??;
        let first = first.ok_or_else(|| Status::invalid_argument("nothing was said: who follows?"))?;
        let opened = self.followers.open(follower(self.identity.clone(), &first.instance)?);
        let stream = opened.map_err(|error| Status::resource_exhausted(error.to_string()))?;
        stream.says(first.in_effect);
        self.stream = Some(stream);
        Ok(())
    }
}

fn leaving() -> Status {
    Status::unavailable("this replica is leaving")
}

async fn said(requests: Option<&mut Streaming<FollowRequest>>) -> Result<Option<FollowRequest>, Status> {
    match requests {
        Some(requests) => requests.message().await,
        None => std::future::pending().await,
    }
}
