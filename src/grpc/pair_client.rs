//! Asking the other replicas of the pair.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Notify, mpsc, watch},
    time::{sleep, timeout},
};
use tonic::{
    Status,
    transport::{Channel, Endpoint},
};

use super::pair_service::ANSWERED;
use crate::{
    domain::{
        attestation::{Evidence, OwnIdentity},
        leadership::Term,
    },
    proto::{
        countersign::v1::{
            AskRequest, AskResponse, AssertedChain, ForwardedRequest, IssuanceRecord, ListIssuanceRequest,
            forwarded_request::Own, issuance_record::Event, pair_service_client::PairServiceClient,
        },
        istio::v1::auth::IstioCertificateRequest,
    },
    service::{
        issuance_history::{Entries, IssuanceEntry, RecordedEvent},
        ports::{ActiveReplica, BoxFuture, ForwardError, LogError, Pair, PairDirectory, SigningRequest},
        signing_session::SigningSession,
    },
};

/// A Unix socket answers at once or not at all.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);
/// Looking for a new active must not be what a held request waits for.
const LOOK_WHILE_UNKNOWN: Duration = Duration::from_millis(20);
/// For health: requests raise doubt by themselves.
const LOOK_WHILE_KNOWN: Duration = Duration::from_secs(1);
/// As long as an attempt at forwarding may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);

/// The pair of an embedded replica: the sockets in the data directory. One task looks who is active, however many requests
/// wait for that.
pub struct PairClient {
    directory: Arc<dyn PairDirectory>,
    replica: String,
    /// The active, as long as it answers.
    active: watch::Sender<Option<ActiveReplica>>,
    /// Why there is none, for people.
    absence: Mutex<String>,
    /// An attempt at the active failed: look again at once.
    doubt: Notify,
    /// The socket last used and the channel to it, which reconnects by itself.
    channel: Mutex<Option<(PathBuf, Channel)>>,
}

impl PairClient {
    /// Forwards in the name of `replica` to whoever `directory` says is active.
    pub fn new(directory: Arc<dyn PairDirectory>, replica: String) -> Self {
        Self {
            directory,
            replica,
            active: watch::Sender::new(None),
            absence: Mutex::new("nobody has looked yet".into()),
            doubt: Notify::new(),
            channel: Mutex::new(None),
        }
    }

    /// Looks who is active: often while nobody is known, now and then otherwise, at once when there is doubt, and not at all
    /// while this replica is. Never returns.
    pub async fn follow(&self, mut own: watch::Receiver<Option<Arc<SigningSession>>>) {
        loop {
            if own.borrow_and_update().is_some() {
                self.active.send_replace(None);
                if own.changed().await.is_ok() {
                    continue;
                }
            }
            let found = self.find_active().await;
            let known = found.is_ok();
            if let Err(absence) = &found {
                absence.clone_into(&mut self.absence.lock().unwrap_or_else(PoisonError::into_inner));
            }
            let found = found.ok();
            self.active.send_if_modified(|active| std::mem::replace(active, found.clone()) != found);
            if known {
                let _doubted_or_time_to_look = timeout(LOOK_WHILE_KNOWN, self.doubt.notified()).await.is_ok();
            } else {
                sleep(LOOK_WHILE_UNKNOWN).await;
            }
        }
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

    async fn find_active(&self) -> Result<ActiveReplica, String> {
        let active = self.directory.active().await?;
        let replica = &active.replica;
        if *replica == self.replica {
            return Err("this replica was active last".into());
        }
        let channel = self.channel_to(&active.socket).map_err(|error| error.to_string())?;
        let mut client = PairServiceClient::new(channel);
        match timeout(ANSWER_LIMIT, client.ask(AskRequest {})).await {
            Ok(Ok(answer)) => match answer.into_inner() {
                AskResponse { active_term: 0, .. } => Err(format!("{replica} was active last and is not any more")),
                AskResponse { replica, active_term } => {
                    Ok(ActiveReplica { replica, term: Term::new(active_term), socket: active.socket.clone() })
                }
            },
            Ok(Err(status)) => Err(format!("{replica} was active last and can't be reached: {}", said_by(&status))),
            Err(_) => Err(format!(
                "{replica} holds the lock and does not answer within {ANSWER_LIMIT:?}: its process may be stopped"
            )),
        }
    }

    fn channel_to(&self, socket: &Path) -> Result<Channel, ForwardError> {
        let mut kept = self.channel.lock().unwrap_or_else(PoisonError::into_inner);
        match kept.as_ref() {
            Some((known, channel)) if known == socket => Ok(channel.clone()),
            _ => {
                let channel = endpoint_of(socket).map_err(ForwardError::NoActive)?.connect_lazy();
                *kept = Some((socket.to_owned(), channel.clone()));
                Ok(channel)
            }
        }
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
            let active = self.active_or_why_not().map_err(ForwardError::NoActive)?;
            // a caller that gives up on a slow answer doubts the active as much as one that gets an error
            let doubt = Doubt(&self.doubt);
            let mut client = PairServiceClient::new(self.channel_to(&active.socket)?);
            match client.create_certificate(forwarded(request, evidence, &self.replica)).await {
                Ok(response) => {
                    doubt.dispelled();
                    Ok(response.into_inner().cert_chain)
                }
                Err(status) if status.metadata().contains_key(ANSWERED) => {
                    doubt.dispelled();
                    Err(ForwardError::Refused { code: status.code().into(), message: status.message().to_owned() })
                }
                Err(status) => Err(ForwardError::NoActive(format!("{}: {}", active.replica, said_by(&status)))),
            }
        })
    }
}

/// Raises the doubt when it is dropped.
struct Doubt<'a>(&'a Notify);

impl Doubt<'_> {
    fn dispelled(self) {
        std::mem::forget(self);
    }
}

impl Drop for Doubt<'_> {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

/// The log of one live replica, by its socket.
pub fn entries_of_replica(socket: PathBuf) -> Entries {
    relay(async move {
        let channel = connect(&socket).await.map_err(LogError)?;
        let records = PairServiceClient::new(channel).list_issuance(ListIssuanceRequest {}).await;
        Ok(records.map_err(|status| LogError(said_by(&status)))?.into_inner())
    })
}

/// Passes on what the stream that is opened by `open` brings.
pub(super) fn relay(
    open: impl Future<Output = Result<tonic::Streaming<IssuanceRecord>, LogError>> + Send + 'static,
) -> Entries {
    let (sender, entries) = mpsc::channel(64);
    tokio::spawn(async move {
        let mut records = match open.await {
            Ok(records) => records,
            Err(error) => return drop(sender.send(Err(error)).await),
        };
        loop {
            let entry = match records.message().await {
                Ok(Some(record)) => entry_of(record),
                Ok(None) => return,
                Err(status) => Err(LogError(said_by(&status))),
            };
            let failed = entry.is_err();
            if sender.send(entry).await.is_err() || failed {
                return;
            }
        }
    });
    entries
}

/// A channel to a socket that answers; else why it doesn't, with its path.
pub(super) async fn connect(socket: &Path) -> Result<Channel, String> {
    let endpoint = endpoint_of(socket)?;
    endpoint.connect().await.map_err(|error| format!("{}: {error}", socket.display()))
}

fn endpoint_of(socket: &Path) -> Result<Endpoint, String> {
    Endpoint::from_shared(format!("unix:{}", socket.display()))
        .map(|endpoint| endpoint.connect_timeout(CONNECT_LIMIT))
        .map_err(|error| format!("{}: {error}", socket.display()))
}

/// A status for people.
pub(super) fn said_by(status: &Status) -> String {
    format!("{:?}: {}", status.code(), status.message())
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
    ForwardedRequest {
        request: Some(IstioCertificateRequest {
            csr: request.csr.clone(),
            validity_duration: request.ttl_seconds,
            metadata,
        }),
        token: evidence.token.as_ref().map(|token| token.to_string()).unwrap_or_default(),
        asserted: evidence.certificate().map(|chain| AssertedChain {
            certificates: chain.iter().map(|certificate| certificate.der().to_vec().into()).collect(),
        }),
        own: evidence.own.as_ref().map(|own| match own {
            OwnIdentity::Workload(account) => Own::OwnWorkload(account.to_string()),
            OwnIdentity::Serving => Own::Serving(true),
            OwnIdentity::Istiod(account) => Own::Istiod(account.to_string()),
        }),
        replica: replica.to_owned(),
        cluster: evidence.cluster.clone(),
        source: evidence.source.map(|source| source.to_string()).unwrap_or_default(),
    }
}

fn entry_of(record: IssuanceRecord) -> Result<IssuanceEntry, LogError> {
    let event = match record.event {
        Some(Event::Issued(issued)) => RecordedEvent::Issued {
            signed_at: issued.signed_at,
            term: issued.term,
            replica: issued.replica,
            authority: issued.authority,
            spiffe_id: issued.spiffe_id,
            serial: issued.serial,
            not_before: issued.not_before,
            not_after: issued.not_after,
            proof: issued.proof,
        },
        Some(Event::Withheld(withheld)) => RecordedEvent::Withheld { serial: withheld.serial, term: withheld.term },
        None => return Err(LogError(format!("record {} of {} is of an unknown kind", record.sequence, record.log))),
    };
    Ok(IssuanceEntry { log: record.log, sequence: record.sequence, event })
}
