//! TLS of bundle endpoints (SPIFFE Federation 5.2): of the own one, and towards others'.

use std::sync::Arc;

use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    client::{
        Resumption,
        danger::{ServerCertVerified, ServerCertVerifier},
    },
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject as _},
};

use super::rustls_parts::{TimeOf, presented, signatures_by};
use crate::{
    domain::{
        clock::Clock,
        identity::SpiffeId,
        x509::{CertificateChain, TrustBundle, X509Svid},
    },
    service::federation::EndpointAuthentication,
};

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

/// Towards another trust domain's endpoint, which is believed by `authentication` at the time of `clock`. Reads the roots of the
/// operating system anew each time, from where `SSL_CERT_FILE` and `SSL_CERT_DIR` say if they are set. Blocks.
///
/// # Errors
///
/// When the operating system has no roots.
pub fn towards_endpoint(
    authentication: &EndpointAuthentication,
    clock: &Arc<dyn Clock>,
) -> Result<Arc<ClientConfig>, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_details(Arc::clone(&provider), TimeOf::provider(clock))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(|error| error.to_string())?;
    let mut config = match authentication {
        EndpointAuthentication::Web => builder.with_root_certificates(system_roots()?).with_no_client_auth(),
        EndpointAuthentication::Spiffe { id, bundle } => {
            let (id, bundle, clock) = (id.clone(), bundle.clone(), Arc::clone(clock));
            let verifier = Arc::new(SvidVerifier { provider, id, bundle, clock });
            builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth()
        }
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // a resumption would not look at certificates again
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

fn system_roots() -> Result<RootCertStore, String> {
    let loaded = rustls_native_certs::load_native_certs();
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(loaded.certs);
    if store.is_empty() {
        let why = loaded.errors.first().map(|error| format!(": {error}")).unwrap_or_default();
        return Err(format!(
            "the operating system has no roots, by which an endpoint of https_web is to be believed{why}"
        ));
    }
    Ok(store)
}

/// Accepts exactly one SPIFFE ID, by the bundle of its trust domain, whatever the name that was asked for.
struct SvidVerifier {
    provider: Arc<CryptoProvider>,
    id: SpiffeId,
    bundle: TrustBundle,
    clock: Arc<dyn Clock>,
}

impl std::fmt::Debug for SvidVerifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SvidVerifier({})", self.id)
    }
}

impl SvidVerifier {
    fn check(&self, ders: &[&[u8]]) -> Result<(), String> {
        let chain = CertificateChain::from_ders(ders).map_err(|error| error.to_string())?;
        match chain.leaf().spiffe_id() {
            Some(found) if found == self.id => {}
            Some(found) => return Err(format!("the endpoint is {found}, and {} was to answer", self.id)),
            None => return Err(format!("the endpoint has no SPIFFE ID, and {} was to answer", self.id)),
        }
        chain.verify(&self.bundle, self.clock.now()).map_err(|error| error.to_string())
    }
}

impl ServerCertVerifier for SvidVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let ders: Vec<&[u8]> = std::iter::once(end_entity).chain(intermediates).map(AsRef::as_ref).collect();
        self.check(&ders).map_err(rustls::Error::General)?;
        Ok(ServerCertVerified::assertion())
    }

    signatures_by!(provider);
}
