//! What goes wrong before there is a request, and what must go on beside it.

use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::Arc,
    time::Duration,
};

use countersign::proto::istio::v1::auth::{IstioCertificateRequest, IstioCertificateResponse};
use rcgen::KeyPair;
use rustls::{
    CipherSuite, ClientConfig, ClientConnection, StreamOwned,
    crypto::{CryptoProvider, ring::default_provider},
    pki_types::ServerName,
    version::{TLS12, TLS13},
};
use tokio::{runtime::Runtime, time::timeout};
use tonic::{Code, Request, Status, client::Grpc, codegen::http::uri::PathAndQuery};
use tonic_prost::ProstCodec;

use super::{
    certificates::ClientCertificate,
    facts::{ACCOUNT, Facts, ID, SECOND_ISSUER, second_issuer},
    server::{LIMIT, Server, create},
};
use crate::support::{certificate::Certificate, http::loopback};

const METHOD: &str = "/istio.v1.auth.IstioCertificateService/CreateCertificate";

struct Stage {
    server: Server,
    facts: Facts,
    runtime: Runtime,
}

impl Stage {
    fn set() -> Self {
        let second = second_issuer();
        let server = Server::start(&[("jwks.json", &second.jwks())], SECOND_ISSUER);
        let runtime = Runtime::new().unwrap();
        let facts = runtime.block_on(Facts::gather(&server, second));
        Self { server, facts, runtime }
    }

    fn good(&self) -> IstioCertificateRequest {
        IstioCertificateRequest { csr: self.facts.csr.clone(), validity_duration: 3600, metadata: None }
    }

    fn bearer(&self) -> Vec<String> {
        vec![format!("Bearer {}", self.facts.token)]
    }

    /// A request over this TLS is answered with a certificate.
    fn issues_over(&self, tls: impl FnOnce() -> ClientConfig) -> Result<(), Status> {
        self.runtime.block_on(async {
            let channel = self.server.channel_over(tls());
            let answer = timeout(LIMIT, create(channel, &self.bearer(), self.good())).await.expect("an answer in time");
            let leaf = Certificate::from_pem(&answer?[0]).remove(0);
            assert_eq!(leaf.uris, [ID]);
            Ok(())
        })
    }

    fn is_well(&self) {
        self.issues_over(|| self.server.tls(default_provider(), &[], None)).unwrap();
    }

    fn tcp(&self) -> TcpStream {
        let stream = TcpStream::connect(loopback(self.server.serve.port)).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream
    }

    /// Sends raw bytes and returns what comes back until the server closes.
    fn answer_to(&self, bytes: &[u8]) -> Vec<u8> {
        let mut stream = self.tcp();
        stream.write_all(bytes).unwrap();
        read_to_end(&mut stream)
    }

    /// A message of any type on any path.
    fn raw<M: prost::Message + Default + 'static>(&self, path: &'static str, message: M) -> Status {
        self.runtime.block_on(async {
            let mut client = Grpc::new(self.server.channel(None));
            client.ready().await.unwrap();
            let mut request = Request::new(message);
            request.metadata_mut().insert("authorization", self.bearer()[0].parse().unwrap());
            let codec = ProstCodec::<M, IstioCertificateResponse>::default();
            let answer = client.unary(request, PathAndQuery::from_static(path), codec);
            timeout(LIMIT, answer).await.expect("an answer in time").expect_err("a refusal")
        })
    }
}

/// What comes until the end, which may be a reset.
fn read_to_end(stream: &mut impl Read) -> Vec<u8> {
    let (mut all, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return all,
            Ok(count) => all.extend_from_slice(&buffer[..count]),
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                panic!("the server neither answers nor closes, after {} bytes", all.len())
            }
            Err(_) => return all,
        }
    }
}

#[test]
fn only_requests_over_good_tls_are_answered_and_nothing_else_stands_in_their_way() {
    let stage = Stage::set();
    let issued_before = stage.server.issued();
    messages_that_are_none(&stage);
    streams_that_are_no_tls(&stage);
    handshakes_that_fail(&stage);
    assert_eq!(stage.server.issued(), issued_before, "nothing was issued");

    tls_of_the_clients(&stage);
    silent_connections(&stage);
    garbage_after_the_handshake(&stage);
    stage.is_well();
    let said = stage.server.said();
    assert!(!said.contains("panicked"), "{said}");
    assert!(!said.contains(&stage.facts.token), "the token stands in the log");
}

fn messages_that_are_none(stage: &Stage) {
    for (name, status, code) in [
        (
            "a number where the CSR belongs",
            stage.raw(METHOD, prost_types::Timestamp { seconds: 1, nanos: 2 }),
            Code::Internal,
        ),
        ("a CSR that is not UTF-8", stage.raw(METHOD, vec![0xff_u8; 8]), Code::Internal),
        // tonic's word for a message over its limit, where grpc-go says ResourceExhausted
        ("128 KiB and the frame of a field", stage.raw(METHOD, vec![b'A'; 128 << 10]), Code::OutOfRange),
        ("5 MiB", stage.raw(METHOD, vec![b'A'; 5 << 20]), Code::OutOfRange),
        ("5 MiB to another service", stage.raw("/grpc.health.v1.Health/Check", vec![b'A'; 5 << 20]), Code::OutOfRange),
        ("an unknown method", stage.raw("/istio.v1.auth.IstioCertificateService/Other", ()), Code::Unimplemented),
        ("an unknown service", stage.raw("/istio.v1.auth.Other/CreateCertificate", ()), Code::Unimplemented),
        (
            "another replica's service",
            stage.raw("/countersign.v1.PairService/CreateCertificate", ()),
            Code::Unimplemented,
        ),
    ] {
        assert_eq!(status.code(), code, "{name}: {status:?}");
        if code == Code::OutOfRange {
            assert!(status.message().contains("the limit is: 131072 bytes"), "{name}: {status:?}");
        }
    }
    let bearer = |length| [format!("Bearer {}", "a".repeat(length))];
    let refused = |authorization: [String; 1]| {
        stage.runtime.block_on(async {
            let answer = create(stage.server.channel(None), &authorization, stage.good());
            timeout(LIMIT, answer).await.expect("an answer in time").unwrap_err()
        })
    };
    assert_eq!(refused(bearer(15 << 10)).code(), Code::Unauthenticated);
    // over HTTP/2's limit of header bytes: not a request, so 431 and no gRPC status
    let over = refused(bearer(17 << 10));
    assert!(over.code() == Code::Unknown && over.message().contains("431"), "{over:?}");
    // the client's own HTTP/2 gives up, in one of several ways
    refused(bearer(1 << 20));
}

fn streams_that_are_no_tls(stage: &Stage) {
    const PROTOCOL_VERSION: u8 = 70;
    let alert = |answer: &[u8]| (answer.len() == 7 && answer[0] == 21).then(|| answer[6]);
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    for (name, bytes) in [
        ("HTTP/2 in the clear", &preface[..]),
        ("HTTP/1.1 in the clear", b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\n\r\n"),
        ("zeros", &[0; 1024]),
        ("letters", &[b'A'; 70_000]),
        ("a record of no known type", &[99, 3, 3, 0, 1, 0]),
    ] {
        let answer = stage.answer_to(bytes);
        assert!(answer.is_empty() || alert(&answer).is_some(), "{name}: {answer:?}");
    }
    assert_eq!(alert(&stage.answer_to(&client_hello(0x0302))), Some(PROTOCOL_VERSION), "TLS 1.1");
    assert_eq!(alert(&stage.answer_to(&client_hello(0x0301))), Some(PROTOCOL_VERSION), "TLS 1.0");
}

/// A ClientHello that offers at most this version, and is otherwise acceptable.
fn client_hello(version: u16) -> Vec<u8> {
    let suites = [0xc0, 0x13, 0xc0, 0x09, 0, 0x2f];
    let (p256, ecdsa_sha256) = ([0, 10, 0, 4, 0, 2, 0, 0x17], [0, 13, 0, 4, 0, 2, 4, 3]);
    let version = version.to_be_bytes();
    let body = [&version[..], &[7; 32], &[0, 0, 6], &suites, &[1, 0, 0, 16], &p256, &ecdsa_sha256].concat();
    let length = u8::try_from(body.len()).unwrap();
    [&[22, 3, 1, 0, length + 4, 1, 0, 0, length], body.as_slice()].concat()
}

fn handshakes_that_fail(stage: &Stage) {
    let server = &stage.server;
    let http1 = || {
        let mut tls = server.tls(default_provider(), &[], None);
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        tls
    };
    assert_eq!(stage.issues_over(http1).unwrap_err().code(), Code::Unavailable);

    let other_key = KeyPair::generate().unwrap().serialize_der();
    let stolen = ClientCertificate { key: other_key, ..stage.facts.svid.clone() };
    for versions in [[&TLS12], [&TLS13]] {
        let refused = stage.issues_over(|| server.tls(default_provider(), &versions, Some(&stolen)));
        assert!(refused.is_err(), "{versions:?}: a certificate whose key the client does not hold");
    }

    let mut plain = server.tls(default_provider(), &[], None);
    plain.alpn_protocols.clear();
    let mut stream = tls_stream(stage, plain);
    stream.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
    let answer = String::from_utf8_lossy(&read_to_end(&mut stream)).into_owned();
    assert!(!answer.contains("200"), "no ALPN, and no HTTP/2: {answer}");
}

/// What proxies speak, each issued to.
fn tls_of_the_clients(stage: &Stage) {
    let server = &stage.server;
    let only = |wanted: &[CipherSuite]| {
        let all = default_provider();
        let cipher_suites = all.cipher_suites.iter().filter(|suite| wanted.contains(&suite.suite())).copied().collect();
        CryptoProvider { cipher_suites, ..all }
    };
    let ztunnel = only(&[CipherSuite::TLS13_AES_256_GCM_SHA384, CipherSuite::TLS13_AES_128_GCM_SHA256]);
    stage.issues_over(|| server.tls(ztunnel, &[&TLS13], None)).expect("TLS 1.3, AES-GCM alone, as ztunnel");
    stage.issues_over(|| server.tls(default_provider(), &[&TLS13], None)).expect("TLS 1.3");
    stage.issues_over(|| server.tls(default_provider(), &[&TLS12], None)).expect("TLS 1.2");
    let fips = only(&[CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384]);
    stage.issues_over(|| server.tls(fips, &[&TLS12], None)).expect("TLS 1.2, AES-GCM alone");
    for version in [[&TLS12], [&TLS13]] {
        let with_svid = || server.tls(default_provider(), &version, Some(&stage.facts.svid));
        stage.issues_over(with_svid).expect("an SVID beside the token");
    }
}

/// Connections that say nothing, or stop in the middle, keep nobody waiting.
fn silent_connections(stage: &Stage) {
    let hello = client_hello(0x0303);
    let mut open: Vec<_> = (0..200).map(|_| stage.tcp()).collect();
    for stream in open.iter_mut().take(100) {
        stream.write_all(&hello[..20]).unwrap();
    }
    let answered = stage.runtime.block_on(async {
        let channel = stage.server.channel(None);
        timeout(Duration::from_secs(5), create(channel, &stage.bearer(), stage.good())).await
    });
    answered.expect("200 silent connections do not hold up another").unwrap();
    // the server gives them up by itself
    for stream in &mut open {
        read_to_end(stream);
    }
}

fn garbage_after_the_handshake(stage: &Stage) {
    for (name, bytes) in [("zeros", [0; 65_536]), ("letters", [b'A'; 65_536])] {
        let mut stream = tls_stream(stage, stage.server.tls(default_provider(), &[], None));
        // the server may close before it has taken all of it
        let _written = stream.write_all(&bytes).is_ok();
        let answer = read_to_end(&mut stream);
        assert!(answer.len() < 1024, "{name}: {} bytes", answer.len());
    }
    let refused =
        stage.raw(METHOD, IstioCertificateRequest { csr: ACCOUNT.into(), ..IstioCertificateRequest::default() });
    assert_eq!(refused.code(), Code::InvalidArgument);
}

fn tls_stream(stage: &Stage, tls: ClientConfig) -> StreamOwned<ClientConnection, TcpStream> {
    let name = ServerName::try_from("localhost").unwrap();
    StreamOwned::new(ClientConnection::new(Arc::new(tls), name).unwrap(), stage.tcp())
}
