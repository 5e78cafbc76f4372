use std::{fs, net::Ipv4Addr};

use tempfile::TempDir;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
};
use tonic::{Response, transport::Server};

use super::{connection::CONNECT_LIMIT, *};
use crate::{
    domain::{
        authority::{SigningAuthority, Subject, TtlBounds, issue, testing::TestRandom},
        clock::Timestamp,
        x509::{CertificateChain, PrivateKey, VerifiedCsr, X509Svid},
    },
    grpc::{server_tls::server_config, tls_listener::accept_tls},
    proto::istio::v1::auth::{
        IstioCertificateResponse,
        istio_certificate_service_server::{IstioCertificateService, IstioCertificateServiceServer},
    },
};

const ID: &str = "spiffe://cluster.local/ns/default/sa/gateway";
const HOUR: Duration = Duration::from_secs(3600);

/// An authority of this moment: rustls verifies by the system's clock.
struct World {
    now: Timestamp,
    authority: SigningAuthority,
    files: TempDir,
}

/// A CA that says the same to everybody, after a while.
struct Fixed(Result<Vec<String>, Status>, Duration);

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
    #[expect(clippy::disallowed_methods, reason = "rustls looks at the same clock; and a test may write files")]
    fn new() -> Self {
        let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
        let now = Timestamp::from_seconds(now.as_secs().try_into().unwrap());
        let trust_domain = "cluster.local".parse().unwrap();
        let (authority, _) = SigningAuthority::self_signed(&trust_domain, HOUR, now, &TestRandom).unwrap();
        let world = Self { now, authority, files: tempfile::tempdir().unwrap() };
        fs::write(world.files.path().join("token"), "a.b.c").unwrap();
        world.write_roots(&world.authority.bundle().to_pem());
        world
    }

    #[expect(clippy::disallowed_methods, reason = "a test may write files")]
    fn write_roots(&self, pem: &str) {
        fs::write(self.files.path().join("roots"), pem).unwrap();
    }

    /// An SVID that also serves as `localhost`, and the whole answer that a CA gives with it.
    fn issued(&self) -> (X509Svid, Vec<String>) {
        let id = ID.parse().unwrap();
        let key = PrivateKey::generate_p256().unwrap();
        let csr = VerifiedCsr::from_pem(key.certificate_request(&id).unwrap().as_bytes()).unwrap();
        let subject = Subject { id: &id, server_names: &["localhost".to_owned()] };
        let bounds = TtlBounds::new(HOUR, HOUR).unwrap();
        let issued = issue(&self.authority, &csr, subject, 0, &bounds, self.now, &TestRandom).unwrap();
        let answer = issued.response_chain(&self.authority);
        (X509Svid::new(CertificateChain::new(vec![issued.leaf]).unwrap(), key).unwrap(), answer)
    }

    /// Serves `answer` until the test ends.
    async fn ca(&self, answer: Result<Vec<String>, Status>) -> String {
        self.slow_ca(answer, Duration::ZERO).await
    }

    async fn slow_ca(&self, answer: Result<Vec<String>, Status>, delay: Duration) -> String {
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = tcp.local_addr().unwrap().to_string();
        let (_, tls) = watch::channel(Some(server_config(&self.issued().0).unwrap()));
        let service = IstioCertificateServiceServer::new(Fixed(answer, delay));
        tokio::spawn(Server::builder().add_service(service).serve_with_incoming(accept_tls(tcp, tls)));
        address
    }

    async fn good_ca(&self) -> String {
        self.ca(Ok(self.issued().1)).await
    }

    fn client(&self, addresses: &[&String]) -> CaClient {
        let endpoint = |address: &&String| CaEndpoint { address: (*address).clone(), server_name: "localhost".into() };
        let file = |name: &str| self.files.path().join(name);
        CaClient::new(addresses.iter().map(endpoint).collect(), file("token"), file("roots"))
    }
}

async fn sign(client: &CaClient) -> Result<SignedChain, SignError> {
    client.sign("a request", 0).await
}

#[tokio::test]
async fn an_address_that_is_no_ca_does_not_hide_the_next_one() {
    let world = World::new();
    let good = world.good_ca().await;
    for code in [Code::Unimplemented, Code::PermissionDenied, Code::Unauthenticated, Code::Internal] {
        let wrong = world.ca(Err(Status::new(code, "not here"))).await;
        assert_eq!(sign(&world.client(&[&wrong, &good])).await.err(), None, "{code:?}");
    }
}

#[tokio::test]
async fn a_request_that_one_ca_calls_wrong_is_wrong_everywhere() {
    let world = World::new();
    let (refusing, good) = (world.ca(Err(Status::invalid_argument("bad CSR"))).await, world.good_ca().await);
    let refused = sign(&world.client(&[&refusing, &good])).await.err();
    assert_eq!(refused, Some(SignError::Refused("InvalidArgument: bad CSR".into())));
}

#[tokio::test]
async fn every_address_has_its_say_in_the_error() {
    let world = World::new();
    let one = world.ca(Err(Status::unimplemented("no such service"))).await;
    let other = world.ca(Err(Status::unavailable("not active"))).await;
    let said = format!("{one}: Unimplemented: no such service; {other}: Unavailable: not active");
    assert_eq!(sign(&world.client(&[&one, &other])).await.err(), Some(SignError::Unavailable(said)));

    let third = world.ca(Err(Status::permission_denied("who?"))).await;
    let said = format!(
        "{third}: PermissionDenied: who?; and no valid SVID is held to renew by; {other}: Unavailable: not active"
    );
    assert_eq!(sign(&world.client(&[&third, &other])).await.err(), Some(SignError::Unauthenticated(said)));
}

#[tokio::test]
async fn without_token_and_svid_nobody_is_asked_and_none_is_said_to_have_refused() {
    let world = World::new();
    let client = world.client(&[&"127.0.0.1:1".to_owned()]);
    fs::remove_file(world.files.path().join("token")).unwrap();
    let said = sign(&client).await.unwrap_err().to_string();
    let expected = "there is no proof of identity to ask a certificate authority with: token file ";
    assert!(said.starts_with(expected) && said.ends_with("; and no valid SVID is held to renew by"), "{said}");
}

#[tokio::test]
async fn roots_that_were_read_last_go_on_while_the_file_is_no_good() {
    let world = World::new();
    let client = world.client(&[&world.good_ca().await]);
    assert_eq!(sign(&client).await.err(), None);
    for broken in ["", "no PEM", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        world.write_roots(broken);
        assert_eq!(sign(&client).await.err(), None, "{broken:?}");
    }
    fs::remove_file(world.files.path().join("roots")).unwrap();
    assert_eq!(sign(&client).await.err(), None);

    // a good file counts again at once
    world.write_roots(&World::new().authority.bundle().to_pem());
    assert!(matches!(sign(&client).await, Err(SignError::Unavailable(_))));
}

#[tokio::test]
async fn without_any_good_roots_nobody_is_asked() {
    let world = World::new();
    world.write_roots("no PEM");
    let error = sign(&world.client(&[&world.good_ca().await])).await.unwrap_err();
    assert!(matches!(&error, SignError::NotDetected(said) if said.contains("root file ")), "{error}");
}

#[tokio::test]
async fn an_address_that_holds_the_request_does_not_hide_the_next_one() {
    let world = World::new();
    let holding = world.slow_ca(Err(Status::unavailable("nobody is active")), HOUR).await;
    let client = world.client(&[&holding, &world.good_ca().await]);
    let begin = tokio::time::Instant::now();
    assert_eq!(sign(&client).await.err(), None);
    assert!(begin.elapsed() < PATIENCE * 2, "after {:?}", begin.elapsed());
    // and is not asked first again
    let begin = tokio::time::Instant::now();
    assert_eq!(sign(&client).await.err(), None);
    assert!(begin.elapsed() < PATIENCE, "after {:?}", begin.elapsed());
}

#[tokio::test]
async fn a_standby_that_holds_the_request_through_a_take_over_is_not_given_up() {
    let world = World::new();
    let standby = world.slow_ca(Ok(world.issued().1), Duration::from_secs(6)).await;
    let dead = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap().to_string();
    assert_eq!(sign(&world.client(&[&standby, &dead])).await.err(), None);
}

#[tokio::test]
async fn a_kept_connection_that_breaks_off_under_a_call_is_replaced() {
    let world = World::new();
    let ca = world.good_ca().await;
    let proxy = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = proxy.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        // the first connection is good for one call, and ends when something is sent for another
        for first in [true, false] {
            let (mut client, _) = proxy.accept().await.unwrap();
            let mut server = TcpStream::connect(&ca).await.unwrap();
            let pump = tokio::io::copy_bidirectional(&mut client, &mut server);
            match timeout(Duration::from_millis(500), pump).await {
                Err(_quiet) if first => drop(client.readable().await),
                _ => drop(tokio::io::copy_bidirectional(&mut client, &mut server).await),
            }
        }
    });
    let client = world.client(&[&address]);
    assert_eq!(sign(&client).await.err(), None);
    sleep(Duration::from_millis(700)).await;
    assert_eq!(sign(&client).await.err(), None);
}

#[tokio::test]
async fn an_address_that_accepts_and_never_speaks_is_given_up_at_once() {
    let world = World::new();
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let (accepted, mut connections) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = silent.accept().await {
            accepted.send(stream).unwrap();
        }
    });
    let begin = tokio::time::Instant::now();
    let alone = sign(&world.client(&[&address])).await;
    assert!(matches!(alone, Err(SignError::Unavailable(_))), "{:?}", alone.err());
    assert!(begin.elapsed() < CONNECT_LIMIT * 4, "after {:?}", begin.elapsed());
    let mut tried = 0;
    while connections.try_recv().is_ok() {
        tried += 1;
    }
    assert_eq!(tried, 1, "what did not connect is not tried twice");

    let client = world.client(&[&address, &world.good_ca().await]);
    let begin = tokio::time::Instant::now();
    assert_eq!(sign(&client).await.err(), None);
    assert!(begin.elapsed() < PATIENCE, "after {:?}", begin.elapsed());
    let begin = tokio::time::Instant::now();
    assert_eq!(sign(&client).await.err(), None);
    assert!(begin.elapsed() < CONNECT_LIMIT, "the good one is asked first: after {:?}", begin.elapsed());
}
