//! The TLS configuration of the signing API, made anew whenever the serving certificate changes.

use std::sync::Arc;

use rustls::{
    DistinguishedName, ServerConfig,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};

use super::rustls_parts::{TimeOf, presented, signatures_by};
use crate::domain::{
    clock::Clock,
    x509::{CertificateChain, X509Svid},
};

/// TLS 1.2 and 1.3 with ALPN `h2`, by the time of `clock`; a client certificate is asked for, never demanded.
///
/// # Errors
///
/// When rustls can't use the certificate or its key.
pub fn server_config(serving: &X509Svid, clock: &Arc<dyn Clock>) -> Result<Arc<ServerConfig>, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let (chain, key) = presented(serving);
    let mut config = ServerConfig::builder_with_details(Arc::clone(&provider), TimeOf::provider(clock))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
        .with_client_cert_verifier(Arc::new(PossessionOnly(provider)))
        .with_single_cert(chain, key.into())?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}

/// The client's chain as it stood in the handshake; `None` when there is none or a certificate of it does not parse.
pub(super) fn presented_chain(certificates: Option<&[CertificateDer<'_>]>) -> Option<CertificateChain> {
    CertificateChain::from_ders(certificates?).ok()
}

/// Proves that the peer holds the key of the certificate that it presents, and nothing else. The path to the trust bundle
/// is verified at each request: so an expired certificate does not take the connection from a caller that also has a
/// token, a certificate that expires on a long connection stops counting at once, and a new root needs no reconnection.
#[derive(Debug)]
struct PossessionOnly(Arc<CryptoProvider>);

impl ClientCertVerifier for PossessionOnly {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    signatures_by!(0);
}
