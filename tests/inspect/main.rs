//! `countersign inspect` as a user runs it: the real binary on files, stdin, a TLS endpoint and a workload socket.

#![cfg(feature = "server")]
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking, in their own functions too")]

mod bundles;
mod tokens;

use std::{
    convert::Infallible,
    future::{Ready, ready},
    io::Write,
    net::{SocketAddr, TcpListener},
    path::Path,
    process::{Command, Output, Stdio},
    sync::Arc,
    task::{Context, Poll},
    thread,
};

use countersign::proto::{X509svid, X509svidRequest, X509svidResponse};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType, date_time_ymd,
};
use serde_json::Value;
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{
    Request, Response, Status,
    body::Body,
    codegen::{BoxFuture, http},
    server::{Grpc, NamedService, ServerStreamingService},
    transport::Server,
};
use tonic_prost::ProstCodec;

const ID: &str = "spiffe://cluster.local/ns/default/sa/gateway";

struct Authority {
    pem: String,
    der: Vec<u8>,
    issuer: Issuer<'static, KeyPair>,
}

struct Leaf {
    pem: String,
    der: Vec<u8>,
    key: KeyPair,
}

fn authority(organization: &str) -> Authority {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, organization);
    (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2120, 1, 1));
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    Authority { pem: certificate.pem(), der: certificate.der().to_vec(), issuer: Issuer::new(params, key) }
}

impl Authority {
    fn leaf(&self, until: i32) -> Leaf {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.subject_alt_names =
            vec![SanType::URI(ID.try_into().unwrap()), SanType::DnsName("gateway.example".try_into().unwrap())];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(until, 1, 1));
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Leaf { pem: certificate.pem(), der: certificate.der().to_vec(), key }
    }
}

fn inspect(arguments: &[&str], stdin: &[u8]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_countersign"))
        .arg("inspect")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The child may have ended without reading.
    let _broken_pipe = child.stdin.take().unwrap().write_all(stdin);
    child.wait_with_output().unwrap()
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

#[expect(clippy::disallowed_methods, reason = "a test's own file")]
fn file(dir: &Path, name: &str, content: impl AsRef<[u8]>) -> String {
    let path = dir.join(name);
    std::fs::write(&path, content).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn a_chain_in_a_file_is_a_tree_that_verifies() {
    let (dir, root) = (tempfile::tempdir().unwrap(), authority("cluster.local"));
    let leaf = root.leaf(2120);
    let chain = file(dir.path(), "chain.pem", format!("{}{}", leaf.pem, root.pem));
    let bundle = file(dir.path(), "root.pem", &root.pem);

    let output = inspect(&[&chain, "--bundle", &bundle], b"");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let text = stdout(&output);
    for expected in [
        "O=cluster.local (authority)\n",
        "└─ spiffe://cluster.local/ns/default/sa/gateway\n",
        "gateway.example",
        "ECDSA P-256",
        "█",
        " left of ",
        "verifies to the bundle of ",
    ] {
        assert!(text.contains(expected), "{expected} is not in\n{text}");
    }
    assert!(!text.contains('\x1b'), "colours only on a terminal");
    assert_eq!(stderr(&output), "");

    let document = json(&inspect(&[&chain, "-o", "json"], b""));
    assert_eq!(document["chains"][0]["verification"]["state"], "noBundle");
    let shown = &document["chains"][0]["certificates"][0];
    assert_eq!((&shown["spiffeId"], &shown["validity"]), (&ID.into(), &"valid".into()), "{document}");
    assert_eq!(shown["fingerprint"].as_str().unwrap().len(), 95);
    assert_eq!(document["chains"].as_array().unwrap().len(), 1);

    let yaml: Value = serde_yaml_ng::from_slice(&inspect(&[&chain, "-o", "yaml"], b"").stdout).unwrap();
    assert_eq!(yaml["chains"][0]["certificates"][1]["authority"], true);
    let pem = inspect(&[&chain, "-o", "pem"], b"");
    assert_eq!(stdout(&pem).matches("BEGIN CERTIFICATE").count(), 2);
}

#[test]
fn stdin_and_der_are_read_too() {
    let (dir, root) = (tempfile::tempdir().unwrap(), authority("a"));
    let leaf = root.leaf(2120);
    for output in [
        inspect(&["-", "-o", "json"], leaf.pem.as_bytes()),
        inspect(&["-", "-o", "json"], format!("0 s: text in front\n{}", leaf.pem).as_bytes()),
        inspect(&["-", "-o", "json"], &leaf.der),
        inspect(&[&file(dir.path(), "leaf.der", &leaf.der), "-o", "json"], b""),
    ] {
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert_eq!(json(&output)["chains"][0]["certificates"][0]["spiffeId"], ID);
    }
}

#[test]
fn a_private_key_is_never_shown() {
    let root = authority("a");
    let leaf = root.leaf(2120);
    let key = leaf.key.serialize_pem();
    for format in ["table", "json", "yaml", "pem"] {
        let output = inspect(&["-", "-o", format], format!("{key}{}", leaf.pem).as_bytes());
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert!(stderr(&output).contains("a private key was skipped"), "{output:?}");
        for line in key.lines().skip(1) {
            assert!(!stdout(&output).contains(line) && !stderr(&output).contains(line));
        }
    }
    let output = inspect(&["-"], key.as_bytes());
    assert_eq!((output.status.code(), stdout(&output)), (Some(1), ""));
    let output = inspect(&["-"], leaf.key.serialized_der());
    assert_eq!((output.status.code(), stdout(&output)), (Some(1), ""));
}

#[test]
fn what_is_not_sound_ends_with_two() {
    let (dir, root, other) = (tempfile::tempdir().unwrap(), authority("a"), authority("a"));
    let (expired, good) = (root.leaf(2021), root.leaf(2120));
    let output = inspect(&["-"], expired.pem.as_bytes());
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(stdout(&output).contains("░ expired "), "{output:?}");

    let bundle = file(dir.path(), "other.pem", &other.pem);
    let output = inspect(&["-", "--bundle", &bundle], good.pem.as_bytes());
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(stdout(&output).contains("does not verify to the bundle of "), "{output:?}");

    let plain = rcgen::generate_simple_self_signed(["plain.example".to_owned()]).unwrap();
    let output = inspect(&["-"], plain.cert.pem().as_bytes());
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(stdout(&output).contains("svid-one-uri-name"), "{output:?}");
}

#[test]
fn what_can_not_be_read_ends_with_one_and_bad_usage_with_64() {
    let dir = tempfile::tempdir().unwrap();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let socket = format!("unix://{}/none.sock", dir.path().display());
    let missing = dir.path().join("missing.pem");
    for (source, stdin) in [
        (missing.to_str().unwrap(), &b""[..]),
        ("-", b""),
        ("-", b"garbage"),
        ("-", b"\x30\x82garbage"),
        ("-", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
        ("-", b"-----BEGIN CERTIFICATE-----\n"),
        (&closed, b""),
        (&socket, b""),
    ] {
        let output = inspect(&[source], stdin);
        assert_eq!((output.status.code(), stdout(&output)), (Some(1), ""), "{source}: {output:?}");
        let place = if source == "-" { "stdin" } else { source };
        assert!(stderr(&output).starts_with(&format!("error: {place}: ")), "{output:?}");
    }
    assert_eq!(inspect(&[], b"").status.code(), Some(64));
    assert_eq!(inspect(&["-", "-o", "xml"], b"").status.code(), Some(64));
    assert_eq!(inspect(&["--help"], b"").status.code(), Some(0));
}

#[test]
fn names_can_not_steer_the_terminal() {
    let root = authority("evil\u{1b}[2J\u{202e}");
    let output = inspect(&["-"], root.pem.as_bytes());
    assert!(!stdout(&output).contains(['\x1b', '\u{202e}']), "{output:?}");
    assert!(stdout(&output).contains("u{1b}"), "{output:?}");
}

/// A Workload API that answers every call with this SVID.
#[derive(Clone)]
struct OneSvid(X509svid);

impl NamedService for OneSvid {
    const NAME: &'static str = "SpiffeWorkloadAPI";
}

impl tower::Service<http::Request<Body>> for OneSvid {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let this = self.clone();
        Box::pin(async move { Ok(Grpc::new(ProstCodec::default()).server_streaming(this, request).await) })
    }
}

impl ServerStreamingService<X509svidRequest> for OneSvid {
    type Response = X509svidResponse;
    type ResponseStream = tokio_stream::Once<Result<X509svidResponse, Status>>;
    type Future = Ready<Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, _request: Request<X509svidRequest>) -> Self::Future {
        let response = X509svidResponse { svids: vec![self.0.clone()], ..Default::default() };
        ready(Ok(Response::new(tokio_stream::once(Ok(response)))))
    }
}

#[tokio::test]
async fn a_workload_socket_shows_its_svid_and_brings_its_bundle() {
    let (dir, root) = (tempfile::tempdir().unwrap(), authority("a"));
    let leaf = root.leaf(2120);
    let svid = X509svid {
        spiffe_id: ID.into(),
        x509_svid: leaf.der.clone().into(),
        x509_svid_key: leaf.key.serialize_der().into(),
        bundle: root.der.clone().into(),
        hint: String::new(),
    };
    let path = dir.path().join("workload.sock");
    let listener = UnixListenerStream::new(UnixListener::bind(&path).unwrap());
    tokio::spawn(Server::builder().add_service(OneSvid(svid)).serve_with_incoming(listener));

    let source = format!("unix://{}", path.display());
    let output = tokio::task::spawn_blocking(move || inspect(&[&source, "-o", "json"], b"")).await.unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let document = json(&output);
    assert_eq!(document["chains"][0]["certificates"][0]["spiffeId"], ID);
    assert_eq!(document["chains"][0]["verification"]["state"], "verified", "{document}");
}

/// One TLS handshake with this leaf, then the end.
fn tls_endpoint(root: &Authority, leaf: &Leaf, require_client_certificate: bool) -> SocketAddr {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap();
    let builder = if require_client_certificate {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(root.der.clone().into()).unwrap();
        let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
        builder.with_client_cert_verifier(verifier.build().unwrap())
    } else {
        builder.with_no_client_auth()
    };
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(leaf.key.serialize_der()).into();
    let config = builder.with_single_cert(vec![leaf.der.clone().into()], key).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut connection = rustls::ServerConnection::new(config.into()).unwrap();
        while connection.complete_io(&mut stream).is_ok() && connection.is_handshaking() {}
    });
    address
}

#[test]
fn a_tls_endpoint_shows_its_chain_also_to_those_it_refuses() {
    let (dir, root) = (tempfile::tempdir().unwrap(), authority("a"));
    let leaf = root.leaf(2120);
    let bundle = file(dir.path(), "root.pem", &root.pem);
    for refuses in [false, true] {
        let address = tls_endpoint(&root, &leaf, refuses).to_string();
        let output = inspect(&[&address, "--bundle", &bundle, "--server-name", "gateway.example", "-o", "json"], b"");
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let document = json(&output);
        assert_eq!(document["source"], address.as_str());
        assert_eq!(document["chains"][0]["verification"]["state"], "verified", "{document}");
        assert_eq!(stderr(&output).contains("the handshake ended"), refuses, "{output:?}");
    }
}
