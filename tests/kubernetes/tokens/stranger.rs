//! A client that verifies no server, so that it is the server alone that refuses.

use std::{net::SocketAddr, sync::Arc};

use countersign::domain::x509::{CertificateChain, PrivateKey};
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::ring::default_provider,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime},
};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Error};
use tower::service_fn;

/// A certificate and its key.
#[derive(Clone)]
pub(crate) struct Held {
    pub(crate) chain: CertificateChain,
    pub(crate) key: Arc<PrivateKey>,
}

#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        default_provider().signature_verification_algorithms.supported_schemes()
    }
}

/// A connection to whoever is there, with this certificate if there is one.
pub(crate) async fn connect(address: SocketAddr, held: Option<&Held>) -> Result<Channel, Error> {
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody));
    let mut config = match held {
        None => config.with_no_client_auth(),
        Some(held) => {
            let chain = held.chain.iter().map(|one| CertificateDer::from(one.der().to_vec())).collect();
            let key = PrivateKeyDer::Pkcs8(held.key.pkcs8().to_vec().into());
            config.with_client_auth_cert(chain, key).unwrap()
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    let connector = TlsConnector::from(Arc::new(config));
    let connect = service_fn(move |_| {
        let connector = connector.clone();
        async move {
            let tcp = TcpStream::connect(address).await?;
            let name = ServerName::IpAddress(address.ip().into());
            connector.connect(name, tcp).await.map(TokioIo::new)
        }
    });
    Endpoint::from_shared(format!("http://{address}")).unwrap().connect_with_connector(connect).await
}
