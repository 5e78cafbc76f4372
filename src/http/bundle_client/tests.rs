use std::{net::SocketAddr, time::Duration};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::{
    domain::{identity::SpiffeId, x509::TrustBundle},
    grpc::bundle_tls::{endpoint_with_files, towards_endpoint},
    runtime::seams::SystemClock,
};

const ID: &str = "spiffe://td/endpoint";

/// An endpoint that is `ID`, and answers to each path what a function says.
struct Endpoint {
    address: SocketAddr,
    bundle: TrustBundle,
}

fn clock() -> Arc<dyn Clock> {
    Arc::new(SystemClock)
}

impl Endpoint {
    async fn start(answer: fn(&str) -> String) -> Self {
        let ca_key = KeyPair::generate().unwrap();
        let mut ca = CertificateParams::default();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        ca.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let root = ca.self_signed(&ca_key).unwrap();
        let key = KeyPair::generate().unwrap();
        let mut leaf = CertificateParams::default();
        leaf.subject_alt_names = vec![SanType::URI(ID.try_into().unwrap())];
        leaf.is_ca = IsCa::ExplicitNoCa;
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let leaf = leaf.signed_by(&key, &Issuer::new(ca, ca_key)).unwrap();
        let config = endpoint_with_files(leaf.pem().as_bytes(), key.serialize_pem().as_bytes(), &clock()).unwrap();
        let bundle = TrustBundle::from_pem("td".parse().unwrap(), root.pem().as_bytes()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let Ok(mut stream) = TlsAcceptor::from(Arc::clone(&config)).accept(stream).await else { continue };
                let mut asked = vec![0; 4096];
                let length = stream.read(&mut asked).await.unwrap();
                let asked = String::from_utf8_lossy(&asked[..length]).into_owned();
                let path = asked.split(' ').nth(1).unwrap();
                assert!(asked.starts_with("GET ") && asked.contains("\r\nhost: 127.0.0.1:"), "{asked}");
                let _closed = stream.write_all(answer(path).as_bytes()).await;
                let _closed = stream.shutdown().await;
            }
        });
        Self { address, bundle }
    }

    async fn fetch(&self, path: &str, authentication: EndpointAuthentication) -> Result<String, String> {
        let url = format!("https://{}{path}", self.address).parse().unwrap();
        let client = BundleClient::new(towards_endpoint, clock());
        let fetched = timeout(Duration::from_secs(10), client.fetch(&url, authentication)).await.expect("an answer");
        let here = self.address.to_string();
        fetched.map(|document| String::from_utf8(document).unwrap()).map_err(|error| error.replace(&here, "HERE"))
    }

    fn itself(&self) -> EndpointAuthentication {
        EndpointAuthentication::Spiffe { id: ID.parse().unwrap(), bundle: self.bundle.clone() }
    }
}

fn answer(path: &str) -> String {
    let redirect = |to: &str| format!("HTTP/1.1 307 Temporary Redirect\r\nlocation: {to}\r\ncontent-length: 0\r\n\r\n");
    match path {
        "/" => "HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\n{\"keys\":[]}".into(),
        "/led" => redirect("/"),
        "/circle" => redirect("/circle"),
        "/plain" => redirect("http://other.example/"),
        "/nowhere" => "HTTP/1.1 302 Found\r\ncontent-length: 0\r\n\r\n".into(),
        "/long" => format!("HTTP/1.1 200 OK\r\ncontent-length: 2000000\r\n\r\n{}", "x".repeat(1_100_000)),
        "/broken" => "HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\n{".into(),
        _ => "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n".into(),
    }
}

#[tokio::test]
async fn documents_are_read_and_redirects_followed_within_bounds() {
    let endpoint = Endpoint::start(answer).await;
    let longer = "https://HERE/long: it breaks off, or answers more than 1048576 bytes";
    for (path, expected) in [
        ("/", Ok("{\"keys\":[]}")),
        ("/led", Ok("{\"keys\":[]}")),
        ("/circle", Err("https://HERE/circle redirects more than 5 times")),
        (
            "/plain",
            Err("https://HERE/plain redirects to \"http://other.example/\": the URL of a bundle endpoint begins with \
                 https://"),
        ),
        ("/nowhere", Err("https://HERE/nowhere: it answers 302 and no place")),
        ("/long", Err(longer)),
        ("/broken", Err("https://HERE/broken: it breaks off, or answers more than 1048576 bytes")),
        ("/other", Err("https://HERE/other: it answers 503")),
    ] {
        let fetched = endpoint.fetch(path, endpoint.itself()).await;
        assert_eq!(fetched.as_deref().map_err(String::as_str), expected, "{path}");
    }
}

#[tokio::test]
async fn an_endpoint_is_believed_by_its_id_and_bundle_or_by_the_web() {
    let (endpoint, other) = (Endpoint::start(answer).await, Endpoint::start(answer).await);
    let by = |id: &str, bundle: &TrustBundle| {
        let id: SpiffeId = id.parse().unwrap();
        EndpointAuthentication::Spiffe { id, bundle: bundle.clone() }
    };
    let error = endpoint.fetch("/", by("spiffe://td/another", &endpoint.bundle)).await.unwrap_err();
    assert!(error.contains("the endpoint is spiffe://td/endpoint, and spiffe://td/another was to answer"), "{error}");
    let error = endpoint.fetch("/", by(ID, &other.bundle)).await.unwrap_err();
    assert!(error.starts_with("https://HERE/: "), "{error}");
    endpoint.fetch("/", EndpointAuthentication::Web).await.expect_err("no root of the web has signed that");
}
