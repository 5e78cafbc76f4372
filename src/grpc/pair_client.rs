//! Asking the other replicas of the pair: who is active, for signatures, for what operators want, for their logs.

mod federation;
mod logs;
mod orders;
mod reports;
#[cfg(test)]
mod tests;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::stream::{FuturesUnordered, StreamExt};
use rustls::ClientConfig;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep_until, timeout},
};
use tonic::{Code, Request, Response, Status, transport::Channel};
use zeroize::Zeroize as _;

use super::{
    issuance_messages::relay,
    jwt_service::{mint_request, minted_of},
    pair_channels::{Line, PairChannels, over_socket},
    pair_service::{ANSWERED, STILL_ACTIVE},
    pair_trust::PairTrustClient,
    status::said_by,
    trace_context::{FORWARD_CERTIFICATE, FORWARD_MINT, calling},
};
use crate::{
    domain::{
        attestation::{Evidence, OwnIdentity},
        leadership::Term,
    },
    proto::{
        countersign::v1::{
            AskRequest, AskResponse, AssertedChain, ForwardedMint, ForwardedRequest, ListIssuanceRequest,
            forwarded_request::Own, pair_service_client::PairServiceClient,
        },
        istio::v1::auth::IstioCertificateRequest,
    },
    service::{
        active_search::{ActiveSearch, Question, Reply},
        issuance_history::{Entries, HistoryError},
        ports::{
            ActiveReplica, BoxFuture, Candidate, ForwardError, JwtSvidRequest, MintedJwtSvid, Pair, PairDirectory,
            SigningRequest,
        },
    },
};

/// Where a directory says nothing of a change, it is looked at this often, while nobody is known to be active.
const LOOK_WHILE_UNKNOWN: Duration = Duration::from_millis(20);
/// And while somebody is.
const LOOK_WHILE_KNOWN: Duration = Duration::from_secs(1);
/// As long as an attempt at forwarding may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);

/// The other replicas of the pair. One task looks who is active, however many requests wait for that.
pub struct PairClient {
    directory: Arc<dyn PairDirectory>,
    replica: String,
    /// Where this replica answers the others, if that is a TCP port.
    pair_address: Option<SocketAddr>,
    /// The active, as long as it answers.
    active: watch::Sender<Option<ActiveReplica>>,
    /// Why there is none, for people.
    absence: Mutex<String>,
    /// An attempt at the active failed: look again at once.
    doubt: Notify,
    /// Channels on which others are asked who is active, and what operators want. They belong to the runtime of
    /// [`PairClient::follow`] and of the operator's socket: what is forwarded has others, so that load delays neither.
    asking: PairChannels,
    /// Channels for requests of callers.
    forwarding: PairChannels,
}

impl PairClient {
    /// Speaks in the name of `replica`, over Unix sockets, to whoever `directory` knows.
    pub fn new(directory: Arc<dyn PairDirectory>, replica: String) -> Self {
        Self::over(directory, replica, None, None)
    }

    /// Speaks over TCP, by the newest configuration in `tls`, to whoever `directory` knows; tells them that this replica answers
    /// at `pair_address`.
    pub fn over_network(
        directory: Arc<dyn PairDirectory>,
        replica: String,
        pair_address: SocketAddr,
        tls: watch::Receiver<Option<Arc<ClientConfig>>>,
    ) -> Self {
        Self::over(directory, replica, Some(pair_address), Some(tls))
    }

    /// For following what the active publishes, on channels of its own. They belong to the runtime on which that is done.
    pub fn trust(&self) -> PairTrustClient {
        PairTrustClient { channels: self.asking.with_own_channels(), replica: self.replica.clone() }
    }

    fn over(
        directory: Arc<dyn PairDirectory>,
        replica: String,
        pair_address: Option<SocketAddr>,
        tls: Option<watch::Receiver<Option<Arc<ClientConfig>>>>,
    ) -> Self {
        Self {
            directory,
            replica,
            pair_address,
            active: watch::Sender::new(None),
            absence: Mutex::new("nobody has looked yet".into()),
            doubt: Notify::new(),
            asking: PairChannels::new(tls.clone()),
            forwarding: PairChannels::new(tls),
        }
    }

    /// Looks who is active: often while nobody is known, now and then otherwise, at once when there is doubt, and not at all
    /// while this replica is, which it is while there is something of its `own` term. Never returns.
    pub async fn follow<S>(&self, mut own: watch::Receiver<Option<S>>) {
        let mut search = ActiveSearch::new(self.replica.clone());
        loop {
            search.begin_anew();
            if own.borrow_and_update().is_some() {
                self.publish(&search);
                if own.changed().await.is_ok() {
                    continue;
                }
            }
            tokio::select! {
                () = self.search(&mut search) => {}
                Ok(()) = own.changed() => {}
            }
        }
    }

    /// Never returns.
    async fn search(&self, search: &mut ActiveSearch) {
        let mut under_way = FuturesUnordered::new();
        loop {
            let changed = self.directory.changed();
            search.set_candidates(self.directory.candidates().await, Instant::now());
            for question in search.due(Instant::now()) {
                under_way.push(self.asked(question));
            }
            self.publish(search);
            let look = if search.active().is_some() { LOOK_WHILE_KNOWN } else { LOOK_WHILE_UNKNOWN };
            let look = Instant::now() + look;
            let wake = search.next_due().map_or(look, |due| due.min(look));
            tokio::select! {
                Some((question, answer)) = under_way.next() => search.answered(&question, answer, Instant::now()),
                () = sleep_until(wake) => {}
                () = changed => {}
                () = self.doubt.notified() => search.doubt(Instant::now()),
            }
        }
    }

    fn publish(&self, search: &ActiveSearch) {
        let found = search.active();
        if found.is_none() {
            *self.absence.lock().unwrap_or_else(PoisonError::into_inner) = search.absence();
        }
        if *self.active.borrow() == found.cloned() {
            return;
        }
        if let Some(found) = found {
            // what was tried there before may still hang
            self.forwarding.forget_all_to(&found.endpoint);
        }
        self.active.send_replace(found.cloned());
    }

    /// The active, or why there is none, as was seen last.
    ///
    /// # Errors
    ///
    /// Why nobody can be said to be active, for people.
    pub fn active_or_why_not(&self) -> Result<ActiveReplica, String> {
        let active = self.active.borrow().clone();
        active.ok_or_else(|| self.absence.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    async fn asked(&self, question: Question) -> (Question, Result<Reply, String>) {
        let answer = self.ask(&self.asking, &question.candidate).await;
        (question, answer)
    }

    /// Has the active do something for a caller, once.
    async fn ask_active<T>(
        &self,
        call: impl AsyncFnOnce(PairServiceClient<Channel>, &str) -> Result<Response<T>, Status>,
    ) -> Result<T, ForwardError> {
        let active = self.active_or_why_not().map_err(ForwardError::NoActive)?;
        let line = self.forwarding.to(&active.endpoint).map_err(ForwardError::NoActive)?;
        // a caller that gives up on a slow answer doubts the active as much as one that gets an error
        let mut doubt = Doubt { client: self, line: Some(line.clone()), is_dispelled: false };
        let status = match call(PairServiceClient::new(line.channel), &active.replica).await {
            Ok(response) => {
                doubt.is_dispelled = true;
                return Ok(response.into_inner());
            }
            Err(status) => status,
        };
        // an active of an older version does not know every call
        if status.metadata().contains_key(ANSWERED) || status.code() == Code::Unimplemented {
            doubt.is_dispelled = true;
            return Err(ForwardError::Refused { code: status.code().into(), message: status.message().to_owned() });
        }
        if is_said_by_peer(&status) {
            doubt.line = None;
            doubt.is_dispelled = status.metadata().contains_key(STILL_ACTIVE);
        }
        Err(ForwardError::NoActive(format!("{}: {}", active.replica, said_by(&status))))
    }

    async fn ask(&self, channels: &PairChannels, candidate: &Candidate) -> Result<Reply, String> {
        let Candidate { replica, endpoint, .. } = candidate;
        let name = || replica.as_ref().map_or_else(|| endpoint.to_string(), Clone::clone);
        let line = channels.to(endpoint).map_err(|error| format!("{} can't be reached: {error}", name()))?;
        let pair_address = self.pair_address.map(|address| address.to_string()).unwrap_or_default();
        let mut client = PairServiceClient::new(line.channel.clone());
        let failure = match timeout(ANSWER_LIMIT, client.ask(AskRequest { pair_address })).await {
            Ok(Ok(answer)) => {
                self.directory.answered(endpoint);
                let AskResponse { replica, active_term } = answer.into_inner();
                return Ok(Reply { replica, active_term: (active_term != 0).then(|| Term::new(active_term)) });
            }
            Ok(Err(status)) => format!("{} can't be reached: {}", name(), said_by(&status)),
            Err(_elapsed) => {
                format!("{} does not answer within {ANSWER_LIMIT:?}: its process may be stopped", name())
            }
        };
        channels.forget(&line);
        Err(failure)
    }
}

impl Pair for PairClient {
    fn active(&self) -> watch::Receiver<Option<ActiveReplica>> {
        self.active.subscribe()
    }

    fn forward<'a>(
        &'a self,
        request: &'a SigningRequest,
        evidence: &'a Evidence,
    ) -> BoxFuture<'a, Result<Vec<String>, ForwardError>> {
        Box::pin(async move {
            let message = forwarded(request, evidence, &self.replica);
            let call = async |mut client: PairServiceClient<Channel>, active: &str| {
                let call = async |request| client.create_certificate(request).await;
                calling(FORWARD_CERTIFICATE, active, Request::new(message), call).await
            };
            Ok(self.ask_active(call).await?.cert_chain)
        })
    }

    fn forward_mint<'a>(
        &'a self,
        request: &'a JwtSvidRequest,
        evidence: &'a Evidence,
    ) -> BoxFuture<'a, Result<MintedJwtSvid, ForwardError>> {
        Box::pin(async move {
            let proof = Some(proof_of(evidence, &self.replica));
            let message = ForwardedMint { request: Some(mint_request(request)), proof };
            let call = async |mut client: PairServiceClient<Channel>, active: &str| {
                let call = async |request| client.mint_jwt_svid(request).await;
                calling(FORWARD_MINT, active, Request::new(message), call).await
            };
            minted_of(self.ask_active(call).await?).map_err(ForwardError::NoActive)
        })
    }
}

/// Whether the peer has answered, and not the connection broken.
fn is_said_by_peer(status: &Status) -> bool {
    std::error::Error::source(status).is_none()
}

/// Raises the doubt when it is dropped, unless it is dispelled.
struct Doubt<'a> {
    client: &'a PairClient,
    /// What the request went over, as long as that may be the fault.
    line: Option<Line>,
    is_dispelled: bool,
}

impl Drop for Doubt<'_> {
    fn drop(&mut self) {
        if self.is_dispelled {
            return;
        }
        if let Some(line) = &self.line {
            self.client.forwarding.forget(line);
        }
        self.client.doubt.notify_one();
    }
}

/// The log of one live replica, by its socket.
pub fn entries_of_replica(socket: PathBuf) -> Entries {
    relay(async move {
        let channel = connect(&socket).await.map_err(HistoryError)?;
        let records = PairServiceClient::new(channel).list_issuance(ListIssuanceRequest {}).await;
        Ok(records.map_err(|status| HistoryError(said_by(&status)))?.into_inner())
    })
}

/// A channel to a socket that answers; else why it doesn't, with its path.
pub(super) async fn connect(socket: &Path) -> Result<Channel, String> {
    let endpoint = over_socket(socket)?;
    endpoint.connect().await.map_err(|error| format!("{}: {error}", socket.display()))
}

/// On both sides: the token is a secret, and a message is dropped once it is written or read.
impl Drop for ForwardedRequest {
    fn drop(&mut self) {
        self.token.zeroize();
    }
}

fn forwarded(request: &SigningRequest, evidence: &Evidence, replica: &str) -> ForwardedRequest {
    let impersonated = request.impersonated.clone();
    let metadata = (!impersonated.is_empty()).then(|| prost_types::Struct {
        fields: [(
            "ImpersonatedIdentity".to_owned(),
            prost_types::Value { kind: Some(prost_types::value::Kind::StringValue(impersonated)) },
        )]
        .into(),
    });
    let mut forwarded = proof_of(evidence, replica);
    forwarded.request =
        Some(IstioCertificateRequest { csr: request.csr.clone(), validity_duration: request.ttl_seconds, metadata });
    forwarded
}

/// What a caller has proven itself by, without what it asks for.
fn proof_of(evidence: &Evidence, replica: &str) -> ForwardedRequest {
    ForwardedRequest {
        request: None,
        token: evidence.token.as_ref().map(|token| token.to_string()).unwrap_or_default(),
        asserted: evidence.certificate().map(|chain| AssertedChain {
            certificates: chain.iter().map(|certificate| certificate.der().to_vec().into()).collect(),
        }),
        own: evidence.own.as_ref().map(|own| match own {
            OwnIdentity::Workload(account) => Own::OwnWorkload(account.to_string()),
            OwnIdentity::Serving => Own::Serving(true),
            OwnIdentity::Istiod(account) => Own::Istiod(account.to_string()),
            OwnIdentity::Gateway(account) => Own::Gateway(account.to_string()),
        }),
        replica: replica.to_owned(),
        cluster: evidence.cluster.clone(),
        source: evidence.source.map(|source| source.to_string()).unwrap_or_default(),
    }
}
