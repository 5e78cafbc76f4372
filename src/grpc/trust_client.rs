//! Following what a pair publishes for others to verify by: the agent's side.

use std::{sync::Arc, time::Duration};

use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status, Streaming};

use super::{
    ca_client::{CaClient, CaEndpoint, Heard, Question},
    trust_messages::{MAX_TRUST, trust_of},
};
use crate::{
    proto::countersign::trust::v1::{FollowRequest, Trust, trust_service_client::TrustServiceClient},
    service::{
        ports::{BoxFuture, SignError},
        published_trust::PublishedTrust,
        trust_follower::{TrustSource, TrustStream},
    },
};

/// The trust of the certificate authority that a client has its SVIDs from.
pub struct FollowedAuthority {
    authority: Arc<CaClient>,
    endpoints: Vec<CaEndpoint>,
    instance: String,
}

/// A process that ends waits for so long until that is heard.
const HEARD_WITHIN: Duration = Duration::from_millis(200);

struct Followed {
    /// The connection is this stream's alone, and goes with it.
    _connection: CaClient,
    requests: mpsc::Sender<FollowRequest>,
    updates: Streaming<Trust>,
}

impl FollowedAuthority {
    /// At `endpoints`, to whom the caller proves itself as `authority` does; in the name of a process that is called `instance`.
    pub const fn new(authority: Arc<CaClient>, endpoints: Vec<CaEndpoint>, instance: String) -> Self {
        Self { authority, endpoints, instance }
    }
}

impl TrustSource for FollowedAuthority {
    fn open(&self, in_effect: u64) -> BoxFuture<'_, Result<Option<Box<dyn TrustStream>>, String>> {
        Box::pin(async move {
            let connection = self.authority.at(self.endpoints.clone());
            let heard = Heard::default();
            let call = |question: Question| {
                let (requests, told) = mpsc::channel(1);
                // there is room for the first
                let first =
                    requests.try_send(FollowRequest { instance: self.instance.clone(), in_effect, leaves: false });
                let (channel, request) = question.bring(Request::new(ReceiverStream::new(told)));
                let heard = &heard;
                async move {
                    first.map_err(|error| Status::internal(error.to_string()))?;
                    let mut client = TrustServiceClient::new(channel).max_decoding_message_size(MAX_TRUST);
                    let updates = client.follow(request).await;
                    heard.note(updates.as_ref().err());
                    Ok((requests, updates?.into_inner()))
                }
            };
            let opened = connection.ask_anywhere(call, Ok::<_, SignError>).await;
            match opened {
                Ok((requests, updates)) => {
                    Ok(Some(Box::new(Followed { _connection: connection, requests, updates }) as _))
                }
                Err(_) if heard.is_that_none_is_offered() => Ok(None),
                Err(error) => Err(error.to_string()),
            }
        })
    }
}

impl TrustStream for Followed {
    fn next(&mut self) -> BoxFuture<'_, Result<PublishedTrust, String>> {
        Box::pin(async {
            let message = self.updates.message().await;
            let message = message.map_err(|status| format!("{:?}: {}", status.code(), status.message()))?;
            trust_of(message.ok_or("the replica has ended the stream")?)
        })
    }

    fn says(&mut self, in_effect: u64) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move {
            let message = FollowRequest { in_effect, ..FollowRequest::default() };
            self.requests.send(message).await.map_err(|_closed| "the stream has ended".to_owned())
        })
    }

    fn leave(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            let said = async {
                let message = FollowRequest { leaves: true, ..FollowRequest::default() };
                if self.requests.send(message).await.is_ok() {
                    while self.updates.message().await.is_ok_and(|update| update.is_some()) {}
                }
            };
            let _heard = timeout(HEARD_WITHIN, said).await.is_ok();
        })
    }
}
