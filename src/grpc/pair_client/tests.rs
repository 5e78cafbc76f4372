use std::{
    pin::Pin,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
};

use tokio::time::sleep;
use tokio_stream::Stream;
use tonic::{Request, Response, Streaming, metadata::MetadataValue};

use super::*;
use crate::{
    grpc::unix_listener::{SocketAccess, WorkloadListener},
    proto::{
        countersign::trust::v1::MintResponse,
        countersign::v1::{
            DenialChanged, FederationAnswer, ForwardedAllow, ForwardedDeny, ForwardedFederationOrder, IssuanceRecord,
            ListDeniedRequest, ListDeniedResponse, PassedReport, PassedReportTaken,
            pair_service_server::{PairService, PairServiceServer},
        },
        istio::v1::auth::IstioCertificateResponse,
    },
    service::ports::PairEndpoint,
};

/// An active that signs nothing, and either says that it is active all the same or doesn't.
#[derive(Default)]
struct Refusing {
    says_so: AtomicBool,
    asked: AtomicUsize,
}

#[tonic::async_trait]
impl PairService for Arc<Refusing> {
    async fn create_certificate(
        &self,
        _: Request<ForwardedRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let mut status = Status::unavailable("too many requests are being answered: try again");
        if self.says_so.load(Ordering::Relaxed) {
            status.metadata_mut().insert(STILL_ACTIVE, MetadataValue::from_static("true"));
        }
        Err(status)
    }

    async fn mint_jwt_svid(&self, _: Request<ForwardedMint>) -> Result<Response<MintResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn ask(&self, _: Request<AskRequest>) -> Result<Response<AskResponse>, Status> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        Ok(Response::new(AskResponse { replica: "active".into(), active_term: 7 }))
    }

    type ListIssuanceStream = Pin<Box<dyn Stream<Item = Result<IssuanceRecord, Status>> + Send>>;

    async fn list_issuance(
        &self,
        _: Request<ListIssuanceRequest>,
    ) -> Result<Response<Self::ListIssuanceStream>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn federate(&self, _: Request<ForwardedFederationOrder>) -> Result<Response<FederationAnswer>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn deny(&self, _: Request<ForwardedDeny>) -> Result<Response<DenialChanged>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn allow(&self, _: Request<ForwardedAllow>) -> Result<Response<DenialChanged>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn list_denied(&self, _: Request<ListDeniedRequest>) -> Result<Response<ListDeniedResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    type PassReportsStream = Pin<Box<dyn Stream<Item = Result<PassedReportTaken, Status>> + Send>>;

    async fn pass_reports(
        &self,
        _: Request<Streaming<PassedReport>>,
    ) -> Result<Response<Self::PassReportsStream>, Status> {
        Err(Status::unimplemented(""))
    }
}

struct One(PairEndpoint);

impl PairDirectory for One {
    fn candidates(&self) -> BoxFuture<'_, Result<Vec<Candidate>, String>> {
        Box::pin(async { Ok(vec![Candidate { replica: None, term: None, endpoint: self.0.clone() }]) })
    }
}

#[tokio::test]
async fn an_active_that_is_busy_is_asked_again_and_nobody_is_looked_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pair.sock");
    let listener = WorkloadListener::bind(&path, SocketAccess::default()).await.unwrap();
    let active = Arc::new(Refusing::default());
    let server = tonic::transport::Server::builder().add_service(PairServiceServer::new(Arc::clone(&active)));
    tokio::spawn(server.serve_with_incoming(listener.incoming()));
    let client = Arc::new(PairClient::new(Arc::new(One(PairEndpoint::Unix(path))), "own".into()));
    let (_standby, sessions) = watch::channel(None::<()>);
    let following = Arc::clone(&client);
    tokio::spawn(async move { following.follow(sessions).await });
    let found = async { client.active().wait_for(Option::is_some).await.map(drop) };
    timeout(ANSWER_LIMIT * 5, found).await.expect("the active is found").unwrap();

    // 300 ms of refusals, and how often it was asked whether it is active
    let looks = async |says_so: bool| {
        active.says_so.store(says_so, Ordering::Relaxed);
        let before = active.asked.load(Ordering::Relaxed);
        for _ in 0..30 {
            let request = SigningRequest::new(String::new(), 0, String::new());
            let refused = client.forward(&request, &Evidence::NONE).await;
            assert!(matches!(&refused, Err(ForwardError::NoActive(said)) if said.contains("too many")), "{refused:?}");
            sleep(Duration::from_millis(10)).await;
        }
        active.asked.load(Ordering::Relaxed) - before
    };
    let doubted = looks(false).await;
    assert!(doubted > 3, "{doubted}");
    let busy = looks(true).await;
    assert!(busy < 3, "{busy}");
}
