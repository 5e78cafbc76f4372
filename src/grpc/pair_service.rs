//! What a replica answers the others of its pair.

use std::{pin::Pin, sync::Arc};

use tokio_stream::{Stream, StreamExt, wrappers::ReceiverStream};
use tonic::{Request, Response, Status};
use tracing::info;
use zeroize::Zeroizing;

use super::{certificate_service::signing_request, status::status_of};
use crate::{
    domain::{
        attestation::{Evidence, OwnIdentity},
        leadership::Term,
        x509::CertificateChain,
    },
    proto::{
        countersign::v1::{
            AskRequest, AskResponse, ForwardedRequest, IssuanceRecord, Issued, ListIssuanceRequest, Withheld,
            forwarded_request::Own, issuance_record::Event, pair_service_server::PairService,
        },
        istio::v1::auth::IstioCertificateResponse,
    },
    service::{
        create_certificate::CreateCertificate,
        issuance_history::{IssuanceEntry, IssuanceHistory, RecordedEvent},
    },
};

/// Stands on a refusal that is the active's own, so that it can be told from a broken connection.
pub(super) const ANSWERED: &str = "countersign-answered";

/// The service between replicas. Whoever reaches it has been authenticated by the listener.
pub(super) struct ReplicaService {
    create: Arc<CreateCertificate>,
    history: Arc<dyn IssuanceHistory>,
}

impl ReplicaService {
    /// Signs through `create`; lists `history`, the log of this replica alone.
    pub(super) const fn new(create: Arc<CreateCertificate>, history: Arc<dyn IssuanceHistory>) -> Self {
        Self { create, history }
    }
}

#[tonic::async_trait]
impl PairService for ReplicaService {
    async fn create_certificate(
        &self,
        request: Request<ForwardedRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let mut forwarded = request.into_inner();
        let request = forwarded.request.take().ok_or_else(|| Status::invalid_argument("request is missing"))?;
        let replica = std::mem::take(&mut forwarded.replica);
        let evidence = evidence_of(forwarded)?;
        match self.create.answer_forwarded(&signing_request(request), &evidence, &replica).await {
            Ok(cert_chain) => Ok(Response::new(IstioCertificateResponse { cert_chain })),
            Err(error) => {
                let mut status = status_of(&error);
                if status.code() != tonic::Code::Unavailable {
                    // the other replica gets the public text alone
                    info!(event = "create_certificate_refused", forwarded_by = replica, code = ?status.code(), reason = %error);
                    status.metadata_mut().insert(ANSWERED, tonic::metadata::MetadataValue::from_static("true"));
                }
                Err(status)
            }
        }
    }

    async fn ask(&self, _request: Request<AskRequest>) -> Result<Response<AskResponse>, Status> {
        let active_term = self.create.active_term().map_or(0, Term::number);
        Ok(Response::new(AskResponse { replica: self.create.replica().to_owned(), active_term }))
    }

    type ListIssuanceStream = RecordStream;

    async fn list_issuance(
        &self,
        _request: Request<ListIssuanceRequest>,
    ) -> Result<Response<Self::ListIssuanceStream>, Status> {
        Ok(Response::new(records_of(self.history.as_ref())))
    }
}

/// The records of a log as they are read.
pub(super) type RecordStream = Pin<Box<dyn Stream<Item = Result<IssuanceRecord, Status>> + Send>>;

/// Everything that `history` holds now.
pub(super) fn records_of(history: &dyn IssuanceHistory) -> RecordStream {
    let entries = ReceiverStream::new(history.entries());
    Box::pin(entries.map(|entry| match entry {
        Ok(entry) => Ok(record_of(entry)),
        Err(error) => Err(Status::data_loss(error.to_string())),
    }))
}

fn evidence_of(forwarded: ForwardedRequest) -> Result<Evidence, Status> {
    let asserted = forwarded
        .asserted
        .map(|chain| CertificateChain::from_ders(&chain.certificates))
        .transpose()
        .map_err(|error| Status::invalid_argument(format!("asserted: {error}")))?;
    let own = match forwarded.own {
        None => None,
        Some(Own::Serving(_)) => Some(OwnIdentity::Serving),
        Some(Own::Istiod(account)) => Some(OwnIdentity::Istiod(
            account.parse().map_err(|error| Status::invalid_argument(format!("istiod: {error}")))?,
        )),
        Some(Own::OwnWorkload(account)) => Some(OwnIdentity::Workload(
            account.parse().map_err(|error| Status::invalid_argument(format!("own_workload: {error}")))?,
        )),
    };
    let token = (!forwarded.token.is_empty()).then(|| Zeroizing::new(forwarded.token));
    // a replica of an older version says neither where its caller is nor of which cluster
    let source = forwarded.source.parse().ok();
    Ok(Evidence { token, cluster: forwarded.cluster, presented: None, asserted, own, source })
}

fn record_of(entry: IssuanceEntry) -> IssuanceRecord {
    let event = match entry.event {
        RecordedEvent::Withheld { serial, term } => Event::Withheld(Withheld { serial, term }),
        RecordedEvent::Issued {
            signed_at,
            term,
            replica,
            authority,
            spiffe_id,
            serial,
            not_before,
            not_after,
            proof,
        } => Event::Issued(Issued {
            signed_at,
            term,
            replica,
            authority,
            spiffe_id,
            serial,
            not_before,
            not_after,
            proof,
        }),
    };
    IssuanceRecord { log: entry.log, sequence: entry.sequence, event: Some(event) }
}
