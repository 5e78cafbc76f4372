//! What replicas say to each other where istiod signs: who is active, and what agents of gateways have reported. Nothing is
//! forwarded there, and there is no record that could be read.

use std::sync::Arc;

use tonic::{Extensions, Request, Response, Status, Streaming};

use super::{
    authentication::PeerConnection,
    issuance_messages::RecordStream,
    known_peers::KnownPeers,
    pair_service::{TakenStream, taken},
};
use crate::{
    domain::clock::Clock,
    proto::{
        countersign::trust::v1::MintResponse,
        countersign::v1::{
            AskRequest, AskResponse, DenialChanged, FederationAnswer, ForwardedAllow, ForwardedDeny,
            ForwardedFederationOrder, ForwardedMint, ForwardedRequest, ListDeniedRequest, ListDeniedResponse,
            ListIssuanceRequest, PassedReport, pair_service_server::PairService,
        },
        istio::v1::auth::IstioCertificateResponse,
    },
    service::{lease_term::TermReceiver, policy_enforcement::PolicyEnforcement},
};

/// What a replica that signs nothing answers others from.
pub struct MeshPairServices {
    /// How this process is called among the replicas.
    pub replica: String,
    /// The term that it holds.
    pub held: TermReceiver,
    /// Knows which policies are in force.
    pub enforcement: Arc<PolicyEnforcement>,
    /// Who asks is heard of here.
    pub known: Arc<KnownPeers>,
    /// Time, for certificates that expire on a long connection.
    pub clock: Arc<dyn Clock>,
}

/// The service between such replicas. Its port lets in nobody else.
pub(super) struct MeshReplicaService(pub(super) MeshPairServices);

impl MeshReplicaService {
    fn check(&self, extensions: &Extensions) -> Result<(), Status> {
        let presented = extensions.get::<PeerConnection>().and_then(|connection| connection.presented.as_ref());
        let chain = presented.ok_or_else(|| Status::permission_denied("the connection names no replica"))?;
        let valid = chain.leaf().check_time(self.0.clock.now());
        valid.map_err(|error| Status::unavailable(format!("connect anew: {error}")))
    }
}

fn not_here() -> Status {
    Status::unimplemented("this replica passes requests on to istiod: it signs nothing, and has no record")
}

#[tonic::async_trait]
impl PairService for MeshReplicaService {
    async fn ask(&self, request: Request<AskRequest>) -> Result<Response<AskResponse>, Status> {
        self.check(request.extensions())?;
        let MeshPairServices { replica, held, known, clock, .. } = &self.0;
        if let Ok(address) = request.get_ref().pair_address.parse() {
            known.heard_of(address);
        }
        let held = held.borrow().clone().filter(|held| held.covers(clock.boot()));
        let active_term = held.map_or(0, |held| held.term().number());
        Ok(Response::new(AskResponse { replica: replica.clone(), active_term }))
    }

    type PassReportsStream = TakenStream;

    async fn pass_reports(&self, request: Request<Streaming<PassedReport>>) -> Result<Response<TakenStream>, Status> {
        self.check(request.extensions())?;
        Ok(Response::new(taken(Arc::clone(&self.0.enforcement), request.into_inner())))
    }

    async fn create_certificate(
        &self,
        _request: Request<ForwardedRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        Err(not_here())
    }

    async fn mint_jwt_svid(&self, _request: Request<ForwardedMint>) -> Result<Response<MintResponse>, Status> {
        Err(not_here())
    }

    type ListIssuanceStream = RecordStream;

    async fn list_issuance(&self, _request: Request<ListIssuanceRequest>) -> Result<Response<RecordStream>, Status> {
        Err(not_here())
    }

    async fn deny(&self, _request: Request<ForwardedDeny>) -> Result<Response<DenialChanged>, Status> {
        Err(not_here())
    }

    async fn allow(&self, _request: Request<ForwardedAllow>) -> Result<Response<DenialChanged>, Status> {
        Err(not_here())
    }

    async fn federate(
        &self,
        _request: Request<ForwardedFederationOrder>,
    ) -> Result<Response<FederationAnswer>, Status> {
        Err(not_here())
    }

    async fn list_denied(&self, _request: Request<ListDeniedRequest>) -> Result<Response<ListDeniedResponse>, Status> {
        Err(not_here())
    }
}
