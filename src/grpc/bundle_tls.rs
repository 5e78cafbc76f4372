//! TLS of bundle endpoints (SPIFFE Federation 5.2): of the own one, and towards others'.

use std::sync::Arc;

use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};

use super::rustls_parts::{TimeOf, presented};
use crate::domain::{clock::Clock, x509::X509Svid};

/// Why certificate files serve no TLS.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndpointFilesError {
    /// No certificates.
    #[error("the certificate file is not PEM: {0}")]
    Certificates(String),
    /// No key.
    #[error("the key file holds no private key in PEM: {0}")]
    Key(String),
    /// Not of one another, or of a kind that is not known.
    #[error("certificate and key can't be used: {0}")]
    Pair(String),
}

/// Of the own endpoint by profile `https_spiffe`: with the serving SVID, by the time of `clock`.
///
/// # Errors
///
/// When rustls can't use the certificate or its key.
pub fn endpoint_with_svid(serving: &X509Svid, clock: &Arc<dyn Clock>) -> Result<Arc<ServerConfig>, rustls::Error> {
    let (chain, key) = presented(serving);
    endpoint(chain, key.into(), clock)
}

/// Of the own endpoint by profile `https_web`: with a certificate chain, the leaf first, and its key, both PEM.
///
/// # Errors
///
/// When they are no such things.
pub fn endpoint_with_files(
    chain: &[u8],
    key: &[u8],
    clock: &Arc<dyn Clock>,
) -> Result<Arc<ServerConfig>, EndpointFilesError> {
    let certificates = CertificateDer::pem_slice_iter(chain).collect::<Result<Vec<_>, _>>();
    let certificates = certificates.map_err(|error| EndpointFilesError::Certificates(error.to_string()))?;
    if certificates.is_empty() {
        return Err(EndpointFilesError::Certificates("no certificate stands in it".into()));
    }
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| EndpointFilesError::Key(error.to_string()))?;
    endpoint(certificates, key, clock).map_err(|error| EndpointFilesError::Pair(error.to_string()))
}

/// No client certificate is asked for (SPIFFE Federation 5.2).
fn endpoint(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    clock: &Arc<dyn Clock>,
) -> Result<Arc<ServerConfig>, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_details(provider, TimeOf::provider(clock))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
