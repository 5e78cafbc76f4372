//! What a replica answers the others of its pair.

use std::{net::IpAddr, pin::Pin, sync::Arc};

use futures_util::stream::try_unfold;
use tokio_stream::Stream;
use tonic::{Extensions, Request, Response, Status, Streaming, metadata::MetadataValue};
use tracing::{debug, info};
use zeroize::Zeroizing;

use super::{
    authentication::PeerConnection,
    certificate_service::signing_request,
    denial_messages::{allow_of, changed, deny_of, list_of},
    federation_messages::{answer_of, order_of},
    issuance_messages::{RecordStream, records_of},
    jwt_service::{jwt_svid_request, mint_response},
    known_peers::KnownPeers,
    policy_report::PassedReports,
    status::{status_of, status_of_mint},
    trace_context::{FORWARD_CERTIFICATE, FORWARD_MINT, answering, callers_context},
};
use crate::{
    domain::{
        attestation::{Evidence, OwnIdentity},
        clock::Clock,
        identity::{ReplicaId, ServiceAccount},
        leadership::Term,
        x509::CertificateChain,
    },
    proto::{
        countersign::trust::v1::MintResponse,
        countersign::v1::{
            AskRequest, AskResponse, DenialChanged, FederationAnswer, ForwardedAllow, ForwardedDeny,
            ForwardedFederationOrder, ForwardedMint, ForwardedRequest, ListDeniedRequest, ListDeniedResponse,
            ListIssuanceRequest, PassedReport, PassedReportTaken, forwarded_request::Own,
            pair_service_server::PairService,
        },
        istio::v1::auth::IstioCertificateResponse,
    },
    service::{
        authority_rotation::AuthorityRotation,
        create_certificate::{CreateCertificate, CreateError, ErrorKind},
        denial::{Actor, IssuanceDenial},
        federation::Federation,
        issuance_history::IssuanceHistory,
        line_limit::{Line, LineLimit},
        mint_jwt_svid::MintJwtSvid,
        policy_enforcement::PolicyEnforcement,
        ports::DenialChange,
    },
};

/// Stands on a refusal that is the active's own, so that it can be told from a broken connection.
pub(super) const ANSWERED: &str = "countersign-answered";

/// Stands on what is no refusal, but says no more than that this replica can't answer just now: it is active all the same.
pub(super) const STILL_ACTIVE: &str = "countersign-still-active";

/// Confirms each report that another replica passes on.
pub(super) type TakenStream = Pin<Box<dyn Stream<Item = Result<PassedReportTaken, Status>> + Send>>;

/// The service between replicas.
pub(super) struct ReplicaService {
    create: Arc<CreateCertificate>,
    mint: Arc<MintJwtSvid>,
    history: Arc<dyn IssuanceHistory>,
    denial: Arc<IssuanceDenial>,
    federation: Option<Arc<Federation>>,
    /// If policies are followed here.
    enforcement: Option<Arc<PolicyEnforcement>>,
    peers: Peers,
    /// Of what is refused, `None` for own identities that a replica may not have; by whoever forwarded and its caller's address.
    lines: LineLimit<Option<ErrorKind>, (String, Option<IpAddr>)>,
}

/// What a replica answers others from.
pub struct PairServices {
    /// Signs.
    pub create: Arc<CreateCertificate>,
    /// Mints JWT-SVIDs.
    pub mint: Arc<MintJwtSvid>,
    /// The log of this replica alone.
    pub history: Arc<dyn IssuanceHistory>,
    /// Changes what is denied.
    pub denial: Arc<IssuanceDenial>,
    /// Rotates the authorities, if they are rotated here.
    pub rotation: Option<Arc<AuthorityRotation>>,
    /// Knows other trust domains, where a pair does.
    pub federation: Option<Arc<Federation>>,
    /// Knows which policies are in force, if they are followed.
    pub enforcement: Option<Arc<PolicyEnforcement>>,
}

/// Who the others are.
#[derive(Clone)]
pub(super) enum Peers {
    /// Processes of this user in the same data directory, as the listener has checked. They can read everything that this one
    /// can, so their word is taken.
    SameUser,
    /// Replicas with a certificate of the pair authority.
    Certified(CertifiedPeers),
}

/// What is believed of replicas elsewhere.
#[derive(Clone)]
pub struct CertifiedPeers {
    /// Time, for certificates that expire on a long connection.
    pub clock: Arc<dyn Clock>,
    /// Who asks is heard of here.
    pub known: Arc<KnownPeers>,
    /// The workload that every replica of this pair may have an SVID for, beside its serving certificate; most have none.
    pub workload: Option<ServiceAccount>,
}

impl ReplicaService {
    /// Answers `peers` from these.
    pub(super) fn new(services: PairServices, peers: Peers) -> Self {
        let PairServices { create, mint, history, denial, rotation: _, federation, enforcement } = services;
        Self { create, mint, history, denial, federation, enforcement, peers, lines: LineLimit::default() }
    }

    async fn signed(&self, request: Request<ForwardedRequest>) -> Result<Response<IstioCertificateResponse>, Status> {
        let (_, extensions, mut forwarded) = request.into_parts();
        let replica = self.peers.name(&extensions, std::mem::take(&mut forwarded.replica))?;
        let request = forwarded.request.take().ok_or_else(|| Status::invalid_argument("request is missing"))?;
        let evidence = self.believed(forwarded, &replica)?;
        match self.create.answer_forwarded(&signing_request(request), &evidence, &replica).await {
            Ok(cert_chain) => Ok(Response::new(IstioCertificateResponse { cert_chain })),
            Err(error) => {
                let status = status_of(&error);
                Err(self.refusal((&error, status), "create_certificate_refused", replica, evidence.source))
            }
        }
    }

    async fn minted(&self, request: Request<ForwardedMint>) -> Result<Response<MintResponse>, Status> {
        let (_, extensions, ForwardedMint { request, proof }) = request.into_parts();
        let mut proof = proof.unwrap_or_default();
        let replica = self.peers.name(&extensions, std::mem::take(&mut proof.replica))?;
        let evidence = self.believed(proof, &replica)?;
        let request = jwt_svid_request(request.unwrap_or_default()).map_err(answered)?;
        match self.mint.answer_forwarded(&request, &evidence, &replica).await {
            Ok(minted) => Ok(Response::new(mint_response(&minted))),
            Err(error) => {
                let status = status_of_mint(&error);
                Err(self.refusal((&error, status), "jwt_svid_refused", replica, evidence.source))
            }
        }
    }

    /// What another replica's caller brought, unless it is the replica itself that asks for what it may not have.
    fn believed(&self, forwarded: ForwardedRequest, replica: &str) -> Result<Evidence, Status> {
        let evidence = evidence_of(forwarded)?;
        let Some(own) = evidence.own.as_ref().filter(|own| !self.peers.may_have(own)) else { return Ok(evidence) };
        if let Some(Line { left_out }) = self.lines.line(None, (replica.to_owned(), evidence.source)) {
            info!(event = "own_identity_refused", forwarded_by = replica, ?own, left_out);
        }
        Err(answered(Status::permission_denied("a replica gets only what is configured for all of them")))
    }

    /// The other replica gets the public text alone.
    fn refusal(
        &self,
        (error, status): (&CreateError, Status),
        event: &'static str,
        replica: String,
        source: Option<IpAddr>,
    ) -> Status {
        if status.code() == tonic::Code::Unavailable {
            return if *error == CreateError::NotActive { status } else { still_active(status) };
        }
        let code = status.code();
        match self.lines.line(Some(error.kind()), (replica.clone(), source)) {
            Some(Line { left_out }) => {
                info!(event, forwarded_by = replica, ?code, reason = %error, left_out);
            }
            None => debug!(event, forwarded_by = replica, ?code, reason = %error),
        }
        answered(status)
    }

    async fn changed(&self, change: DenialChange, actor: Actor) -> Result<Response<DenialChanged>, Status> {
        let result = self.denial.change(change.clone(), actor).await;
        changed(change.subject().clone(), result).map_err(answered)
    }
}

impl Peers {
    /// The replica at the other end: as its certificate says, or as it says itself where everybody is believed.
    pub(super) fn name(&self, extensions: &Extensions, as_it_says: String) -> Result<String, Status> {
        let Self::Certified(peers) = self else { return Ok(as_it_says) };
        let presented = extensions.get::<PeerConnection>().and_then(|connection| connection.presented.as_ref());
        let leaf = presented.map(CertificateChain::leaf);
        let replica = leaf.and_then(|leaf| ReplicaId::of(&leaf.spiffe_id()?).map(|replica| (leaf, replica)));
        let (leaf, replica) = replica.ok_or_else(|| Status::permission_denied("the connection names no replica"))?;
        match leaf.check_time(peers.clock.now()) {
            Ok(()) => Ok(replica.uid().to_owned()),
            Err(error) => Err(Status::unavailable(format!("connect anew: {error}"))),
        }
    }

    /// Whether a replica may have what it asks for itself.
    fn may_have(&self, own: &OwnIdentity) -> bool {
        match (self, own) {
            (Self::SameUser, _) | (Self::Certified(_), OwnIdentity::Serving) => true,
            (Self::Certified(peers), OwnIdentity::Workload(account)) => peers.workload.as_ref() == Some(account),
            // whoever writes a Secret is active, and signs for it himself
            (Self::Certified(_), OwnIdentity::Istiod(_) | OwnIdentity::Gateway(_)) => false,
        }
    }
}

#[tonic::async_trait]
impl PairService for ReplicaService {
    async fn create_certificate(
        &self,
        request: Request<ForwardedRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let caller = callers_context(request.metadata());
        answering(FORWARD_CERTIFICATE, caller, self.signed(request)).await
    }

    async fn mint_jwt_svid(&self, request: Request<ForwardedMint>) -> Result<Response<MintResponse>, Status> {
        let caller = callers_context(request.metadata());
        answering(FORWARD_MINT, caller, self.minted(request)).await
    }

    async fn ask(&self, request: Request<AskRequest>) -> Result<Response<AskResponse>, Status> {
        self.peers.name(request.extensions(), String::new())?;
        if let (Peers::Certified(peers), Ok(address)) = (&self.peers, request.get_ref().pair_address.parse()) {
            peers.known.heard_of(address);
        }
        let active_term = self.create.active_term().map_or(0, Term::number);
        Ok(Response::new(AskResponse { replica: self.create.replica().to_owned(), active_term }))
    }

    type ListIssuanceStream = RecordStream;

    async fn list_issuance(
        &self,
        request: Request<ListIssuanceRequest>,
    ) -> Result<Response<Self::ListIssuanceStream>, Status> {
        self.peers.name(request.extensions(), String::new())?;
        Ok(Response::new(records_of(self.history.as_ref())))
    }

    async fn deny(&self, request: Request<ForwardedDeny>) -> Result<Response<DenialChanged>, Status> {
        let (_, extensions, ForwardedDeny { request, actor_uid, replica }) = request.into_parts();
        let asserted_by = Some(self.peers.name(&extensions, replica)?);
        let change = deny_of(request.unwrap_or_default()).map_err(answered)?;
        self.changed(change, Actor { uid: actor_uid, asserted_by }).await
    }

    async fn allow(&self, request: Request<ForwardedAllow>) -> Result<Response<DenialChanged>, Status> {
        let (_, extensions, ForwardedAllow { request, actor_uid, replica }) = request.into_parts();
        let asserted_by = Some(self.peers.name(&extensions, replica)?);
        let change = allow_of(request.unwrap_or_default()).map_err(answered)?;
        self.changed(change, Actor { uid: actor_uid, asserted_by }).await
    }

    async fn federate(&self, request: Request<ForwardedFederationOrder>) -> Result<Response<FederationAnswer>, Status> {
        let (_, extensions, ForwardedFederationOrder { order, actor_uid, replica }) = request.into_parts();
        let asserted_by = Some(self.peers.name(&extensions, replica)?);
        let federation = self.federation.as_ref().ok_or_else(|| Status::unimplemented("nothing is federated here"))?;
        let order = order_of(order.unwrap_or_default()).map_err(answered)?;
        answer_of(federation.order(order, Actor { uid: actor_uid, asserted_by }).await).map_err(answered)
    }

    type PassReportsStream = TakenStream;

    async fn pass_reports(&self, request: Request<Streaming<PassedReport>>) -> Result<Response<TakenStream>, Status> {
        self.peers.name(request.extensions(), String::new())?;
        let enforcement = self.enforcement.clone();
        let enforcement = enforcement.ok_or_else(|| Status::unimplemented("no policies are followed here"))?;
        Ok(Response::new(taken(enforcement, request.into_inner())))
    }

    async fn list_denied(&self, request: Request<ListDeniedRequest>) -> Result<Response<ListDeniedResponse>, Status> {
        self.peers.name(request.extensions(), String::new())?;
        list_of(&self.denial.denied()).map_err(answered)
    }
}

/// Takes up what another replica passes on.
pub(super) fn taken(enforcement: Arc<PolicyEnforcement>, messages: Streaming<PassedReport>) -> TakenStream {
    let passed = PassedReports::new(enforcement, messages);
    let next = |mut passed: PassedReports| async { Ok(passed.next().await?.map(|taken| (taken, passed))) };
    Box::pin(try_unfold(passed, next))
}

/// Marks a refusal as this replica's own. That it is not active is none: another one may do what is wanted.
pub(super) fn answered(mut status: Status) -> Status {
    if status.code() != tonic::Code::FailedPrecondition {
        status.metadata_mut().insert(ANSWERED, MetadataValue::from_static("true"));
    }
    status
}

/// Another attempt may do, and nobody else need be looked for.
fn still_active(mut status: Status) -> Status {
    status.metadata_mut().insert(STILL_ACTIVE, MetadataValue::from_static("true"));
    status
}

fn evidence_of(mut forwarded: ForwardedRequest) -> Result<Evidence, Status> {
    let asserted = forwarded
        .asserted
        .take()
        .map(|chain| CertificateChain::from_ders(&chain.certificates))
        .transpose()
        .map_err(|error| Status::invalid_argument(format!("asserted: {error}")))?;
    let own = match forwarded.own.take() {
        None => None,
        Some(Own::Serving(_)) => Some(OwnIdentity::Serving),
        Some(Own::Istiod(account)) => Some(OwnIdentity::Istiod(
            account.parse().map_err(|error| Status::invalid_argument(format!("istiod: {error}")))?,
        )),
        Some(Own::Gateway(account)) => Some(OwnIdentity::Gateway(
            account.parse().map_err(|error| Status::invalid_argument(format!("gateway: {error}")))?,
        )),
        Some(Own::OwnWorkload(account)) => Some(OwnIdentity::Workload(
            account.parse().map_err(|error| Status::invalid_argument(format!("own_workload: {error}")))?,
        )),
    };
    let token = (!forwarded.token.is_empty()).then(|| Zeroizing::new(std::mem::take(&mut forwarded.token)));
    // a replica of an older version says neither where its caller is nor of which cluster
    let source = forwarded.source.parse().ok();
    Ok(Evidence { token, cluster: std::mem::take(&mut forwarded.cluster), presented: None, asserted, own, source })
}
