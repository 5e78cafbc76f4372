use std::{
    collections::VecDeque,
    io::ErrorKind,
    net::SocketAddr,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    task::JoinHandle,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use super::*;
use crate::{
    domain::{authority::testing::authority, clock::Clock, x509::Certificate},
    grpc::bundle_tls::endpoint_with_files,
    http::connections::UNANSWERED_LIMIT,
    runtime::seams::SystemClock,
    service::published_trust::PublishedTrust,
};

/// An endpoint with a certificate for `localhost`.
struct Endpoint {
    address: SocketAddr,
    root: CertificateDer<'static>,
    trust: watch::Sender<Option<Arc<PublishedTrust>>>,
    tls: watch::Sender<Option<Arc<ServerConfig>>>,
    server: JoinHandle<io::Result<()>>,
}

fn published(sequence: u64, roots: Vec<Certificate>) -> Arc<PublishedTrust> {
    let own = SpiffeBundle {
        trust_domain: "cluster.local".parse().unwrap(),
        x509_authorities: roots,
        jwt_authorities: Vec::new(),
        sequence: Some(sequence),
        refresh_hint: Some(Duration::from_secs(300)),
    };
    Arc::new(PublishedTrust { own, tainted: Vec::new(), federated: Vec::new() })
}

fn certified() -> (CertificateDer<'static>, Arc<ServerConfig>) {
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["localhost".into()]).unwrap();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let made = endpoint_with_files(cert.pem().as_bytes(), signing_key.serialize_pem().as_bytes(), &clock);
    (cert.der().clone(), made.unwrap())
}

impl Endpoint {
    async fn start() -> Self {
        let (root, config) = certified();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (tls, configured) = watch::channel(Some(config));
        let (trust, told) = watch::channel(None);
        let server = tokio::spawn(serve(listener, configured, told, std::future::pending()));
        Self { address, root, trust, tls, server }
    }

    async fn publish(&self, trust: Arc<PublishedTrust>) {
        let sequence = trust.own.sequence.unwrap().to_string();
        self.trust.send_replace(Some(trust));
        timeout(UNANSWERED_LIMIT, async {
            while !self.ask("GET /", "").await.contains(&format!("\"spiffe_sequence\": {sequence}")) {
                tokio::task::yield_now().await;
            }
        })
        .await
        .expect("the document is rendered");
    }

    /// The answer to one request with these further lines of a header. It ends with the connection: nobody keeps his place.
    async fn ask(&self, request_line: &str, lines: &str) -> String {
        let mut roots = RootCertStore::empty();
        roots.add(self.root.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = builder.with_root_certificates(roots).with_no_client_auth();
        let tcp = TcpStream::connect(self.address).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let mut stream = TlsConnector::from(Arc::new(config)).connect(name, tcp).await.unwrap();
        let request = format!("{request_line} HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }
}

fn header_of<'a>(answer: &'a str, name: &str) -> Option<&'a str> {
    let lines = answer.split("\r\n\r\n").next().unwrap().lines();
    lines.filter_map(|line| line.split_once(": ")).find(|(found, _)| *found == name).map(|(_, value)| value)
}

fn body_of(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").unwrap().1
}

#[tokio::test]
async fn the_newest_bundle_is_answered_and_until_there_is_one_when_to_ask_again() {
    let endpoint = Endpoint::start().await;
    let answer = endpoint.ask("GET /", "").await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert_eq!(header_of(&answer, "retry-after"), Some("1"), "{answer}");

    let (one, two) = (authority().certificate().clone(), authority().certificate().clone());
    endpoint.publish(published(1, vec![one.clone()])).await;
    endpoint.publish(published(2, vec![one, two])).await;
    let answer = endpoint.ask("GET /", "").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert_eq!(header_of(&answer, "content-type"), Some("application/json"), "{answer}");
    assert_eq!(header_of(&answer, "cache-control"), Some("no-cache"), "{answer}");
    let read = SpiffeBundle::from_json("cluster.local".parse().unwrap(), body_of(&answer).as_bytes()).unwrap();
    assert_eq!(read, endpoint.trust.borrow().as_ref().unwrap().own);
    endpoint.server.abort();
}

#[tokio::test]
async fn who_has_the_newest_is_told_so() {
    let endpoint = Endpoint::start().await;
    endpoint.publish(published(1, vec![authority().certificate().clone()])).await;
    let answer = endpoint.ask("GET /", "").await;
    let etag = header_of(&answer, "etag").unwrap();
    for known in [etag.to_owned(), format!("W/{etag}"), format!("\"old\", {etag}"), "*".to_owned()] {
        let answer = endpoint.ask("GET /", &format!("If-None-Match: {known}\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 304 ") && body_of(&answer).is_empty(), "{known}: {answer}");
        assert_eq!(header_of(&answer, "etag"), Some(etag));
    }
    let answer = endpoint.ask("GET /", "If-None-Match: \"old\"\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    endpoint.publish(published(2, vec![authority().certificate().clone()])).await;
    let answer = endpoint.ask("GET /", &format!("If-None-Match: {etag}\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    endpoint.server.abort();
}

#[tokio::test]
async fn nothing_but_the_document_is_there_and_nothing_can_be_changed() {
    let endpoint = Endpoint::start().await;
    endpoint.publish(published(1, vec![authority().certificate().clone()])).await;
    for (request_line, status) in [
        ("HEAD /", "200"),
        ("GET /metrics", "404"),
        ("POST /", "405"),
        ("PUT /", "405"),
        ("DELETE /", "405"),
        ("OPTIONS /", "405"),
    ] {
        let answer = endpoint.ask(request_line, "").await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request_line}: {answer}");
        assert!(request_line != "HEAD /" || body_of(&answer).is_empty(), "{answer}");
    }
    endpoint.server.abort();
}

#[tokio::test]
async fn connections_that_say_nothing_hold_nobody_up_for_long() {
    let mut endpoint = Endpoint::start().await;
    endpoint.publish(published(1, vec![authority().certificate().clone()])).await;
    let mut idle = Vec::new();
    for _ in 0..100 {
        idle.push(TcpStream::connect(endpoint.address).await.unwrap());
    }
    let answer = timeout(UNANSWERED_LIMIT * 4, endpoint.ask("GET /", "")).await.expect("the silent ones are cut");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    // those that come now see the certificate of now
    let (root, config) = certified();
    endpoint.tls.send_replace(Some(config));
    endpoint.root = root;
    assert!(endpoint.ask("GET /", "").await.starts_with("HTTP/1.1 200 "));
    endpoint.server.abort();
}

/// Opens connections that say nothing, as fast as they are taken and from these addresses in turn, and closes none.
async fn flood(to: SocketAddr, from: std::ops::Range<u8>, opened: Arc<AtomicUsize>) {
    let mut silent = VecDeque::new();
    for from in from.cycle() {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 0, from], 0).into()).unwrap();
        silent.push_back(socket.connect(to).await.unwrap());
        let is_open =
            |one: &TcpStream| one.try_read(&mut [0]).is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
        while silent.front().is_some_and(|oldest| !is_open(oldest)) {
            silent.pop_front();
        }
        opened.fetch_add(1, Ordering::Relaxed);
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn many_sources_that_say_nothing_shut_nobody_out() {
    let endpoint = Endpoint::start().await;
    endpoint.publish(published(1, vec![authority().certificate().clone()])).await;
    let opened = Arc::new(AtomicUsize::new(0));
    let flood = tokio::spawn(flood(endpoint.address, 2..10, Arc::clone(&opened)));
    let more = async |than: usize| {
        let flooded = timeout(UNANSWERED_LIMIT * 4, async {
            while opened.load(Ordering::Relaxed) <= than {
                tokio::task::yield_now().await;
            }
        });
        flooded.await.unwrap_or_else(|_elapsed| panic!("{opened:?} silent connections were taken, not {than}"));
    };
    more(CONNECTIONS * 2).await;
    for _ in 0..10 {
        let before = opened.load(Ordering::Relaxed);
        let answer = timeout(UNANSWERED_LIMIT / 2, endpoint.ask("GET /", "")).await;
        let answer = answer.unwrap_or_else(|_elapsed| panic!("no answer beside {opened:?} silent connections"));
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        more(before + CONNECTIONS / 8).await;
    }
    flood.abort();
    endpoint.server.abort();
}
