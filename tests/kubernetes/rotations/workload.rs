//! A client that has its identity by the Workload API, and verifies its server by the bundle from there: each request is a TLS
//! connection of its own, with whatever the SPIFFE library holds at that moment.

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring::default_provider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime},
};
use spiffe::X509Source;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, timeout},
};
use tokio_rustls::TlsConnector;

use super::{SOON, repeated::Repeated};
use crate::support::certificate::Certificate;

const PAUSE: Duration = Duration::from_millis(25);
const ANSWER: Duration = Duration::from_secs(10);

/// Asks `server`, which has to be `id`, for `path` with the identity of a socket.
pub(super) fn ask_again_and_again(socket: &Path, server: SocketAddr, id: &'static str, path: &'static str) -> Repeated {
    let socket = format!("unix:{}", socket.display());
    Repeated::start(move |outcomes| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let source = timeout(SOON, X509Source::builder().endpoint(&socket).build()).await.unwrap().unwrap();
            while outcomes.go_on() {
                let answer = timeout(ANSWER, ask(&source, server, id, path)).await;
                outcomes.note(answer.unwrap_or_else(|elapsed| Err(elapsed.to_string())));
                sleep(PAUSE).await;
            }
        });
    })
}

async fn ask(source: &X509Source, server: SocketAddr, id: &'static str, path: &str) -> Result<(), String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let svid = source.svid().map_err(|error| text(&error))?;
    let bundle = source.try_bundle_for_trust_domain(svid.spiffe_id().trust_domain()).ok_or("no bundle")?;
    let mut roots = RootCertStore::empty();
    for authority in bundle.authorities() {
        roots.add(CertificateDer::from(authority.as_bytes().to_vec())).map_err(|error| text(&error))?;
    }
    let chain = svid.cert_chain().iter().map(|one| CertificateDer::from(one.as_bytes().to_vec())).collect();
    let key = PrivateKeyDer::Pkcs8(svid.private_key().as_bytes().to_vec().into());
    let provider = Arc::new(default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(OnlyThisId { id, roots, provider }))
        .with_client_auth_cert(chain, key)
        .map_err(|error| text(&error))?;
    let tcp = TcpStream::connect(server).await.map_err(|error| text(&error))?;
    let name = ServerName::IpAddress(server.ip().into());
    let mut tls = TlsConnector::from(Arc::new(config)).connect(name, tcp).await.map_err(|error| text(&error))?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
    tls.write_all(request.as_bytes()).await.map_err(|error| text(&error))?;
    let mut answer = Vec::new();
    // Envoy leaves the connection open for a while after its answer
    while !answer.ends_with(b"backend") {
        if tls.read_buf(&mut answer).await.map_err(|error| text(&error))? == 0 {
            break;
        }
    }
    let answer = String::from_utf8_lossy(&answer);
    if answer.starts_with("HTTP/1.1 200 ") { Ok(()) } else { Err(format!("answer {answer:?}")) }
}

/// Accepts a chain to the roots whose leaf names one SPIFFE ID.
#[derive(Debug)]
struct OnlyThisId {
    id: &'static str,
    roots: RootCertStore,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for OnlyThisId {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let parsed = rustls::server::ParsedCertificate::try_from(leaf)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        rustls::client::verify_server_cert_signed_by_trust_anchor(
            &parsed,
            &self.roots,
            intermediates,
            now,
            algorithms,
        )?;
        if Certificate::from_der(leaf).uris == [self.id] {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(rustls::Error::General("another identity".into()))
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, leaf, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, leaf, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
