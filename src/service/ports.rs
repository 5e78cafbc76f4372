//! What the use cases need from outside. Each trait has one implementation per kind of surroundings.

mod istiod;
mod jwt;
mod pair;
mod rotation;

use std::{future::Future, pin::Pin};

use zeroize::Zeroizing;

pub use self::istiod::{AskError, Istiod, IstiodAddress, IstiodAddresses, PassedRequest, WayToIstiod};
pub use self::jwt::{JwtMinter, JwtSvidRequest, MintedJwtSvid, NotMinted};
pub use self::pair::{
    ActiveReplica, ByActive, Candidate, DenialChange, ForwardError, LeaseHolder, OperatorOfActive, OrderError, Pair,
    PairDirectory, PairEndpoint,
};
pub use self::rotation::{
    AuthorityKind, AuthorityReport, Followers, RotationOfActive, RotationOrder, RotationReport, WantedStep,
};
use crate::domain::{
    attestation::{ReviewStatus, UnfinishedPods},
    authority::AuthorityFiles,
    identity::{ServiceAccount, SpiffeId},
    issuance::IssuanceEvent,
    leadership::Term,
    x509::{Certificate, CertificateChain, CertificateError, ChainError, TrustBundle, VerifiedCsr, X509Svid},
};

/// A boxed future, so that ports can be held as trait objects.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The shared state of a pair: a few small objects, each changed only by compare-and-swap under a term.
pub trait StateStore: Send + Sync {
    /// Raises the term of every object from a lower one to `term`, durably.
    ///
    /// # Errors
    ///
    /// [`StateError::Fenced`] with the highest term found, when one is not lower; and when the store can't be used.
    fn claim(&self, term: Term) -> Result<(), StateError>;

    /// Writes out what is open and lets go of the store. Everything after that fails.
    fn close(&self);

    /// Reads an object; `None` if it was never written.
    ///
    /// # Errors
    ///
    /// When the store can't be read, or what it holds is damaged.
    fn load(&self, object: StateObject) -> Result<Option<Versioned>, StateError>;

    /// Writes an object if its version is still `expected` (0: not there yet) and no higher term has claimed it. Durable
    /// when it returns. Returns the new version. Blocks: call it off the runtime.
    ///
    /// # Errors
    ///
    /// When somebody else wrote, a higher term has claimed, or the write failed.
    fn compare_and_swap(
        &self,
        object: StateObject,
        expected: u64,
        term: Term,
        content: &[u8],
    ) -> Result<u64, StateError>;
}

/// A store that keeps in memory what a replica held last, beyond the end of its term: all that is left of a state whose objects
/// are gone.
pub trait KeptState: Send + Sync {
    /// What was held last, if what is stored was found to be damaged just now. Blocks: call it off the runtime.
    fn kept_if_lost(&self) -> Option<Kept>;
}

/// What a replica held when its term ended.
#[derive(Clone)]
pub struct Kept {
    /// That term.
    pub term: Term,
    /// The authority object.
    pub authority: Versioned,
    /// The trust object, if it was ever written.
    pub trust: Option<Versioned>,
}

/// The longest content of an object, in bytes: what every store can keep, so that a state can move from one to another.
pub const MAX_OBJECT_BYTES: usize = 24 << 10;

/// The objects of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StateObject {
    /// Signing authorities and their keys.
    Authority,
    /// Trust bundle, its sequence, denied identities.
    Trust,
}

/// An object as it was read.
#[derive(Clone)]
pub struct Versioned {
    /// Grows with each write.
    pub version: u64,
    /// The term that wrote it.
    pub term: Term,
    /// What was written. Holds keys, so it is wiped when dropped.
    pub content: Zeroizing<Vec<u8>>,
}

/// Why the store did not do what was asked. Texts name the recovery command where one is needed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// The version was another.
    #[error("{object:?} was changed by another writer: version {found}, not {expected}")]
    Conflict {
        /// What was to be written.
        object: StateObject,
        /// Version seen before.
        expected: u64,
        /// Version there now.
        found: u64,
    },
    /// A later term owns the object.
    #[error("term {found} has claimed the state, term {own} has ended")]
    Fenced {
        /// The writer's.
        own: Term,
        /// The one in the store.
        found: Term,
    },
    /// What is stored can't be trusted. Never answered with a new root.
    #[error("{0}")]
    Damaged(String),
    /// What is stored is whole, but can't be used as it is, or not with this configuration.
    #[error("{0}")]
    Unusable(String),
    /// The write or read failed.
    #[error("the state store failed: {0}")]
    Io(String),
}

/// Where a plugged-in signing authority lies.
pub trait AuthoritySource: Send + Sync {
    /// Reads the whole set, once, as it is now; not complete if somebody is just replacing it. Blocks: call it off the
    /// runtime.
    ///
    /// # Errors
    ///
    /// Names what can't be read.
    fn read(&self) -> Result<AuthorityFiles, SourceError>;
}

/// Why the files of a signing authority could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}: {problem}")]
pub struct SourceError {
    /// The file, or the place where all of them should be.
    pub file: String,
    /// What is wrong with it.
    pub problem: String,
}

/// The record of what was signed. One writer each.
pub trait IssuanceLog: Send + Sync {
    /// Appends; resolves when the event is durable.
    fn append(&self, event: IssuanceEvent) -> BoxFuture<'_, Result<(), LogError>>;
}

/// Why an event is not on record. Issuing stops then.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the issuance log can't be written: {0}")]
pub struct LogError(pub String);

/// An API server that is asked whom a token speaks for.
pub trait TokenReviewer: Send + Sync {
    /// Asks once. Whoever calls bounds the time.
    ///
    /// # Errors
    ///
    /// When there is no answer to be had: never because of the token.
    fn review<'a>(
        &'a self,
        token: &'a str,
        audiences: &'a [String],
    ) -> BoxFuture<'a, Result<ReviewStatus, ReviewUnavailable>>;
}

/// Why a token could not be reviewed, in words that its caller may read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ReviewUnavailable(pub String);

/// The pods of a cluster, as far as they keep a service account in use.
pub trait PodPresence: Send + Sync {
    /// Whether `account` has a pod that has not finished. Answered from memory.
    fn unfinished_pods(&self, account: &ServiceAccount) -> UnfinishedPods;
}

/// What an SVID has to stand before it is published.
pub trait SelfCheck: Send + Sync {
    /// Has it speak with itself, as two workloads would that have it.
    ///
    /// # Errors
    ///
    /// Why it can't, in words.
    fn check(&self, svid: &X509Svid, bundle: &TrustBundle) -> Result<(), String>;
}

/// A certificate authority as the gateway's side sees it: Countersign's pair, istiod, or the signer in the same process.
pub trait CertificateAuthority: Send + Sync {
    /// Has a request signed. Returns the chain without the root, and the roots as they came, PEM.
    fn sign<'a>(&'a self, csr_pem: &'a str, ttl_seconds: i64) -> BoxFuture<'a, Result<SignedChain, SignError>>;

    /// Whom the proof speaks for, if that can be told beforehand. The request names it then: some authorities insist on that.
    fn subject(&self) -> BoxFuture<'_, Option<ServiceAccount>> {
        Box::pin(std::future::ready(None))
    }

    /// Its last answer could not be used. An authority at several addresses turns to another one.
    fn unusable(&self) {}
}

/// The answer of a certificate authority.
#[derive(Clone, Debug)]
pub struct SignedChain {
    /// Leaf and intermediates.
    pub chain: CertificateChain,
    /// The last element: all roots, PEM.
    pub roots_pem: String,
}

impl SignedChain {
    /// From the PEM elements of a response: the leaf, each intermediate, and last the roots, which are left as they are.
    ///
    /// # Errors
    ///
    /// When there are fewer than two elements, or one before the last is not certificates.
    pub fn from_elements(mut elements: Vec<String>) -> Result<Self, SignError> {
        let answer = |what: &str| SignError::Answer(what.to_owned());
        let roots_pem = elements.pop().ok_or_else(|| answer("the chain is empty"))?;
        let certificates = elements
            .iter()
            .map(|element| Certificate::all_from_pem(element.as_bytes()))
            .collect::<Result<Vec<_>, CertificateError>>()
            .map_err(|error| SignError::Answer(error.to_string()))?;
        let chain = CertificateChain::new(certificates.into_iter().flatten().collect())
            .map_err(|error: ChainError| SignError::Answer(error.to_string()))?;
        Ok(Self { chain, roots_pem })
    }
}

/// Why a request was not signed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// Nobody could be reached, or nobody could sign just now.
    #[error("no certificate authority answered: {0}")]
    Unavailable(String),
    /// Nobody is there at all, or nothing yet to verify one by.
    #[error("IstioNotDetected: no certificate authority is there yet: {0}")]
    NotDetected(String),
    /// There is nothing to ask with: nobody was asked.
    #[error("there is no proof of identity to ask a certificate authority with: {0}")]
    NoProof(String),
    /// The proof was refused.
    #[error("the certificate authority refused the proof of identity: {0}")]
    Unauthenticated(String),
    /// The request was refused.
    #[error("the certificate authority refused the request: {0}")]
    Refused(String),
    /// The answer made no sense.
    #[error("the certificate authority's answer can't be used: {0}")]
    Answer(String),
}

/// What a caller asks to have signed.
#[derive(Clone, Debug)]
pub struct SigningRequest {
    /// PKCS#10, PEM.
    pub csr: String,
    /// Seconds; zero and below ask for the default.
    pub ttl_seconds: i64,
    /// The identity to impersonate; empty if none.
    pub impersonated: String,
}

impl SigningRequest {
    /// As a caller sent it. Of what is too long to be of use no more is kept than shows that.
    pub fn new(csr: String, ttl_seconds: i64, impersonated: String) -> Self {
        let csr = cut(csr, VerifiedCsr::MAX_PEM_BYTES + char::MAX_LEN_UTF8);
        Self { csr, ttl_seconds, impersonated: cut(impersonated, SpiffeId::MAX_BYTES + char::MAX_LEN_UTF8) }
    }
}

/// At most so many `bytes` of it, at least that many less those of one character.
fn cut(mut text: String, bytes: usize) -> String {
    if text.len() > bytes {
        text.truncate(text.floor_char_boundary(bytes));
        text.shrink_to_fit();
    }
    text
}
