//! What is published for others to verify by, between replicas: who is active tells the others, and they tell who follows at them.

use std::{pin::Pin, sync::Arc, time::Duration};

use futures_util::stream::unfold;
use tokio::{sync::mpsc, time::timeout};
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
        pair_trust::{ActiveSays, PairTrustStream, StandbySays, TermTrustReceiver, TrustOfActive},
        ports::{ActiveReplica, BoxFuture},
        trust_followers::{FollowerStream, PassedFollowers, TooManyFollowers, TrustFollowers},
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
        let certified = self.peers.name(request.extensions(), String::new())?;
        let mut known = self.access.known.clone();
        known.mark_changed();
        let passing = Passing {
            messages: request.into_inner(),
            known: Some(known),
            certified,
            passed: self.access.followers.passed(),
            followers: Arc::clone(&self.access.followers),
            itself: None,
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
    /// `None` when this replica has said that it ends.
    known: Option<TermTrustReceiver>,
    /// Where the other one runs, by its certificate; empty on one machine.
    certified: String,
    passed: PassedFollowers,
    followers: Arc<TrustFollowers>,
    /// The other one, once it has said what it knows.
    itself: Option<FollowerStream>,
    rendered: Arc<Rendered>,
}

impl Drop for Passing {
    /// On one machine nobody is cut off: whoever is gone serves nobody.
    fn drop(&mut self) {
        if let Some(itself) = self.itself.take().filter(|_| self.certified.is_empty()) {
            itself.leaves();
        }
    }
}

impl Passing {
    async fn next(&mut self) -> Result<Option<PairTrust>, Status> {
        loop {
            let Some(known) = &mut self.known else { return Ok(None) };
            tokio::select! {
                message = self.messages.message() => {
                    let Some(message) = message? else { return Ok(None) };
                    if message.leaves {
                        if let Some(itself) = self.itself.take() {
                            itself.leaves();
                        }
                        return Ok(None);
                    }
                    self.take(&message)?;
                }
                changed = known.changed() => {
                    if changed.is_err() {
                        self.known = None;
                        return Ok(Some(PairTrust { leaves: true, ..PairTrust::default() }));
                    }
                    if let Some(known) = &*known.borrow_and_update() {
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
        let too_many = |error: TooManyFollowers| Status::resource_exhausted(error.to_string());
        self.passed.are(all).map_err(too_many)?;
        if self.itself.is_none() && !message.replica.is_empty() {
            let opened = match self.certified.as_str() {
                "" => self.followers.open_process(&message.replica),
                uid => self.followers.open_pod(uid),
            };
            self.itself = Some(opened.map_err(too_many)?);
        }
        if let Some(itself) = &self.itself {
            itself.says(message.known);
        }
        Ok(())
    }
}

/// The other replicas, as they are asked.
pub struct PairTrustClient {
    pub(super) channels: PairChannels,
    /// In whose name.
    pub(super) replica: String,
}

/// A replica that ends waits for so long until that is heard.
const HEARD_WITHIN: Duration = Duration::from_millis(200);

struct FromActive {
    replica: String,
    messages: mpsc::Sender<PassedMessage>,
    updates: Streaming<PairTrust>,
}

impl TrustOfActive for PairTrustClient {
    fn open<'a>(&'a self, active: &'a ActiveReplica) -> BoxFuture<'a, Result<Box<dyn PairTrustStream>, String>> {
        Box::pin(async move {
            let line = self.channels.to(&active.endpoint)?;
            let (messages, passed) = mpsc::channel(1);
            let mut client = PairTrustServiceClient::new(line.channel.clone()).max_decoding_message_size(MAX_TRUST);
            match client.follow(ReceiverStream::new(passed)).await {
                Ok(updates) => {
                    let (replica, updates) = (self.replica.clone(), updates.into_inner());
                    Ok(Box::new(FromActive { replica, messages, updates }) as _)
                }
                Err(status) => {
                    self.channels.forget(&line);
                    Err(said_by(&status))
                }
            }
        })
    }
}

impl PairTrustStream for FromActive {
    fn next(&mut self) -> BoxFuture<'_, Result<ActiveSays, String>> {
        Box::pin(async {
            let message = self.updates.message().await.map_err(|status| said_by(&status))?;
            pair_trust_of(message.ok_or("the replica has ended the stream")?)
        })
    }

    fn tell(&mut self, here: StandbySays) -> BoxFuture<'_, Result<(), String>> {
        let StandbySays { known, followers } = here;
        let followers = followers.into_iter().map(passed_message).collect();
        let message = PassedMessage { followers, replica: self.replica.clone(), known, leaves: false };
        Box::pin(async { self.messages.send(message).await.map_err(|_closed| "the stream has ended".to_owned()) })
    }

    fn leave(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            let said = async {
                let message = PassedMessage { leaves: true, ..PassedMessage::default() };
                if self.messages.send(message).await.is_ok() {
                    while self.updates.message().await.is_ok_and(|update| update.is_some()) {}
                }
            };
            let _heard = timeout(HEARD_WITHIN, said).await.is_ok();
        })
    }
}
