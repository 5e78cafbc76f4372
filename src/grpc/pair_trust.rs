//! What is published for others to verify by, between replicas: who is active tells the others, and they tell who follows at them.

use std::{pin::Pin, sync::Arc};

use futures_util::stream::unfold;
use tokio::sync::mpsc;
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::{Request, Response, Status, Streaming};

use super::{
    pair_channels::PairChannels,
    pair_service::Peers,
    status::said_by,
    trust_messages::{MAX_TRUST, Rendered, pair_message, pair_trust_of, passed_message, passed_of},
};
use crate::{
    proto::countersign::trust::v1::{
        PairTrust, PassedFollowers as PassedMessage, pair_trust_service_client::PairTrustServiceClient,
        pair_trust_service_server::PairTrustService,
    },
    service::{
        pair_trust::{PairTrustStream, TermTrust, TermTrustReceiver, TrustOfActive},
        ports::{ActiveReplica, BoxFuture},
        trust_followers::{Follower, PassedFollowers, TrustFollowers},
    },
};

/// More than one replica has room for.
const FOLLOWERS_AT_MOST: usize = 8192;

/// What other replicas follow at this one.
#[derive(Clone, Debug)]
pub struct PairTrustAccess {
    /// What it knows.
    pub known: TermTrustReceiver,
    /// Who follows, here and there.
    pub followers: Arc<TrustFollowers>,
}

/// The service between replicas.
pub(super) struct PassedTrust {
    access: PairTrustAccess,
    peers: Peers,
    rendered: Arc<Rendered>,
}

impl PassedTrust {
    /// For `peers`.
    pub(super) fn new(access: PairTrustAccess, peers: Peers) -> Self {
        Self { access, peers, rendered: Arc::default() }
    }
}

type PairTrustUpdates = Pin<Box<dyn Stream<Item = Result<PairTrust, Status>> + Send>>;

#[tonic::async_trait]
impl PairTrustService for PassedTrust {
    type FollowStream = PairTrustUpdates;

    async fn follow(&self, request: Request<Streaming<PassedMessage>>) -> Result<Response<PairTrustUpdates>, Status> {
        self.peers.name(request.extensions(), String::new())?;
        let mut known = self.access.known.clone();
        known.mark_changed();
        let passing = Passing {
            messages: request.into_inner(),
            known,
            passed: self.access.followers.passed(),
            rendered: Arc::clone(&self.rendered),
        };
        Ok(Response::new(Box::pin(unfold(Some(passing), |passing: Option<Passing>| async move {
            let mut passing = passing?;
            match passing.next().await {
                Ok(Some(message)) => Some((Ok(message), Some(passing))),
                Ok(None) => None,
                Err(status) => Some((Err(status), None)),
            }
        }))))
    }
}

/// Another replica's stream.
struct Passing {
    messages: Streaming<PassedMessage>,
    known: TermTrustReceiver,
    passed: PassedFollowers,
    rendered: Arc<Rendered>,
}

impl Passing {
    async fn next(&mut self) -> Result<Option<PairTrust>, Status> {
        loop {
            tokio::select! {
                message = self.messages.message() => {
                    let Some(message) = message? else { return Ok(None) };
                    self.take(&message)?;
                }
                changed = self.known.changed() => {
                    changed.map_err(|_closed| Status::unavailable("this replica is leaving"))?;
                    if let Some(known) = &*self.known.borrow_and_update() {
                        return Ok(Some(pair_message(known, &self.rendered)));
                    }
                }
            }
        }
    }

    fn take(&mut self, message: &PassedMessage) -> Result<(), Status> {
        if message.followers.len() > FOLLOWERS_AT_MOST {
            return Err(Status::resource_exhausted(format!("over {FOLLOWERS_AT_MOST} followers")));
        }
        let all = message.followers.iter().map(passed_of).collect::<Result<Vec<_>, _>>()?;
        self.passed.are(all).map_err(|error| Status::resource_exhausted(error.to_string()))
    }
}

/// The other replicas, as they are asked.
pub struct PairTrustClient(pub(super) PairChannels);

struct FromActive {
    messages: mpsc::Sender<PassedMessage>,
    updates: Streaming<PairTrust>,
}

impl TrustOfActive for PairTrustClient {
    fn open<'a>(&'a self, active: &'a ActiveReplica) -> BoxFuture<'a, Result<Box<dyn PairTrustStream>, String>> {
        Box::pin(async move {
            let line = self.0.to(&active.endpoint)?;
            let (messages, passed) = mpsc::channel(1);
            let mut client = PairTrustServiceClient::new(line.channel.clone()).max_decoding_message_size(MAX_TRUST);
            match client.follow(ReceiverStream::new(passed)).await {
                Ok(updates) => Ok(Box::new(FromActive { messages, updates: updates.into_inner() }) as _),
                Err(status) => {
                    self.0.forget(&line);
                    Err(said_by(&status))
                }
            }
        })
    }
}

impl PairTrustStream for FromActive {
    fn next(&mut self) -> BoxFuture<'_, Result<TermTrust, String>> {
        Box::pin(async {
            let message = self.updates.message().await.map_err(|status| said_by(&status))?;
            pair_trust_of(message.ok_or("the replica has ended the stream")?)
        })
    }

    fn tell(&mut self, followers: Vec<(Follower, u64)>) -> BoxFuture<'_, Result<(), String>> {
        let message = PassedMessage { followers: followers.into_iter().map(passed_message).collect() };
        Box::pin(async { self.messages.send(message).await.map_err(|_closed| "the stream has ended".to_owned()) })
    }
}
