use rustls::{ClientConfig, RootCertStore, pki_types::CertificateDer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::{TlsConnector, client};
use tokio_stream::StreamExt as _;

use super::*;
use crate::{
    domain::{
        authority::{SigningAuthority, Subject, TtlBounds, issue, testing::TestRandom},
        clock::{Clock as _, Timestamp},
        x509::{CertificateChain, PrivateKey, VerifiedCsr, X509Svid},
    },
    grpc::{begun::PREFACE, server_tls::server_config, testing::SystemNow},
};

const HOUR: Duration = Duration::from_secs(3600);

/// A listener's TLS, and that of its clients, of this moment.
fn both_sides() -> (Arc<ServerConfig>, TlsConnector) {
    let now = Timestamp::from_seconds(SystemNow.now().seconds());
    let (authority, _) =
        SigningAuthority::self_signed(&"cluster.local".parse().unwrap(), HOUR, now, &TestRandom).unwrap();
    let id = "spiffe://cluster.local/ns/istio-system/sa/istiod".parse().unwrap();
    let key = PrivateKey::generate_p256().unwrap();
    let csr = VerifiedCsr::from_pem(key.certificate_request(&id).unwrap().as_bytes()).unwrap();
    let subject = Subject { id: &id, server_names: &["localhost".to_owned()] };
    let bounds = TtlBounds::new(HOUR, HOUR).unwrap();
    let leaf = issue(&authority, &csr, subject, 0, &bounds, now, &TestRandom).unwrap().leaf;
    let svid = X509Svid::new(CertificateChain::new(vec![leaf]).unwrap(), key).unwrap();
    let mut roots = RootCertStore::empty();
    for root in authority.bundle().roots() {
        roots.add(CertificateDer::from(root.der().to_vec())).unwrap();
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let client = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut client = client.with_root_certificates(roots).with_no_client_auth();
    client.alpn_protocols = vec![b"h2".to_vec()];
    (server_config(&svid, &(Arc::new(SystemNow) as _)).unwrap(), Arc::new(client).into())
}

async fn connected(tls: &TlsConnector, address: std::net::SocketAddr) -> client::TlsStream<TcpStream> {
    let stream = TcpStream::connect(address).await.unwrap();
    tls.connect("localhost".try_into().unwrap(), stream).await.unwrap()
}

#[tokio::test]
async fn a_client_that_does_not_begin_http2_is_cut_and_one_that_does_is_heard_from_its_first_byte() {
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = tcp.local_addr().unwrap();
    let (server, tls) = both_sides();
    let (_config, configs) = watch::channel(Some(server));
    let mut accepted = accept_tls(tcp, configs);

    let (mut silent, mut stops) = (connected(&tls, address).await, connected(&tls, address).await);
    stops.write_all(PREFACE.split_at(10).0).await.unwrap();
    for stream in [&mut silent, &mut stops] {
        let ended = timeout(BEGIN_LIMIT * 3, stream.read_to_end(&mut Vec::new())).await;
        let _reset_or_closed = ended.expect("cut").is_ok();
    }

    for said in [&[PREFACE, b"and more"].concat()[..], b"GET / HTTP/1.1\r\n"] {
        let mut client = connected(&tls, address).await;
        client.write_all(said).await.unwrap();
        let next = timeout(BEGIN_LIMIT * 3, accepted.next()).await;
        let mut connection = next.expect("a connection that speaks").unwrap().unwrap();
        let mut heard = vec![0; said.len()];
        timeout(BEGIN_LIMIT * 3, connection.read_exact(&mut heard)).await.expect("what was said").unwrap();
        assert_eq!(heard, said);
    }
}
