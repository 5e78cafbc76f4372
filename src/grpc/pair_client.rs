//! Asking the other replicas of the pair.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{sync::mpsc, time::timeout};
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
            forwarded_request::Own, issuance_record::Event, operator_service_client::OperatorServiceClient,
            pair_service_client::PairServiceClient,
        },
        istio::v1::auth::IstioCertificateRequest,
    },
    service::{
        create_certificate::SigningRequest,
        issuance_history::{Entries, IssuanceEntry, RecordedEvent},
        ports::{ActiveReplica, BoxFuture, ForwardError, LogError, Pair, PairDirectory},
    },
};

/// A Unix socket answers at once or not at all.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);
/// As long as an attempt at forwarding may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);

/// The pair of an embedded replica: the sockets in the data directory.
pub struct PairClient {
    directory: Arc<dyn PairDirectory>,
    replica: String,
    /// The socket last used and the channel to it, which reconnects by itself.
    channel: Mutex<Option<(PathBuf, Channel)>>,
}

impl PairClient {
    /// Forwards in the name of `replica` to whoever `directory` says is active.
    pub fn new(directory: Arc<dyn PairDirectory>, replica: String) -> Self {
        Self { directory, replica, channel: Mutex::new(None) }
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

impl PairClient {
    /// The active, if it answers and says so itself.
    ///
    /// # Errors
    ///
    /// Why nobody can be said to be active, for people.
    pub async fn find_active(&self) -> Result<ActiveReplica, String> {
        let active = self.directory.active().await?;
        let replica = &active.replica;
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
}

impl Pair for PairClient {
    fn forward<'a>(
        &'a self,
        request: &'a SigningRequest,
        evidence: &'a Evidence,
    ) -> BoxFuture<'a, Result<Vec<String>, ForwardError>> {
        Box::pin(async move {
            let active = self.directory.active().await.map_err(ForwardError::NoActive)?;
            if active.replica == self.replica {
                return Err(ForwardError::NoActive("this replica was active last".into()));
            }
            let mut client = PairServiceClient::new(self.channel_to(&active.socket)?);
            match client.create_certificate(forwarded(request, evidence, &self.replica)).await {
                Ok(response) => Ok(response.into_inner().cert_chain),
                Err(status) if status.metadata().contains_key(ANSWERED) => {
                    Err(ForwardError::Refused { code: status.code().into(), message: status.message().to_owned() })
                }
                Err(status) => Err(ForwardError::NoActive(format!("{}: {}", active.replica, said_by(&status)))),
            }
        })
    }
}

/// The log of one live replica, by its socket.
pub fn entries_of_replica(socket: PathBuf) -> Entries {
    relay(async move {
        let channel = connect(&socket).await?;
        let records = PairServiceClient::new(channel).list_issuance(ListIssuanceRequest {}).await;
        Ok(records.map_err(|status| LogError(said_by(&status)))?.into_inner())
    })
}

/// The logs of all replicas, by `admin.sock`.
pub fn entries_by_admin_socket(socket: PathBuf) -> Entries {
    relay(async move {
        let channel = connect(&socket).await?;
        let records = OperatorServiceClient::new(channel).list_issuance(ListIssuanceRequest {}).await;
        Ok(records.map_err(|status| LogError(said_by(&status)))?.into_inner())
    })
}

fn relay(open: impl Future<Output = Result<tonic::Streaming<IssuanceRecord>, LogError>> + Send + 'static) -> Entries {
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

async fn connect(socket: &Path) -> Result<Channel, LogError> {
    let endpoint = endpoint_of(socket).map_err(LogError)?;
    endpoint.connect().await.map_err(|error| LogError(format!("{}: {error}", socket.display())))
}

fn endpoint_of(socket: &Path) -> Result<Endpoint, String> {
    Endpoint::from_shared(format!("unix:{}", socket.display()))
        .map(|endpoint| endpoint.connect_timeout(CONNECT_LIMIT))
        .map_err(|error| format!("{}: {error}", socket.display()))
}

fn said_by(status: &Status) -> String {
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
    let chain = evidence.presented.as_ref().or(evidence.asserted.as_ref());
    ForwardedRequest {
        request: Some(IstioCertificateRequest {
            csr: request.csr.clone(),
            validity_duration: request.ttl_seconds,
            metadata,
        }),
        token: evidence.token.as_ref().map(|token| token.to_string()).unwrap_or_default(),
        asserted: chain.map(|chain| AssertedChain {
            certificates: chain.iter().map(|certificate| certificate.der().to_vec().into()).collect(),
        }),
        own: evidence.own.as_ref().map(|own| match own {
            OwnIdentity::Workload(account) => Own::OwnWorkload(account.to_string()),
            OwnIdentity::Serving => Own::Serving(true),
        }),
        replica: replica.to_owned(),
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
