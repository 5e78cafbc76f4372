//! For tests of clients: an authority, and CAs that are served over TLS.

use std::{fs, net::Ipv4Addr, sync::Arc, time::Duration};

use tempfile::TempDir;
use tokio::{net::TcpListener, sync::watch, time::sleep};
use tonic::{Request, Response, Status, transport::Server};

use super::{server_tls::server_config, tls_listener::accept_tls};
use crate::{
    domain::{
        authority::{SigningAuthority, Subject, TtlBounds, issue, testing::TestRandom},
        clock::{BootInstant, Clock, Timestamp},
        x509::{CertificateChain, PrivateKey, VerifiedCsr, X509Svid},
    },
    proto::istio::v1::auth::{
        IstioCertificateRequest, IstioCertificateResponse,
        istio_certificate_service_server::{IstioCertificateService, IstioCertificateServiceServer},
    },
    service::svid_publisher::{IdentityReceiver, WorkloadIdentity},
};

pub(super) const ID: &str = "spiffe://cluster.local/ns/default/sa/gateway";
pub(super) const HOUR: Duration = Duration::from_secs(3600);

/// An authority of this moment.
pub(super) struct World {
    pub(super) now: Timestamp,
    pub(super) authority: SigningAuthority,
    pub(super) files: TempDir,
}

/// The system's clock.
pub(super) struct SystemNow;

/// A clock that stands still.
pub(super) struct At(pub(super) Timestamp);

impl Clock for SystemNow {
    fn now(&self) -> Timestamp {
        Timestamp::from_seconds(0).plus(std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap())
    }

    fn boot(&self) -> BootInstant {
        BootInstant::from_nanos(0)
    }
}

impl Clock for At {
    fn now(&self) -> Timestamp {
        self.0
    }

    fn boot(&self) -> BootInstant {
        BootInstant::from_nanos(0)
    }
}

/// A CA that says the same to everybody, after a while.
pub(super) struct Fixed(pub(super) Result<Vec<String>, Status>, pub(super) Duration);

/// A CA that looks at the request.
pub(super) struct Looking<F>(F);

#[tonic::async_trait]
impl<F> IstioCertificateService for Looking<F>
where
    F: Fn(&Request<IstioCertificateRequest>) -> Result<Vec<String>, Status> + Send + Sync + 'static,
{
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        (self.0)(&request).map(|cert_chain| Response::new(IstioCertificateResponse { cert_chain }))
    }
}

#[tonic::async_trait]
impl IstioCertificateService for Fixed {
    async fn create_certificate(
        &self,
        _: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        sleep(self.1).await;
        self.0.clone().map(|cert_chain| Response::new(IstioCertificateResponse { cert_chain }))
    }
}

impl World {
    #[expect(clippy::disallowed_methods, reason = "a test may write files")]
    pub(super) fn new() -> Self {
        let now = Timestamp::from_seconds(SystemNow.now().seconds());
        let trust_domain = "cluster.local".parse().unwrap();
        let (authority, _) = SigningAuthority::self_signed(&trust_domain, HOUR, now, &TestRandom).unwrap();
        let world = Self { now, authority, files: tempfile::tempdir().unwrap() };
        fs::write(world.files.path().join("token"), "a.b.c").unwrap();
        world.write_roots(&world.authority.bundle().to_pem());
        world
    }

    #[expect(clippy::disallowed_methods, reason = "a test may write files")]
    pub(super) fn write_token(&self, token: &[u8]) {
        fs::write(self.files.path().join("token"), token).unwrap();
    }

    #[expect(clippy::disallowed_methods, reason = "a test may write files")]
    pub(super) fn write_roots(&self, pem: &str) {
        fs::write(self.files.path().join("roots"), pem).unwrap();
    }

    /// An SVID that also serves as `localhost`, and the whole answer that a CA gives with it.
    pub(super) fn issued(&self) -> (X509Svid, Vec<String>) {
        self.issued_with(&["localhost".to_owned()])
    }

    pub(super) fn issued_with(&self, server_names: &[String]) -> (X509Svid, Vec<String>) {
        let id = ID.parse().unwrap();
        let key = PrivateKey::generate_p256().unwrap();
        let csr = VerifiedCsr::from_pem(key.certificate_request(&id).unwrap().as_bytes()).unwrap();
        let subject = Subject { id: &id, server_names };
        let bounds = TtlBounds::new(HOUR, HOUR).unwrap();
        let issued = issue(&self.authority, &csr, subject, 0, &bounds, self.now, &TestRandom).unwrap();
        let answer = issued.response_chain(&self.authority);
        (X509Svid::new(CertificateChain::new(vec![issued.leaf]).unwrap(), key).unwrap(), answer)
    }

    /// Serves `answer` until the test ends.
    pub(super) async fn ca(&self, answer: Result<Vec<String>, Status>) -> String {
        self.slow_ca(answer, Duration::ZERO).await
    }

    pub(super) async fn slow_ca(&self, answer: Result<Vec<String>, Status>, delay: Duration) -> String {
        serve(Fixed(answer, delay), &self.issued().0).await
    }

    /// Serves what `look` makes of each request.
    pub(super) async fn looking_ca<F>(&self, look: F) -> String
    where
        F: Fn(&Request<IstioCertificateRequest>) -> Result<Vec<String>, Status> + Send + Sync + 'static,
    {
        serve(Looking(look), &self.issued().0).await
    }

    /// What a client has that can renew by its certificate.
    pub(super) fn identity(&self) -> IdentityReceiver {
        let svid = self.issued().0;
        let bundle = Arc::new(self.authority.bundle().clone());
        let identity = WorkloadIdentity { id: ID.parse().unwrap(), svid: Some(Arc::new(svid)), bundle, revision: 1 };
        watch::channel(Some(Arc::new(identity))).1
    }

    pub(super) async fn good_ca(&self) -> String {
        self.ca(Ok(self.issued().1)).await
    }
}

/// Serves until the test ends.
pub(super) async fn serve(service: impl IstioCertificateService, serving: &X509Svid) -> String {
    let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = tcp.local_addr().unwrap().to_string();
    let (_, tls) = watch::channel(Some(server_config(serving, &(Arc::new(SystemNow) as _)).unwrap()));
    let service = IstioCertificateServiceServer::new(service);
    tokio::spawn(Server::builder().add_service(service).serve_with_incoming(accept_tls(tcp, tls)));
    address
}
