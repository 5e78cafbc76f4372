//! The client of an Istio CA: a Countersign pair, or istiod.

mod connection;
mod extras;
mod proof;
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
        Arc, Mutex, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio::time::{sleep, timeout};
use tonic::{Code, ConnectError, Request, Status, TimeoutExpired, metadata::AsciiMetadataValue, transport::Channel};

use self::{connection::ConnectFailed, proof::Proof};
pub use self::{
    extras::{CaExtras, CaHeader},
    roots::{CaRoots, RootSets},
};
use super::status::said_by;
use crate::{
    domain::{
        identity::{ServiceAccount, SpiffeId},
        jwt::unverified_subject,
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

    /// The same for others at `endpoints`: verified by the same roots and identities, with the same proofs, and nothing else
    /// sent.
    #[must_use]
    pub fn at(&self, endpoints: Vec<CaEndpoint>) -> Self {
        Self {
            channels: Mutex::new(vec![None; endpoints.len()]),
            endpoints,
            identities: self.identities.clone(),
            extras: CaExtras::default(),
            token_file: self.token_file.clone(),
            roots: Arc::clone(&self.roots),
            identity: self.identity.clone(),
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
    /// that is accepted counts.
    ///
    /// # Errors
    ///
    /// What each of them said.
    pub(in crate::grpc) async fn ask_anywhere<T, U, F>(
        &self,
        call: impl Fn(Channel, Option<AsciiMetadataValue>) -> F + Sync,
        accept: impl Fn(T) -> Result<U, SignError> + Sync,
    ) -> Result<U, SignError>
    where
        T: Send,
        U: Send,
        F: Future<Output = Result<T, Status>> + Send,
    {
        let no_roots = |absence| SignError::NotDetected(format!("no roots to verify one by: {absence}"));
        let proof = &Proof { roots: self.roots.newest().await.map_err(no_roots)?, bearer: self.bearer().await };
        if let Err(unreadable) = &proof.bearer
            && self.svid().is_none()
        {
            return Err(SignError::NoProof(without_svid(unreadable)));
        }
        let first = self.last_good.load(Ordering::Relaxed);
        let count = self.endpoints.len();
        let mut others = (0..count).map(|offset| (first + offset) % count);
        let (call, accept) = (&call, &accept);
        let ask = |index| async move { (index, self.ask_at(index, proof, call).await.and_then(accept)) };
        let mut attempts: FuturesUnordered<_> = others.next().map(ask).into_iter().collect();
        let mut failures = Vec::new();
        while !attempts.is_empty() {
            let next = tokio::select! {
                Some((index, answer)) = attempts.next() => match answer {
                    Ok(answer) => {
                        self.last_good.store(index, Ordering::Relaxed);
                        return Ok(answer);
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
}

impl CertificateAuthority for CaClient {
    fn sign<'a>(&'a self, csr_pem: &'a str, ttl_seconds: i64) -> BoxFuture<'a, Result<SignedChain, SignError>> {
        let call = move |channel, bearer: Option<AsciiMetadataValue>| {
            let mut request = Request::new(IstioCertificateRequest {
                csr: csr_pem.to_owned(),
                validity_duration: ttl_seconds,
                metadata: self.extras.message_metadata(),
            });
            self.extras.add_to(request.metadata_mut());
            authorize(&mut request, bearer);
            create(channel, request)
        };
        Box::pin(self.ask_anywhere(call, SignedChain::from_elements))
    }

    fn subject(&self) -> BoxFuture<'_, Option<ServiceAccount>> {
        Box::pin(async { self.token().await.ok().and_then(|token| unverified_subject(&token)) })
    }
}

async fn create(channel: Channel, request: Request<IstioCertificateRequest>) -> Result<Vec<String>, Status> {
    // the endpoint's own limit ends with the head of the answer
    let mut client = IstioCertificateServiceClient::new(channel);
    let response = timeout(ATTEMPT_LIMIT, client.create_certificate(request)).await;
    let response = response.map_err(|_elapsed| Status::deadline_exceeded("no whole answer"))??;
    Ok(response.into_inner().cert_chain)
}

/// Brings the token with a request, if there is one to bring.
pub(in crate::grpc) fn authorize<T>(request: &mut Request<T>, bearer: Option<AsciiMetadataValue>) {
    if let Some(bearer) = bearer {
        request.metadata_mut().insert("authorization", bearer);
    }
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
