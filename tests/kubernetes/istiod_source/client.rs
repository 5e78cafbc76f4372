//! A client of the signing API that says all of its request itself, and hears all of the answer.

use std::{sync::Arc, time::Duration};

use countersign::{
    domain::{
        clock::Timestamp,
        x509::{CertificateChain, PrivateKey, TrustBundle},
    },
    proto::istio::v1::auth::{
        IstioCertificateRequest, istio_certificate_service_client::IstioCertificateServiceClient,
    },
};
use rustls::{
    CertificateError, DigitallySignedStruct, Error, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring::default_provider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tonic::{
    Code, Request,
    transport::{Certificate as Root, Channel, ClientTlsConfig, Endpoint, Identity},
};

use crate::istio::istiod::SERVER_NAME;

pub(crate) const PAIR: &str = "spiffe://cluster.local/ns/countersign/sa/countersign";
const CONNECT: Duration = Duration::from_secs(2);

/// The elements of a chain, or code and text.
pub(crate) type Answer = Result<Vec<String>, (Code, String)>;

/// A request with its headers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Asked {
    pub(crate) authorization: Vec<String>,
    pub(crate) clusters: Vec<&'static str>,
    /// Any others.
    pub(crate) headers: Vec<(&'static str, &'static str)>,
    pub(crate) message: IstioCertificateRequest,
}

impl Asked {
    /// A good request by this token.
    pub(crate) fn by(token: &str) -> Self {
        let message = IstioCertificateRequest { csr: csr(), validity_duration: 3600, metadata: None };
        Self { authorization: vec![format!("Bearer {token}")], clusters: vec!["Kubernetes"], headers: vec![], message }
    }

    /// With its message changed.
    pub(crate) fn with(mut self, change: impl FnOnce(&mut IstioCertificateRequest)) -> Self {
        change(&mut self.message);
        self
    }
}

/// A request for a new key.
pub(crate) fn csr() -> String {
    PrivateKey::generate_p256().unwrap().certificate_request(&"spiffe://cluster.local/any".parse().unwrap()).unwrap()
}

/// A connection to a replica of the pair, which has no DNS name in its certificate, by which it is known.
pub(crate) fn to_pair(port: u16, roots: &str) -> Channel {
    to_pair_as(port, roots, None)
}

/// The same with a client certificate.
pub(crate) fn to_pair_as(port: u16, roots: &str, identity: Option<Identity>) -> Channel {
    let roots = TrustBundle::from_pem("cluster.local".parse().unwrap(), roots.as_bytes()).unwrap();
    let verifier = Arc::new(ById { roots, provider: Arc::new(default_provider()) });
    let endpoint = Endpoint::from_shared(format!("https://127.0.0.1:{port}")).unwrap();
    let tls = identity.map_or_else(ClientTlsConfig::new, |identity| ClientTlsConfig::new().identity(identity));
    endpoint.tls_config_with_verifier(tls, verifier).unwrap().connect_timeout(CONNECT).connect_lazy()
}

/// A connection to istiod itself.
pub(crate) fn to_istiod(port: u16, roots: &str) -> Channel {
    let tls = ClientTlsConfig::new().ca_certificate(Root::from_pem(roots)).domain_name(SERVER_NAME);
    let endpoint = Endpoint::from_shared(format!("https://127.0.0.1:{port}")).unwrap();
    endpoint.tls_config(tls).unwrap().connect_timeout(CONNECT).connect_lazy()
}

/// One call.
pub(crate) async fn ask(channel: &Channel, asked: &Asked) -> Answer {
    let mut request = Request::new(asked.message.clone());
    for value in &asked.authorization {
        request.metadata_mut().append("authorization", value.parse().unwrap());
    }
    for cluster in &asked.clusters {
        request.metadata_mut().append("clusterid", cluster.parse().unwrap());
    }
    for (name, value) in &asked.headers {
        request.metadata_mut().append(*name, value.parse().unwrap());
    }
    let mut client = IstioCertificateServiceClient::new(channel.clone());
    match client.create_certificate(request).await {
        Ok(answer) => Ok(answer.into_inner().cert_chain),
        Err(status) => Err((status.code(), status.message().to_owned())),
    }
}

/// Takes a server for the pair by its SPIFFE ID.
#[derive(Debug)]
struct ById {
    roots: TrustBundle,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for ById {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let refused = |_why| Error::InvalidCertificate(CertificateError::UnknownIssuer);
        let ders: Vec<&[u8]> = std::iter::once(end_entity).chain(intermediates).map(|der| &**der).collect();
        let chain = CertificateChain::from_ders(&ders).map_err(refused)?;
        let now = Timestamp::from_seconds(i64::try_from(now.as_secs()).unwrap());
        chain.verify(&self.roots, now).map_err(refused)?;
        assert_eq!(chain.leaf().spiffe_id().map(|id| id.to_string()).as_deref(), Some(PAIR));
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
