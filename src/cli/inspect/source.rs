//! Where certificates are, and fetching them from there.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

use crate::{
    domain::x509::{Certificate, pem},
    service::causes::with_causes,
};

/// How long a socket or an endpoint may take for everything.
const LIMIT: Duration = Duration::from_secs(5);
/// Far above any chain or bundle.
const MAX_BYTES: u64 = 16 * 1024 * 1024;
/// The first byte of every DER certificate, and the digit 0 in a text.
const DER_SEQUENCE: u8 = 0x30;

/// Where certificates are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// PEM or DER.
    File(PathBuf),
    /// PEM or DER.
    Stdin,
    /// A Workload API socket, `unix:///PATH`.
    Socket(String),
    /// A TLS endpoint.
    Endpoint {
        /// Name or address, without brackets.
        host: String,
        /// Its port.
        port: u16,
    },
}

/// Why there is nothing to show. Never holds what was read.
#[derive(Debug, thiserror::Error)]
#[error("{place}: {problem}")]
pub struct SourceError {
    place: String,
    problem: String,
}

/// What a source held.
pub(super) struct Found {
    pub(super) chains: Vec<FoundChain>,
    /// What could not be shown.
    pub(super) notes: Vec<String>,
}

/// Certificates that belong together, leaf first, and what they are to be verified to.
pub(super) struct FoundChain {
    pub(super) certificates: Vec<Certificate>,
    pub(super) bundle: Option<Bundle>,
}

/// Roots and whose word they are.
#[derive(Clone)]
pub(super) struct Bundle {
    pub(super) roots: Vec<Certificate>,
    pub(super) origin: String,
}

impl FromStr for Source {
    type Err = std::convert::Infallible;

    /// `-`, `unix:…`, `HOST:PORT`; everything else is a file. A file whose name looks like an endpoint is written `./a:1`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let endpoint = || {
            let (host, port) = text.rsplit_once(':').filter(|_| !text.contains('/'))?;
            let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
            let is_host = !bare.is_empty() && (bare == host) != bare.contains(':');
            is_host.then_some(Self::Endpoint { host: bare.to_owned(), port: port.parse().ok()? })
        };
        Ok(match text {
            "-" => Self::Stdin,
            _ if text.starts_with("unix:") => Self::Socket(text.to_owned()),
            _ => endpoint().unwrap_or_else(|| Self::File(text.into())),
        })
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Stdin => f.write_str("stdin"),
            Self::Socket(uri) => f.write_str(uri),
            Self::Endpoint { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Endpoint { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

impl Source {
    pub(super) async fn load(&self, server_name: Option<&str>) -> Result<Found, SourceError> {
        let place = self.to_string();
        match self {
            Self::File(path) => Found::from_bytes(&place, &read_file(path).await?),
            Self::Stdin => Found::from_bytes(&place, &read(&place, tokio::io::stdin()).await?),
            Self::Socket(uri) => timed(&place, fetch_from_socket(uri)).await,
            Self::Endpoint { host, port } => timed(&place, fetch_from_endpoint(host, *port, server_name)).await,
        }
    }
}

impl SourceError {
    fn new(place: &str, problem: impl fmt::Display) -> Self {
        Self { place: place.to_owned(), problem: problem.to_string() }
    }

    pub(super) fn printing(error: impl fmt::Display) -> Self {
        Self::new("output", error)
    }
}

impl Found {
    /// All certificates of a PEM text, or the one that is the DER bytes.
    fn from_bytes(place: &str, bytes: &[u8]) -> Result<Self, SourceError> {
        let (certificates, notes) = certificates_in(place, bytes)?;
        Ok(Self { chains: chains_of(certificates, None), notes })
    }

    /// Has everything verified to these roots.
    pub(super) fn use_bundle(&mut self, roots: Vec<Certificate>, origin: String) {
        let bundle = Bundle { roots, origin };
        self.chains.iter_mut().for_each(|chain| chain.bundle = Some(bundle.clone()));
    }
}

/// The roots of a PEM or DER file.
pub(super) async fn roots_of_file(path: &Path) -> Result<Vec<Certificate>, SourceError> {
    let bytes = read_file(path).await?;
    certificates_in(&path.display().to_string(), &bytes).map(|(roots, _notes)| roots)
}

async fn read_file(path: &Path) -> Result<Zeroizing<Vec<u8>>, SourceError> {
    let place = path.display().to_string();
    let file = tokio::fs::File::open(path).await.map_err(|error| SourceError::new(&place, error))?;
    read(&place, file).await
}

/// Wiped when dropped: there may be a key in it.
async fn read(place: &str, from: impl AsyncRead + Unpin) -> Result<Zeroizing<Vec<u8>>, SourceError> {
    let mut bytes = Zeroizing::new(Vec::new());
    from.take(MAX_BYTES + 1).read_to_end(&mut bytes).await.map_err(|error| SourceError::new(place, error))?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > MAX_BYTES) {
        return Err(SourceError::new(place, "over 16 MiB: that is no chain of certificates"));
    }
    Ok(bytes)
}

fn certificates_in(place: &str, bytes: &[u8]) -> Result<(Vec<Certificate>, Vec<String>), SourceError> {
    let is_pem = !matches!(pem::first_block(bytes), Err(pem::PemError::NoBlock));
    if !is_pem && bytes.first() == Some(&DER_SEQUENCE) {
        let certificate = Certificate::from_der(bytes).map_err(|error| SourceError::new(place, error))?;
        return Ok((vec![certificate], Vec::new()));
    }
    let (mut certificates, mut notes, mut rest) = (Vec::new(), Vec::new(), bytes);
    loop {
        let block = match pem::first_block(rest) {
            Ok(block) => block,
            Err(pem::PemError::NoBlock) => break,
            Err(error) => return Err(SourceError::new(place, error)),
        };
        if block.label == "CERTIFICATE" {
            let certificate = Certificate::from_der(&block.content).map_err(|error| SourceError::new(place, error))?;
            certificates.push(certificate);
        } else if block.label.ends_with("PRIVATE KEY") {
            notes.push(format!("{place}: a private key was skipped; keys are never shown"));
        } else {
            notes.push(format!("{place}: a block {:?} was skipped", block.label));
        }
        rest = block.rest;
    }
    match (certificates.is_empty(), notes.first()) {
        (false, _) => Ok((certificates, notes)),
        (true, Some(note)) => Err(SourceError { place: place.to_owned(), problem: format!("no certificate ({note})") }),
        (true, None) => Err(SourceError::new(place, "no certificate: give a PEM or DER file with one")),
    }
}

/// Puts each certificate that issued no other one at the head of a chain, followed by its issuer, that one's issuer, and
/// so on, as far as they are there.
fn chains_of(certificates: Vec<Certificate>, bundle: Option<&Bundle>) -> Vec<FoundChain> {
    let is_issuer = |issuer: &Certificate, subject: &Certificate| {
        let keys_fit = match (subject.authority_key_id(), issuer.subject_key_id()) {
            (Some(wanted), Some(own)) => wanted == own,
            _ => true,
        };
        issuer != subject && keys_fit && issuer.is_ca() && issuer.subject() == subject.issuer()
    };
    let issues_none = |issuer: &&Certificate| !certificates.iter().any(|subject| is_issuer(issuer, subject));
    let mut heads: Vec<&Certificate> = certificates.iter().filter(issues_none).collect();
    heads.dedup();
    if heads.is_empty() {
        // Authorities that have signed one another: there is no end to begin at.
        heads.extend(certificates.first());
    }
    let chain_from = |head: &Certificate| {
        let mut chain = vec![head.clone()];
        while let Some(issuer) = chain.last().and_then(|last| {
            certificates.iter().find(|candidate| is_issuer(candidate, last) && !chain.contains(candidate))
        }) {
            chain.push(issuer.clone());
        }
        FoundChain { certificates: chain, bundle: bundle.cloned() }
    };
    heads.into_iter().map(chain_from).collect()
}

async fn timed(place: &str, fetch: impl Future<Output = Result<Found, String>>) -> Result<Found, SourceError> {
    match timeout(LIMIT, fetch).await {
        Ok(found) => found.map_err(|problem| SourceError::new(place, problem)),
        Err(_elapsed) => Err(SourceError::new(place, format!("no answer within {LIMIT:?}"))),
    }
}

/// The SVIDs of a Workload API with their own trust domains' bundles. The keys that come with them are dropped unseen.
async fn fetch_from_socket(uri: &str) -> Result<Found, String> {
    let client = spiffe::WorkloadApiClient::connect_to(uri).await.map_err(|error| with_causes(&error))?;
    let context = client.fetch_x509_context().await.map_err(|error| with_causes(&error))?;
    let parse = |ders: &[spiffe::cert::Certificate]| {
        let parsed = ders.iter().map(|der| Certificate::from_der(der.as_bytes()));
        parsed.collect::<Result<Vec<_>, _>>().map_err(|error| error.to_string())
    };
    let mut chains = Vec::new();
    for svid in context.svids() {
        let bundle = match context.bundle_set().get(svid.spiffe_id().trust_domain()) {
            Some(bundle) => Some(Bundle { roots: parse(bundle.authorities())?, origin: uri.to_owned() }),
            None => None,
        };
        chains.extend(chains_of(parse(svid.cert_chain())?, bundle.as_ref()));
    }
    Ok(Found { chains, notes: Vec::new() })
}

async fn fetch_from_endpoint(host: &str, port: u16, server_name: Option<&str>) -> Result<Found, String> {
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
    Ok(Found { chains: chains_of(certificates.map_err(|error| error.to_string())?, None), notes })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_told_apart_by_their_form() {
        let endpoint = |host: &str, port| Source::Endpoint { host: host.into(), port };
        for (text, expected) in [
            ("-", Source::Stdin),
            ("unix:///run/x.sock", Source::Socket("unix:///run/x.sock".into())),
            ("localhost:15012", endpoint("localhost", 15012)),
            ("127.0.0.1:1", endpoint("127.0.0.1", 1)),
            ("[::1]:443", endpoint("::1", 443)),
            ("chain.pem", Source::File("chain.pem".into())),
            ("./a:1", Source::File("./a:1".into())),
            ("a:b", Source::File("a:b".into())),
            ("a:70000", Source::File("a:70000".into())),
            ("::1:443", Source::File("::1:443".into())),
            (":443", Source::File(":443".into())),
            ("", Source::File("".into())),
        ] {
            assert_eq!(text.parse::<Source>().unwrap(), expected, "{text}");
        }
    }
}
