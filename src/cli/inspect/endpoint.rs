//! The certificates that a TLS endpoint presents.

use std::sync::{Arc, Mutex, PoisonError};

use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::found::Found;
use crate::domain::x509::Certificate;

pub(super) async fn fetch(host: &str, port: u16, server_name: Option<&str>) -> Result<Found, String> {
    let name = server_name.unwrap_or(host).to_owned();
    let server_name = ServerName::try_from(name.clone()).map_err(|_malformed| {
        format!("{name:?} is neither a DNS name nor an IP address: name the server with --server-name")
    })?;
    let recorder = Arc::new(Recorder::default());
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&recorder.provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::<Recorder>::clone(&recorder))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let stream = TcpStream::connect((host, port)).await.map_err(|error| format!("no connection: {error}"))?;
    let handshake = TlsConnector::from(Arc::new(config)).connect(server_name, stream).await;
    let shown = recorder.shown.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let notes = match handshake {
        Ok(_) => Vec::new(),
        Err(error) if shown.is_empty() => return Err(format!("no TLS: {error}")),
        Err(error) => vec![format!("{host}:{port}: the handshake ended after the certificates were shown: {error}")],
    };
    let certificates = shown.iter().map(|der| Certificate::from_der(der)).collect::<Result<Vec<_>, _>>();
    Ok(Found { notes, ..Found::certificates(certificates.map_err(|error| error.to_string())?) })
}

/// Accepts any chain and remembers it: what it is worth is shown, not decided, here. That the server holds the leaf's key
/// is checked all the same.
#[derive(Debug)]
struct Recorder {
    shown: Mutex<Vec<CertificateDer<'static>>>,
    provider: Arc<CryptoProvider>,
}

impl Default for Recorder {
    fn default() -> Self {
        Self { shown: Mutex::default(), provider: Arc::new(ring::default_provider()) }
    }
}

impl ServerCertVerifier for Recorder {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let chain = std::iter::once(end_entity).chain(intermediates).map(|der| der.clone().into_owned()).collect();
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = chain;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
