//! Real handshakes, with servers on this machine.

use rustls::{ServerConfig, SupportedProtocolVersion, server::WebPkiClientVerifier};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::watch,
};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::{
    domain::{
        authority::{
            SigningAuthority, TtlBounds, issue,
            testing::{NOW, TestRandom, authority},
        },
        x509::{CertificateChain, PrivateKey, VerifiedCsr},
    },
    grpc::testing::At,
    service::svid_publisher::WorkloadIdentity,
};

const POD: &str = "spiffe://cluster.local/ns/n/sa/pod";
const HOUR: Duration = Duration::from_secs(3600);

fn svid(by: &SigningAuthority, id: &str) -> X509Svid {
    let id = id.parse().unwrap();
    let key = PrivateKey::generate_p256().unwrap();
    let csr = VerifiedCsr::from_pem(key.certificate_request(&id).unwrap().as_bytes()).unwrap();
    let issued = issue(by, &csr, &id, 0, &TtlBounds::new(HOUR, HOUR).unwrap(), NOW, &TestRandom).unwrap();
    X509Svid::new(CertificateChain::new(vec![issued.leaf]).unwrap(), key).unwrap()
}

/// What a pod does with a connection.
enum Pod<'a> {
    /// TLS as `id`, by a certificate of the first, for clients of the second; of anybody with none.
    Tls {
        id: &'a str,
        of: &'a SigningAuthority,
        for_those_of: Option<&'a SigningAuthority>,
        version: Version,
    },
    /// This is its answer, or its end.
    Says(&'static str),
    Silent,
}

type Version = &'static SupportedProtocolVersion;

const TLS12: Version = &rustls::version::TLS12;
const TLS13: Version = &rustls::version::TLS13;

fn tls(id: &str, of: &SigningAuthority, clients: Option<&SigningAuthority>, version: Version) -> Arc<ServerConfig> {
    let clock: Arc<dyn Clock> = Arc::new(At(NOW));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let (chain, key) = presented(&svid(of, id));
    let builder = ServerConfig::builder_with_details(Arc::clone(&provider), TimeOf::provider(&clock))
        .with_protocol_versions(&[version])
        .unwrap();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(clients) => {
            let roots = Arc::new(store_of(clients.bundle().roots()));
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider).build().unwrap();
            builder.with_client_cert_verifier(verifier)
        }
    };
    // as a sidecar: none of these is offered, and that is no error
    let mut config = builder.with_single_cert(chain, key.into()).unwrap();
    config.alpn_protocols = Vec::new();
    Arc::new(config)
}

async fn probe(pod: Pod<'_>, own: &SigningAuthority) -> ProbeFinding {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let at = listener.local_addr().unwrap();
    let tls = match &pod {
        Pod::Tls { id, of, for_those_of, version } => Some(tls(id, of, *for_those_of, version)),
        Pod::Says(_) | Pod::Silent => None,
    };
    let said = if let Pod::Says(text) = pod { Some(text) } else { None };
    let serving = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        match (tls, said) {
            (Some(tls), _) => {
                if let Ok(mut stream) = TlsAcceptor::from(tls).accept(stream).await {
                    let mut read = Vec::new();
                    let _reset = stream.read_to_end(&mut read).await;
                    assert_eq!(read, b"", "nothing is sent over it");
                }
            }
            (None, Some(text)) => {
                let mut hello = [0; 1024];
                assert!(stream.read(&mut hello).await.unwrap() > 0);
                stream.write_all(text.as_bytes()).await.unwrap();
            }
            (None, None) => std::future::pending().await,
        }
    });
    let finding = attempt(at, own).await;
    serving.abort();
    if let Err(error) = serving.await {
        assert!(error.is_cancelled(), "{error}");
    }
    finding
}

async fn attempt(at: SocketAddr, own: &SigningAuthority) -> ProbeFinding {
    let id: SpiffeId = "spiffe://cluster.local/countersign/serving".parse().unwrap();
    let identity = WorkloadIdentity {
        svid: Some(Arc::new(svid(own, id.as_str()))),
        id,
        bundle: Arc::new(own.bundle().clone()),
        revision: 1,
    };
    let (_keep, identity) = watch::channel(Some(Arc::new(identity)));
    let probe = MutualTlsProbe::new(identity, Arc::new(At(NOW)));
    probe.probe(at, &[POD.parse().unwrap()]).await.unwrap()
}

#[tokio::test]
async fn a_pod_with_a_sidecar_is_told_from_all_others() {
    let (mesh, other) = (authority(), authority());
    let (of, clients) = (&mesh, Some(&mesh));
    let stranger = "spiffe://cluster.local/ns/n/sa/other";
    let with = |id, of, for_those_of, version| Pod::Tls { id, of, for_those_of, version };
    assert_eq!(probe(with(POD, of, clients, TLS12), &mesh).await, ProbeFinding::Mutual);
    let found = probe(with(stranger, of, clients, TLS12), &mesh).await;
    assert_eq!(found, ProbeFinding::Stranger(Some(stranger.parse().unwrap())));
    assert_eq!(probe(with(POD, of, None, TLS12), &mesh).await, ProbeFinding::NoClientCertificate);
    let found = probe(with(POD, &other, clients, TLS12), &mesh).await;
    assert!(matches!(found, ProbeFinding::Untrusted(_)), "{found:?}");
    let found = probe(with(POD, of, Some(&other), TLS12), &mesh).await;
    assert!(matches!(found, ProbeFinding::Refused(_)), "{found:?}");
    let found = probe(with(POD, of, clients, TLS13), &mesh).await;
    assert_eq!(
        found,
        ProbeFinding::Refused("ProtocolVersion".into()),
        "a sidecar takes 1.2, and 1.3 would prove nothing"
    );
    assert_eq!(probe(Pod::Says("HTTP/1.1 400 Bad Request\r\n\r\n"), &mesh).await, ProbeFinding::NoTls);
    let found = probe(Pod::Says(""), &mesh).await;
    assert!(matches!(found, ProbeFinding::Closed(_)), "{found:?}");
}

#[tokio::test]
async fn a_pod_that_does_not_answer_is_not_waited_for_long() {
    let mesh = authority();
    assert_eq!(probe(Pod::Silent, &mesh).await, ProbeFinding::Silent);
    let nobody = TcpListener::bind(("127.0.0.1", 0)).await.unwrap().local_addr().unwrap();
    let found = attempt(nobody, &mesh).await;
    assert!(matches!(&found, ProbeFinding::Unreachable(why) if why.contains("refused")), "{found:?}");
}

#[tokio::test]
async fn without_a_certificate_nobody_is_asked() {
    let (_keep, identity) = watch::channel(None);
    let probe = MutualTlsProbe::new(identity, Arc::new(At(NOW)));
    assert_eq!(probe.probe(([127, 0, 0, 1], 1).into(), &[]).await, None);
}
