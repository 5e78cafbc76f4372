//! The client of an Istio CA: a Countersign pair, or istiod.

mod connection;
mod extras;
mod roots;
#[cfg(test)]
mod tests;
pub(in crate::grpc) mod tls;

use std::{
    error::Error,
    io,
    iter::successors,
    path::PathBuf,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use rustls::pki_types::ServerName;
use tokio::time::{sleep, timeout};
use tonic::{Code, ConnectError, Request, Status, TimeoutExpired, metadata::AsciiMetadataValue, transport::Channel};
use zeroize::Zeroizing;

use self::{
    connection::{ConnectFailed, channel},
    tls::client_config,
};
pub use self::{
    extras::{CaExtras, CaHeader},
    roots::{CaRoots, RootSets},
};
use super::status::said_by;
use crate::{
    domain::{
        identity::{ServiceAccount, SpiffeId},
        jwt::unverified_subject,
        x509::X509Svid,
    },
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
    /// Whose certificates are good whatever their names.
    identities: Vec<SpiffeId>,
    extras: CaExtras,
    token_file: PathBuf,
    roots: Arc<CaRoots>,
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
    roots: RootSets,
    channel: Channel,
}

/// What is asked of each address.
struct Asked<'a> {
    csr_pem: &'a str,
    ttl_seconds: i64,
    /// Of the sources, now.
    roots: RootSets,
    /// The bearer token, or why there is none.
    bearer: Result<AsciiMetadataValue, String>,
}

/// A replica holds a request for 10 s while nobody is active, and is not given up before it says so.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(12);
/// Another one may know better meanwhile, so it is asked as well.
const PATIENCE: Duration = Duration::from_secs(2);

impl CaClient {
    /// A client that asks `endpoints` in order, beginning with the one that answered last. The bearer token, and the roots
    /// that the CA's own certificate is verified to, are read anew for each call: whoever delivers them replaces them. It
    /// has only the token as proof until [`renew_by`](Self::renew_by).
    pub fn new(endpoints: Vec<CaEndpoint>, token_file: PathBuf, roots: impl Into<CaRoots>) -> Self {
        Self {
            channels: Mutex::new(vec![None; endpoints.len()]),
            endpoints,
            identities: Vec::new(),
            extras: CaExtras::default(),
            token_file,
            roots: Arc::new(roots.into()),
            identity: OnceLock::new(),
            last_good: AtomicUsize::new(0),
        }
    }

    /// Takes a CA that has one of these IDs for the right one, whatever its DNS names.
    #[must_use]
    pub fn accepting(self, identities: Vec<SpiffeId>) -> Self {
        Self { identities, ..self }
    }

    /// Sends `extras` with each request.
    #[must_use]
    pub fn sending(self, extras: CaExtras) -> Self {
        Self { extras, ..self }
    }

    /// Falls back to the SVID in `identity` from now on. Only the first call counts.
    pub fn renew_by(&self, identity: IdentityReceiver) {
        self.identity.get_or_init(|| identity);
    }

    /// Where the roots come from.
    pub fn roots(&self) -> Arc<CaRoots> {
        Arc::clone(&self.roots)
    }

    /// Asks one address after the other, the next one when there was a failure or no answer for a while. The first answer
    /// counts.
    async fn sign_anywhere(&self, csr_pem: &str, ttl_seconds: i64) -> Result<SignedChain, SignError> {
        let no_roots = |absence| SignError::NotDetected(format!("no roots to verify one by: {absence}"));
        let roots = self.roots.newest().await.map_err(no_roots)?;
        let asked = &Asked { csr_pem, ttl_seconds, roots, bearer: self.bearer().await };
        if let Err(unreadable) = &asked.bearer
            && self.svid().is_none()
        {
            return Err(SignError::NoProof(without_svid(unreadable)));
        }
        let first = self.last_good.load(Ordering::Relaxed);
        let count = self.endpoints.len();
        let mut others = (0..count).map(|offset| (first + offset) % count);
        let ask = |index| async move { (index, self.sign_at(index, asked).await) };
        let mut attempts: FuturesUnordered<_> = others.next().map(ask).into_iter().collect();
        let mut failures = Vec::new();
        while !attempts.is_empty() {
            let next = tokio::select! {
                Some((index, answer)) = attempts.next() => match answer {
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
            attempts.extend(next.map(ask));
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
        let nobody = failures.iter().all(|(_, error)| matches!(error, SignError::NotDetected(_)));
        let said: Vec<_> = failures
            .iter()
            .filter_map(|(index, error)| {
                let (SignError::Unavailable(said)
                | SignError::NotDetected(said)
                | SignError::NoProof(said)
                | SignError::Unauthenticated(said)
                | SignError::Refused(said)
                | SignError::Answer(said)) = error;
                Some(format!("{}: {said}", self.endpoints.get(*index)?.address))
            })
            .collect();
        let said = said.join("; ");
        match (refused, nobody) {
            (true, _) => SignError::Unauthenticated(said),
            (false, true) => SignError::NotDetected(said),
            (false, false) => SignError::Unavailable(said),
        }
    }

    async fn token(&self) -> Result<Zeroizing<String>, String> {
        let path = &self.token_file;
        match tokio::fs::read_to_string(path).await.map(Zeroizing::new) {
            Ok(token) if token.trim().is_empty() => Err(format!("token file {} is empty", path.display())),
            Ok(token) => Ok(Zeroizing::new(token.trim().to_owned())),
            Err(error) => Err(format!("token file {}: {error}", path.display())),
        }
    }

    async fn bearer(&self) -> Result<AsciiMetadataValue, String> {
        let bearer = Zeroizing::new(format!("Bearer {}", self.token().await?.as_str()));
        let no_token = || format!("token file {} holds characters that no token has", self.token_file.display());
        let mut bearer: AsciiMetadataValue = bearer.parse().map_err(|_not_ascii| no_token())?;
        bearer.set_sensitive(true);
        Ok(bearer)
    }

    fn request(&self, asked: &Asked<'_>, bearer: Option<&AsciiMetadataValue>) -> Request<IstioCertificateRequest> {
        let mut request = Request::new(IstioCertificateRequest {
            csr: asked.csr_pem.to_owned(),
            validity_duration: asked.ttl_seconds,
            metadata: self.extras.message_metadata(),
        });
        self.extras.add_to(request.metadata_mut());
        if let Some(bearer) = bearer {
            request.metadata_mut().insert("authorization", bearer.clone());
        }
        request
    }

    /// The token first, on a channel without a certificate: a CA that can't verify the certificate would end the connection.
    async fn sign_at(&self, index: usize, asked: &Asked<'_>) -> Result<SignedChain, SignError> {
        let refusal = match &asked.bearer {
            Ok(bearer) => {
                let channel = self.kept_channel(index, &asked.roots)?;
                let answer = match call(channel.clone(), self.request(asked, Some(bearer))).await {
                    // a kept connection may have died unnoticed; the channel makes another one
                    Err(status) if broke_off(&status) => call(channel, self.request(asked, Some(bearer))).await,
                    answer => answer,
                };
                match signed(answer) {
                    Err(SignError::Unauthenticated(refusal)) => refusal,
                    answer => return answer,
                }
            }
            Err(unreadable) => unreadable.clone(),
        };
        let Some(svid) = self.svid() else {
            // it may have expired since the token turned out to be unreadable
            let error = if asked.bearer.is_ok() { SignError::Unauthenticated } else { SignError::NoProof };
            return Err(error(without_svid(&refusal)));
        };
        let channel = self.channel(index, &asked.roots, Some(&svid))?;
        signed(call(channel, self.request(asked, None)).await)
    }

    /// The channel that is kept for an address, made anew when the roots have changed.
    fn kept_channel(&self, index: usize, roots: &RootSets) -> Result<Channel, SignError> {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        match channels.get_mut(index) {
            Some(Some(kept)) if kept.roots == *roots => Ok(kept.channel.clone()),
            Some(place) => {
                let channel = self.channel(index, roots, None)?;
                *place = Some(KeptChannel { roots: roots.clone(), channel: channel.clone() });
                Ok(channel)
            }
            None => Err(no_address()),
        }
    }

    fn channel(&self, index: usize, roots: &RootSets, svid: Option<&X509Svid>) -> Result<Channel, SignError> {
        let CaEndpoint { address, server_name } = self.endpoints.get(index).ok_or_else(no_address)?;
        let server_name = ServerName::try_from(server_name.clone())
            .map_err(|_malformed| SignError::Unavailable(format!("{server_name:?} is no name of a server")))?;
        let tls = client_config(&self.roots, roots, &self.identities, svid).map_err(SignError::Unavailable)?;
        channel(address, server_name, Arc::new(tls), ATTEMPT_LIMIT).map_err(SignError::Unavailable)
    }

    fn svid(&self) -> Option<Arc<X509Svid>> {
        self.identity.get()?.borrow().as_ref()?.svid.clone()
    }
}

impl CertificateAuthority for CaClient {
    fn sign<'a>(&'a self, csr_pem: &'a str, ttl_seconds: i64) -> BoxFuture<'a, Result<SignedChain, SignError>> {
        Box::pin(self.sign_anywhere(csr_pem, ttl_seconds))
    }

    fn subject(&self) -> BoxFuture<'_, Option<ServiceAccount>> {
        Box::pin(async { self.token().await.ok().and_then(|token| unverified_subject(&token)) })
    }
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

/// Whether nobody was there to be asked.
fn met_nobody(status: &Status) -> bool {
    let nobody = |cause: &ConnectFailed| matches!(cause, ConnectFailed::Nobody(_));
    causes(status).any(|cause| cause.downcast_ref().is_some_and(nobody))
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
    let said = || said_by(status);
    if met_nobody(status) {
        return SignError::NotDetected(said());
    }
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
