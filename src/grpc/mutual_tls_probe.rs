//! One connection to a pod of the mesh, with our own certificate, as a gateway would make it: to see whether it speaks mutual TLS. No
//! byte is sent over it once its handshake is done.
//!
//! TLS 1.2, since by its last message the other side has verified our certificate; in TLS 1.3 a refusal comes later.

use std::{
    fmt, io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rustls::{
    ClientConfig, SignatureScheme,
    client::{
        ResolvesClientCert, Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::CryptoProvider,
    pki_types::{CertificateDer, ServerName, UnixTime},
    sign::CertifiedKey,
};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;

use super::{
    ca_client::tls::CaVerifier,
    pair_tls::server_name,
    rustls_parts::{TimeOf, presented, store_of},
};
use crate::{
    domain::{
        clock::Clock,
        identity::SpiffeId,
        policy::{PROBE_ALPN, ProbeFinding},
        x509::{Certificate, TrustBundle, X509Svid},
    },
    service::{policy_probes::MutualTls, ports::BoxFuture, svid_publisher::IdentityReceiver},
};

const CONNECT_LIMIT: Duration = Duration::from_secs(2);
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(3);

/// Makes them.
pub struct MutualTlsProbe {
    identity: IdentityReceiver,
    clock: Arc<dyn Clock>,
}

impl MutualTlsProbe {
    /// With the newest SVID of `identity`, by the roots that come with it, at the time of `clock`.
    pub const fn new(identity: IdentityReceiver, clock: Arc<dyn Clock>) -> Self {
        Self { identity, clock }
    }
}

impl MutualTls for MutualTlsProbe {
    fn probe<'a>(&'a self, at: SocketAddr, identities: &'a [SpiffeId]) -> BoxFuture<'a, Option<ProbeFinding>> {
        Box::pin(async move {
            let identity = self.identity.borrow().clone()?;
            let svid = identity.svid.clone()?;
            let attempt = Attempt::new(&svid, &identity.bundle, identities, &self.clock).ok()?;
            Some(attempt.make(at).await)
        })
    }
}

/// One connection, and what was seen in its handshake.
struct Attempt {
    config: Arc<ClientConfig>,
    shown: Arc<Shown>,
    asked: Arc<Asked>,
}

impl Attempt {
    fn new(
        svid: &X509Svid,
        bundle: &TrustBundle,
        identities: &[SpiffeId],
        clock: &Arc<dyn Clock>,
    ) -> Result<Self, rustls::Error> {
        let provider: Arc<CryptoProvider> = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = CaVerifier::new(vec![store_of(bundle.roots())], identities.to_vec(), Box::new(|| {}));
        let shown = Arc::new(Shown { verifier, leaf: Mutex::default() });
        let (chain, key) = presented(svid);
        let key = CertifiedKey::from_der(chain, key.into(), &provider)?;
        let asked = Arc::new(Asked { key: Arc::new(key), was: AtomicBool::new(false) });
        let mut config = ClientConfig::builder_with_details(provider, TimeOf::provider(clock))
            .with_protocol_versions(&[&rustls::version::TLS12])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::<Shown>::clone(&shown))
            .with_client_cert_resolver(Arc::<Asked>::clone(&asked));
        config.alpn_protocols = PROBE_ALPN.map(|name| name.as_bytes().to_vec()).to_vec();
        config.resumption = Resumption::disabled();
        config.enable_sni = false;
        Ok(Self { config: Arc::new(config), shown, asked })
    }

    async fn make(self, at: SocketAddr) -> ProbeFinding {
        let stream = match timeout(CONNECT_LIMIT, TcpStream::connect(at)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return ProbeFinding::Unreachable(error.to_string().into()),
            Err(_elapsed) => return ProbeFinding::Unreachable(format!("no answer within {CONNECT_LIMIT:?}").into()),
        };
        let handshake = TlsConnector::from(Arc::clone(&self.config)).connect(server_name(), stream);
        match timeout(HANDSHAKE_LIMIT, handshake).await {
            Err(_elapsed) => ProbeFinding::Silent,
            Ok(Ok(_connection)) if self.asked.was.load(Ordering::Relaxed) => ProbeFinding::Mutual,
            Ok(Ok(_connection)) => ProbeFinding::NoClientCertificate,
            Ok(Err(error)) => self.finding(&error),
        }
    }

    fn finding(&self, error: &io::Error) -> ProbeFinding {
        use rustls::CertificateError::{NotValidForName, NotValidForNameContext};
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(rustls::Error::InvalidMessage(_)) => ProbeFinding::NoTls,
            Some(rustls::Error::AlertReceived(alert)) => ProbeFinding::Refused(format!("{alert:?}").into()),
            Some(rustls::Error::InvalidCertificate(NotValidForName | NotValidForNameContext { .. })) => {
                ProbeFinding::Stranger(self.shown.id())
            }
            Some(rustls::Error::InvalidCertificate(error)) => ProbeFinding::Untrusted(error.to_string().into()),
            _ => ProbeFinding::Closed(error.to_string().into()),
        }
    }
}

/// Verifies as for a CA, and remembers who it was.
#[derive(Debug)]
struct Shown {
    verifier: CaVerifier,
    leaf: Mutex<Option<CertificateDer<'static>>>,
}

impl Shown {
    fn id(&self) -> Option<SpiffeId> {
        let leaf = self.leaf.lock().unwrap_or_else(PoisonError::into_inner);
        Certificate::from_der(leaf.as_ref()?).ok()?.spiffe_id()
    }
}

impl ServerCertVerifier for Shown {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        *self.leaf.lock().unwrap_or_else(PoisonError::into_inner) = Some(end_entity.clone().into_owned());
        self.verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}

/// Has our certificate, and remembers whether anybody wanted it.
struct Asked {
    key: Arc<CertifiedKey>,
    was: AtomicBool,
}

impl fmt::Debug for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Asked").field("was", &self.was).finish_non_exhaustive()
    }
}

impl ResolvesClientCert for Asked {
    fn resolve(&self, _issuers: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.was.store(true, Ordering::Relaxed);
        Some(Arc::clone(&self.key))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests;
