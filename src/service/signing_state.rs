//! The state that a term signs from: claimed for the term, then the signing authority read from it, or made if there has
//! never been one. Of a plugged-in authority the state holds only that there is one (docs/decisions/0009).

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use zeroize::Zeroizing;

use super::{
    ports::{StateError, StateObject, StateStore},
    signing_session::AuthorityReceiver,
};
use crate::domain::{
    authority::SigningAuthority,
    clock::Clock,
    identity::TrustDomain,
    leadership::Term,
    random::SecureRandom,
    x509::{Certificate, PrivateKey, TrustBundle},
};

/// Opens the store. In the embedded form that may be done only while the pair's lock is held.
pub type OpenStore = Box<dyn Fn() -> Result<Arc<dyn StateStore>, StateError> + Send + Sync>;

/// Where the signing authority comes from.
#[derive(Clone, Debug)]
pub enum Origin {
    /// Made here, and kept in the state.
    SelfSigned,
    /// Kept by somebody else.
    PluggedIn(AuthorityReceiver),
}

/// The use case; blocking throughout.
pub struct SigningState {
    open: OpenStore,
    store: Mutex<Option<Arc<dyn StateStore>>>,
    origin: Origin,
    trust_domain: TrustDomain,
    clock: Arc<dyn Clock>,
    random: Arc<dyn SecureRandom>,
}

/// What came of claiming a term.
#[derive(Debug)]
pub enum Claim {
    /// Every object bears the term now; this signs in it.
    Claimed(AuthorityReceiver),
    /// Some object bears a term that is not lower.
    Refused {
        /// The highest of them.
        highest: Term,
    },
}

/// As istiod's own root: ten years.
const ROOT_LIFETIME: Duration = Duration::from_secs(3650 * 24 * 3600);

impl SigningState {
    /// Opens the store with `open` at the first claim.
    pub fn new(
        open: OpenStore,
        origin: Origin,
        trust_domain: TrustDomain,
        clock: Arc<dyn Clock>,
        random: Arc<dyn SecureRandom>,
    ) -> Self {
        Self { open, store: Mutex::new(None), origin, trust_domain, clock, random }
    }

    /// Claims `term` in every object, then reads the signing authority, or makes it where no object was ever written.
    ///
    /// # Errors
    ///
    /// When the store can't be used, or holds another trust domain's authority.
    pub fn claim(&self, term: Term) -> Result<Claim, StateError> {
        let claim = self.opened().and_then(|store| self.claim_in(store.as_ref(), term));
        if matches!(claim, Err(StateError::Io(_))) {
            // nobody knows what the disk holds now: the next claim opens the store anew and sees
            self.close();
        }
        claim
    }

    fn claim_in(&self, store: &dyn StateStore, term: Term) -> Result<Claim, StateError> {
        match store.claim(term) {
            Ok(()) => {}
            Err(StateError::Fenced { found, .. }) => return Ok(Claim::Refused { highest: found }),
            Err(error) => return Err(error),
        }
        let stored = store.load(StateObject::Authority)?.map(|stored| Stored::decode(&stored.content)).transpose()?;
        if let Some(stored) = &stored {
            self.check_trust_domain(stored.trust_domain())?;
        }
        match (&self.origin, stored) {
            (Origin::SelfSigned, Some(Stored::Own(own))) => Ok(claimed(self.read(store, term, &own)?)),
            (Origin::SelfSigned, None) => Ok(claimed(self.make(store, term)?)),
            (Origin::PluggedIn(authority), Some(Stored::PluggedIn(_))) => Ok(Claim::Claimed(authority.clone())),
            (Origin::PluggedIn(authority), None) => {
                let content = PluggedInContent { format: PLUGGED_IN, trust_domain: self.trust_domain.to_string() };
                store.compare_and_swap(StateObject::Authority, 0, term, &encoded(&content)?)?;
                Ok(Claim::Claimed(authority.clone()))
            }
            (Origin::SelfSigned, Some(Stored::PluggedIn(_))) => Err(StateError::Unusable(
                "the data directory was used with a plugged-in authority: set caDir, or use another dataDir".into(),
            )),
            (Origin::PluggedIn(_), Some(Stored::Own(_))) => Err(StateError::Unusable(
                "the data directory holds a root of its own: leave caDir out, or use another dataDir".into(),
            )),
        }
    }

    fn check_trust_domain(&self, stored: &str) -> Result<(), StateError> {
        if stored == self.trust_domain.as_str() {
            return Ok(());
        }
        Err(StateError::Unusable(format!(
            "trustDomain is {}, but the data directory holds the authority of {stored}: set that one, or use another dataDir",
            self.trust_domain
        )))
    }

    /// Closes the store, so that another process may open it.
    pub fn close(&self) {
        if let Some(store) = self.store.lock().unwrap_or_else(PoisonError::into_inner).take() {
            store.close();
        }
    }

    fn opened(&self) -> Result<Arc<dyn StateStore>, StateError> {
        let mut store = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        match store.as_ref() {
            Some(store) => Ok(Arc::clone(store)),
            None => Ok(Arc::clone(store.insert((self.open)()?))),
        }
    }

    fn make(&self, store: &dyn StateStore, term: Term) -> Result<SigningAuthority, StateError> {
        let (authority, key) =
            SigningAuthority::self_signed(&self.trust_domain, ROOT_LIFETIME, self.clock.now(), self.random.as_ref())
                .map_err(|error| StateError::Io(error.to_string()))?;
        let content = AuthorityContent {
            format: FORMAT,
            trust_domain: self.trust_domain.to_string(),
            certificate: authority.certificate().to_pem(),
            key: key.to_pem(),
            chain: Vec::new(),
        };
        store.compare_and_swap(StateObject::Authority, 0, term, &encoded(&content)?)?;
        write_bundle(store, term, authority.bundle())?;
        Ok(authority)
    }

    fn read(
        &self,
        store: &dyn StateStore,
        term: Term,
        stored: &AuthorityContent,
    ) -> Result<SigningAuthority, StateError> {
        let unusable = |what: String| StateError::Unusable(format!("the stored signing authority: {what}"));
        let certificates =
            Certificate::all_from_pem(stored.certificate.as_bytes()).map_err(|e| unusable(e.to_string()))?;
        let [certificate] =
            certificates.try_into().map_err(|_other_number| unusable("it is not one certificate".into()))?;
        let key = PrivateKey::from_pem(stored.key.as_bytes()).map_err(|e| unusable(e.to_string()))?;
        let chain = Certificate::all_from_pem(stored.chain.concat().as_bytes());
        let chain = if stored.chain.is_empty() { Vec::new() } else { chain.map_err(|e| unusable(e.to_string()))? };
        let bundle = match store.load(StateObject::Trust)? {
            Some(trust) => TrustContent::decode(&trust.content)?.bundle(&self.trust_domain).map_err(unusable)?,
            // killed between the first two writes of all
            None => {
                let bundle = TrustBundle::new(self.trust_domain.clone(), vec![certificate.clone()])
                    .map_err(|e| unusable(e.to_string()))?;
                write_bundle(store, term, &bundle)?;
                bundle
            }
        };
        SigningAuthority::from_parts(certificate, &key, chain, bundle, self.clock.now())
            .map_err(|e| unusable(e.to_string()))
    }
}

fn claimed(authority: SigningAuthority) -> Claim {
    let (_never_another, authority) = watch::channel(Arc::new(authority));
    Claim::Claimed(authority)
}

/// The fingerprint of the signing certificate in the authority object's content; the store's manifest keeps it, so that a
/// root can't be replaced unnoticed. None of a plugged-in authority, whose root is somebody else's to replace.
pub fn root_of(content: &[u8]) -> Option<String> {
    let Ok(Stored::Own(stored)) = Stored::decode(content) else { return None };
    let certificate = Certificate::all_from_pem(stored.certificate.as_bytes()).ok()?.into_iter().next()?;
    Some(certificate.fingerprint().iter().map(|byte| format!("{byte:02x}")).collect())
}

const FORMAT: u32 = 1;
/// A number of its own, so that a version which knows only roots of its own refuses the state and makes none.
const PLUGGED_IN: u32 = 2;

/// The authority object.
enum Stored {
    Own(AuthorityContent),
    PluggedIn(PluggedInContent),
}

#[derive(Deserialize)]
struct Header {
    format: u32,
}

#[derive(Serialize, Deserialize)]
struct PluggedInContent {
    format: u32,
    trust_domain: String,
}

#[derive(Serialize, Deserialize)]
struct AuthorityContent {
    format: u32,
    trust_domain: String,
    certificate: String,
    key: Zeroizing<String>,
    /// Intermediates that are sent above a leaf, PEM; none for a root of our own.
    chain: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct TrustContent {
    format: u32,
    /// Grows with each change of the bundle.
    sequence: u64,
    bundle: String,
}

impl Stored {
    fn decode(content: &[u8]) -> Result<Self, StateError> {
        match decoded(content)? {
            Header { format: FORMAT } => decoded(content).map(Self::Own),
            Header { format: PLUGGED_IN } => decoded(content).map(Self::PluggedIn),
            Header { format } => Err(newer(format, PLUGGED_IN)),
        }
    }

    fn trust_domain(&self) -> &str {
        match self {
            Self::Own(stored) => &stored.trust_domain,
            Self::PluggedIn(stored) => &stored.trust_domain,
        }
    }
}

impl TrustContent {
    fn decode(content: &[u8]) -> Result<Self, StateError> {
        match decoded(content)? {
            Header { format: FORMAT } => decoded(content),
            Header { format } => Err(newer(format, FORMAT)),
        }
    }

    fn bundle(&self, trust_domain: &TrustDomain) -> Result<TrustBundle, String> {
        TrustBundle::from_pem(trust_domain.clone(), self.bundle.as_bytes()).map_err(|error| error.to_string())
    }
}

fn write_bundle(store: &dyn StateStore, term: Term, bundle: &TrustBundle) -> Result<(), StateError> {
    let content = TrustContent { format: FORMAT, sequence: 1, bundle: bundle.to_pem() };
    store.compare_and_swap(StateObject::Trust, 0, term, &encoded(&content)?).map(drop)
}

fn encoded(content: &impl Serialize) -> Result<Zeroizing<Vec<u8>>, StateError> {
    serde_json::to_vec(content).map(Zeroizing::new).map_err(|error| StateError::Io(error.to_string()))
}

fn decoded<'a, T: Deserialize<'a>>(content: &'a [u8]) -> Result<T, StateError> {
    // the error names line and column, never the content
    serde_json::from_slice(content)
        .map_err(|error| StateError::Unusable(format!("a stored object can't be read: {error}")))
}

fn newer(format: u32, known: u32) -> StateError {
    StateError::Unusable(format!("a stored object has format {format}, this version reads {known}"))
}
