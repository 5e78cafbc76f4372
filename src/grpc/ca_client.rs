//! The client of an Istio CA: a Countersign pair, or istiod.

pub(in crate::grpc) mod connection;
mod extras;
mod heard;
mod order;
mod proof;
mod question;
mod roots;
#[cfg(test)]
mod tests;
pub(in crate::grpc) mod tls;

use std::{
    error::Error,
    io,
    iter::successors,
    path::PathBuf,
    sync::{Arc, Mutex, OnceLock},
    time::Duration,
};

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio::time::{Instant, sleep};
use tonic::{Code, ConnectError, Request, Status, TimeoutExpired, metadata::MetadataMap, transport::Channel};

use self::{connection::ConnectFailed, order::Order, proof::Proof, question::Taken};
pub use self::{
    extras::{CaExtras, CaHeader},
    roots::{CaRoots, RootSets},
};
use super::status::said_by;
use crate::{
    domain::{
        clock::Clock,
        identity::{ServiceAccount, SpiffeId},
        jwt::unverified_subject,
    },
    proto::istio::v1::auth::IstioCertificateRequest,
    service::{
        ports::{BoxFuture, CertificateAuthority, SignError, SignedChain},
        svid_publisher::IdentityReceiver,
    },
};
pub(in crate::grpc) use heard::Heard;
pub(in crate::grpc) use question::Question;

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
    order: Order,
    /// Whether streams are left open, so that a connection that has died under one must be noticed.
    keeps_streams: bool,
    /// One per address.
    channels: Mutex<Vec<Option<KeptChannel>>>,
    /// What certificates of CAs are judged by.
    clock: Arc<dyn Clock>,
}

/// A channel, and the roots that it was made with.
struct KeptChannel {
    roots: RootSets,
    channel: Channel,
    made: u64,
    used: Instant,
}

/// A replica holds a request for 10 s while nobody is active, and is not given up before it says so.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(12);
/// Another one may know better meanwhile, so it is asked as well.
const PATIENCE: Duration = Duration::from_secs(2);

impl CaClient {
    /// A client that asks `endpoints` in order, but last those that have failed lately. The bearer token, and the roots
    /// that the CA's own certificate is verified to, are read anew for each call: whoever delivers them replaces them. It
    /// has only the token as proof until [`renew_by`](Self::renew_by). Certificates are verified at the time of `clock`.
    pub fn new(
        endpoints: Vec<CaEndpoint>,
        token_file: PathBuf,
        roots: impl Into<CaRoots>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            clock,
            channels: Mutex::new(endpoints.iter().map(|_endpoint| None).collect()),
            order: Order::of(endpoints.len()),
            keeps_streams: false,
            endpoints,
            identities: Vec::new(),
            extras: CaExtras::default(),
            token_file,
            roots: Arc::new(roots.into()),
            identity: OnceLock::new(),
        }
    }

    /// The same for replicas of a pair at `endpoints`, of whom streams are asked: verified by the same roots and identities, with
    /// the same proofs, and nothing else sent.
    #[must_use]
    pub fn at(&self, endpoints: Vec<CaEndpoint>) -> Self {
        Self {
            channels: Mutex::new(endpoints.iter().map(|_endpoint| None).collect()),
            order: Order::of(endpoints.len()),
            keeps_streams: true,
            endpoints,
            identities: self.identities.clone(),
            extras: CaExtras::default(),
            token_file: self.token_file.clone(),
            roots: Arc::clone(&self.roots),
            identity: self.identity.clone(),
            clock: Arc::clone(&self.clock),
        }
    }

    /// The same for another identity, which the token in this file proves.
    #[must_use]
    pub fn with_token(&self, token_file: PathBuf) -> Self {
        let endpoints = self.endpoints.clone();
        Self {
            token_file,
            extras: self.extras.clone(),
            identity: OnceLock::new(),
            keeps_streams: self.keeps_streams,
            ..self.at(endpoints)
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

    /// Puts what is sent with each request into the metadata of another one.
    pub(in crate::grpc) fn add_extras(&self, metadata: &mut MetadataMap) {
        self.extras.add_to(metadata);
    }

    /// Asks one address after the other: the next one when there was a failure, or neither an answer nor word that one is coming
    /// for a while. The first answer that is accepted counts.
    ///
    /// # Errors
    ///
    /// What each of them said.
    pub(in crate::grpc) async fn ask_anywhere<T, U, F>(
        &self,
        call: impl Fn(Question) -> F + Sync,
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
        let mut others = self.order.now().into_iter();
        let taken: Vec<Taken> = self.endpoints.iter().map(|_endpoint| Taken::default()).collect();
        let (call, accept, taken) = (&call, &accept, &taken);
        let ask = |index| async move {
            let taken = taken.get(index).cloned().unwrap_or_default();
            (index, self.ask_at(index, proof, &taken, call).await.and_then(accept))
        };
        let mut next = others.next();
        let (mut attempts, mut silent, mut failures) = (FuturesUnordered::new(), Vec::new(), Vec::new());
        loop {
            silent.extend(next);
            attempts.extend(next.map(ask));
            if attempts.is_empty() {
                return Err(self.nowhere(failures));
            }
            next = tokio::select! {
                Some((index, answer)) = attempts.next() => {
                    silent.retain(|other| *other != index);
                    match answer {
                        Ok(answer) => {
                            silent.into_iter().for_each(|other| self.order.failed(other));
                            self.order.answered(index);
                            return Ok(answer);
                        }
                        Err(error @ SignError::Refused(_)) => return Err(error),
                        Err(error) => {
                            self.order.failed(index);
                            failures.push((index, error));
                            others.next()
                        }
                    }
                }
                () = sleep(PATIENCE), if others.len() > 0 => {
                    // whoever has taken the request answers in time or says that it can't
                    if taken.iter().any(Taken::is_taken) { None } else { others.next() }
                }
            };
        }
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
        let call = move |question: Question| {
            let mut request = Request::new(IstioCertificateRequest {
                csr: csr_pem.to_owned(),
                validity_duration: ttl_seconds,
                metadata: self.extras.message_metadata(),
            });
            self.extras.add_to(request.metadata_mut());
            question.create_certificate(request)
        };
        Box::pin(self.ask_anywhere(call, SignedChain::from_elements))
    }

    fn unusable(&self) {
        self.order.unusable();
    }

    fn subject(&self) -> BoxFuture<'_, Option<ServiceAccount>> {
        Box::pin(async { self.token().await.ok().and_then(|token| unverified_subject(&token)) })
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
