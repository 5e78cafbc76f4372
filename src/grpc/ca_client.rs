//! The client of an Istio CA: a Countersign pair, or istiod.

mod root_file;
#[cfg(test)]
mod tests;

use std::{
    error::Error,
    io,
    iter::successors,
    path::PathBuf,
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use hyper_util::client::legacy::connect::HttpConnector;
use tokio::time::{sleep, timeout};
use tonic::{
    Code, ConnectError, Request, Status, TimeoutExpired,
    metadata::AsciiMetadataValue,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};
use zeroize::Zeroizing;

use self::root_file::RootFile;
use crate::{
    proto::istio::v1::auth::{
        IstioCertificateRequest, istio_certificate_service_client::IstioCertificateServiceClient,
    },
    service::{
        ports::{BoxFuture, CertificateAuthority, SignError, SignedChain},
        svid_publisher::IdentityReceiver,
    },
};

/// Where a CA answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaEndpoint {
    /// `HOST:PORT`.
    pub address: String,
    /// The name that its certificate must have.
    pub server_name: String,
}

/// A CA at one of several addresses.
pub struct CaClient {
    endpoints: Vec<CaEndpoint>,
    token_file: PathBuf,
    roots: RootFile,
    /// The SVID held now, as proof when the token is refused or can't be read. Set once: what it follows is published by
    /// the renewal that this client serves.
    identity: OnceLock<IdentityReceiver>,
    last_good: AtomicUsize,
    /// One per address.
    channels: Mutex<Vec<Option<KeptChannel>>>,
}

/// A channel, and the roots that it was made with.
#[derive(Clone)]
struct KeptChannel {
    roots: Vec<u8>,
    channel: Channel,
}

/// A connection is there within this time, its handshake done, or not at all.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);
/// A replica holds a request for 10 s while nobody is active, and is not given up before it says so.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(12);
/// Another one may know better meanwhile, so it is asked as well.
const PATIENCE: Duration = Duration::from_secs(2);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(2);
const KEEPALIVE_ANSWER: Duration = Duration::from_secs(1);

impl CaClient {
    /// A client that asks `endpoints` in order, beginning with the one that answered last. The bearer token, and the roots
    /// that the CA's own certificate is verified to, are read anew for each call: whoever delivers them replaces them. It
    /// has only the token as proof until [`renew_by`](Self::renew_by).
    pub fn new(endpoints: Vec<CaEndpoint>, token_file: PathBuf, root_file: PathBuf) -> Self {
        let channels = Mutex::new(vec![None; endpoints.len()]);
        let last_good = AtomicUsize::new(0);
        let roots = RootFile::new(root_file);
        Self { endpoints, token_file, roots, identity: OnceLock::new(), last_good, channels }
    }

    /// Falls back to the SVID in `identity` from now on. Only the first call counts.
    pub fn renew_by(&self, identity: IdentityReceiver) {
        self.identity.get_or_init(|| identity);
    }

    /// Asks one address after the other, the next one when there was a failure or no answer for a while. The first answer
    /// counts.
    async fn sign_anywhere(&self, csr_pem: &str, ttl_seconds: i64) -> Result<SignedChain, SignError> {
        let roots = self.roots.read().await?;
        let token = self.token().await;
        if let Err(unreadable) = &token
            && self.identity_pem().is_none()
        {
            return Err(SignError::NoProof(without_svid(unreadable)));
        }
        let first = self.last_good.load(Ordering::Relaxed);
        let count = self.endpoints.len();
        let mut others = (0..count).map(|offset| (first + offset) % count);
        let ask = |index| {
            let (roots, token) = (&roots, token.as_ref());
            async move { (index, self.sign_at(index, roots, token, csr_pem, ttl_seconds).await) }
        };
        let mut asked: FuturesUnordered<_> = others.next().map(ask).into_iter().collect();
        let mut failures = Vec::new();
        while !asked.is_empty() {
            let next = tokio::select! {
                Some((index, answer)) = asked.next() => match answer {
                    Ok(signed) => {
                        self.last_good.store(index, Ordering::Relaxed);
                        return Ok(signed);
                    }
                    Err(error @ SignError::Refused(_)) => return Err(error),
                    Err(error) => {
                        failures.push((index, error));
                        others.next()
                    }
                },
                () = sleep(PATIENCE), if others.len() > 0 => others.next(),
            };
            asked.extend(next.map(ask));
        }
        Err(self.nowhere(failures))
    }

    /// What each address said, as one error: that the proof was refused, if it was anywhere; that needs somebody's help.
    fn nowhere(&self, mut failures: Vec<(usize, SignError)>) -> SignError {
        if failures.is_empty() {
            return no_address();
        }
        failures.sort_by_key(|(index, _)| *index);
        let refused = failures.iter().any(|(_, error)| matches!(error, SignError::Unauthenticated(_)));
        let said: Vec<_> = failures
            .iter()
            .filter_map(|(index, error)| {
                let (SignError::Unavailable(said)
                | SignError::NoProof(said)
                | SignError::Unauthenticated(said)
                | SignError::Refused(said)
                | SignError::Answer(said)) = error;
                Some(format!("{}: {said}", self.endpoints.get(*index)?.address))
            })
            .collect();
        let said = said.join("; ");
        if refused { SignError::Unauthenticated(said) } else { SignError::Unavailable(said) }
    }

    async fn token(&self) -> Result<Zeroizing<String>, String> {
        let path = &self.token_file;
        match tokio::fs::read_to_string(path).await.map(Zeroizing::new) {
            Ok(token) if token.trim().is_empty() => Err(format!("token file {} is empty", path.display())),
            Ok(token) => Ok(Zeroizing::new(token.trim().to_owned())),
            Err(error) => Err(format!("token file {}: {error}", path.display())),
        }
    }

    async fn sign_at(
        &self,
        index: usize,
        roots: &[u8],
        token: Result<&Zeroizing<String>, &String>,
        csr_pem: &str,
        ttl_seconds: i64,
    ) -> Result<SignedChain, SignError> {
        let request =
            || IstioCertificateRequest { csr: csr_pem.to_owned(), validity_duration: ttl_seconds, metadata: None };
        let token_is_refused = token.is_ok();
        let refusal = match token {
            Ok(token) => {
                let mut bearer: AsciiMetadataValue = Zeroizing::new(format!("Bearer {}", token.as_str()))
                    .parse()
                    .map_err(|_not_ascii| SignError::Refused("the token holds characters that no token has".into()))?;
                bearer.set_sensitive(true);
                let request = || {
                    let mut request = Request::new(request());
                    request.metadata_mut().insert("authorization", bearer.clone());
                    request
                };
                let channel = self.channel(index, roots)?;
                let answer = match call(channel.clone(), request()).await {
                    // a kept connection may have died unnoticed; the channel makes another one
                    Err(status) if broke_off(&status) => call(channel, request()).await,
                    answer => answer,
                };
                match signed(answer) {
                    Err(SignError::Unauthenticated(refusal)) => refusal,
                    answer => return answer,
                }
            }
            Err(unreadable) => unreadable.clone(),
        };
        let Some(identity) = self.identity_pem() else {
            // it may have expired since the token turned out to be unreadable
            let error = if token_is_refused { SignError::Unauthenticated } else { SignError::NoProof };
            return Err(error(without_svid(&refusal)));
        };
        let channel = lazily(&self.endpoint(index, roots, Some(identity))?);
        signed(call(channel, Request::new(request())).await)
    }

    /// The channel that is kept for an address, made anew when the roots have changed.
    fn channel(&self, index: usize, roots: &[u8]) -> Result<Channel, SignError> {
        let endpoint = self.endpoint(index, roots, None)?;
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(kept) = channels.get_mut(index) else {
            return Ok(lazily(&endpoint));
        };
        match kept {
            Some(kept) if kept.roots == roots => Ok(kept.channel.clone()),
            _ => {
                let channel = lazily(&endpoint);
                *kept = Some(KeptChannel { roots: roots.to_vec(), channel: channel.clone() });
                Ok(channel)
            }
        }
    }

    fn endpoint(&self, index: usize, roots: &[u8], identity: Option<Identity>) -> Result<Endpoint, SignError> {
        let CaEndpoint { address, server_name } = self.endpoints.get(index).ok_or_else(no_address)?;
        let unusable = |error: tonic::transport::Error| SignError::Unavailable(error.to_string());
        let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(roots)).domain_name(server_name);
        if let Some(identity) = identity {
            tls = tls.identity(identity);
        }
        let endpoint = Endpoint::from_shared(format!("https://{address}")).map_err(unusable)?;
        Ok(endpoint
            .tls_config(tls)
            .map_err(unusable)?
            .connect_timeout(CONNECT_LIMIT)
            .timeout(ATTEMPT_LIMIT)
            .http2_keep_alive_interval(KEEPALIVE_EVERY)
            .keep_alive_timeout(KEEPALIVE_ANSWER))
    }

    fn identity_pem(&self) -> Option<Identity> {
        let svid = self.identity.get()?.borrow().as_ref()?.svid.clone()?;
        Some(Identity::from_pem(svid.chain().to_pem(), svid.key().to_pem().as_bytes()))
    }
}

impl CertificateAuthority for CaClient {
    fn sign<'a>(&'a self, csr_pem: &'a str, ttl_seconds: i64) -> BoxFuture<'a, Result<SignedChain, SignError>> {
        Box::pin(self.sign_anywhere(csr_pem, ttl_seconds))
    }
}

/// Of itself tonic limits the TCP connection alone; given its connector, it limits the TLS handshake as well.
fn lazily(endpoint: &Endpoint) -> Channel {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    endpoint.connect_with_connector_lazy(tcp)
}

async fn call(channel: Channel, request: Request<IstioCertificateRequest>) -> Result<Vec<String>, Status> {
    // the endpoint's own limit ends with the head of the answer
    let mut client = IstioCertificateServiceClient::new(channel);
    let response = timeout(ATTEMPT_LIMIT, client.create_certificate(request)).await;
    let response = response.map_err(|_elapsed| Status::deadline_exceeded("no whole answer"))??;
    Ok(response.into_inner().cert_chain)
}

fn signed(answer: Result<Vec<String>, Status>) -> Result<SignedChain, SignError> {
    answer.map_err(|status| error_of(&status)).and_then(SignedChain::from_elements)
}

/// Whether a connection ended under the call, which nobody has answered then. To ask for a certificate once more does no harm.
fn broke_off(status: &Status) -> bool {
    let timed_out = |cause: &io::Error| cause.kind() == io::ErrorKind::TimedOut;
    let known = |cause: &(dyn Error + 'static)| {
        cause.is::<ConnectError>() || cause.is::<TimeoutExpired>() || cause.downcast_ref().is_some_and(timed_out)
    };
    status.source().is_some() && !causes(status).any(known)
}

fn causes(status: &Status) -> impl Iterator<Item = &(dyn Error + 'static)> {
    successors(status.source(), |&cause| cause.source())
}

fn without_svid(why: &str) -> String {
    format!("{why}; and no valid SVID is held to renew by")
}

fn no_address() -> SignError {
    SignError::Unavailable("no CA address is configured".into())
}

/// Only what is wrong with the request itself is wrong at every address.
fn error_of(status: &Status) -> SignError {
    let said = || {
        let mut said = format!("{:?}: {}", status.code(), status.message());
        for cause in causes(status).map(ToString::to_string).filter(|cause| cause != status.message()) {
            said = format!("{said}: {cause}");
        }
        said
    };
    match status.code() {
        Code::InvalidArgument => SignError::Refused(said()),
        Code::Unauthenticated | Code::PermissionDenied => SignError::Unauthenticated(said()),
        // what a broken connection, a busy or a leaving CA comes as, or something that is no CA
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::DeadlineExceeded
        | Code::NotFound
        | Code::AlreadyExists
        | Code::ResourceExhausted
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::Internal
        | Code::Unavailable
        | Code::DataLoss => SignError::Unavailable(said()),
    }
}
