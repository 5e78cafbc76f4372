//! The state that a term signs from: claimed for the term, then the signing authority read from it, or made if there has
//! never been one. Of a plugged-in authority the state holds only that there is one (docs/decisions/0009).

mod content;
mod imported;
mod pair;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::watch;

pub use self::imported::{ImportError, ImportedState, InItsPlace, ReplacementRefused};
use self::{
    content::{AuthorityContent, PairContent, PluggedInContent, StoredAuthority, TrustContent, encoded},
    pair::{is_usable, new_pair},
};
use super::{
    authority_backup::{Backup, BackupError},
    ports::{StateError, StateObject, StateStore},
};
use crate::domain::{
    attestation::Denied,
    authority::SigningAuthority,
    clock::{Clock, Timestamp},
    identity::TrustDomain,
    leadership::Term,
    random::SecureRandom,
    x509::{Certificate, PrivateKey, TrustBundle},
};

pub use self::pair::pair_authority;

/// Opens the store. In the embedded form that may be done only while the pair's lock is held.
pub type OpenStore = Box<dyn Fn() -> Result<Arc<dyn StateStore>, StateError> + Send + Sync>;

/// The authority that signs: the same one for ever, or always the latest of those that are plugged in.
pub type AuthorityReceiver = watch::Receiver<Arc<SigningAuthority>>;

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
    /// Every object bears the term now.
    Claimed(ClaimedState),
    /// Some object bears a term that is not lower.
    Refused {
        /// The highest of them.
        highest: Term,
    },
}

/// What signing in a term begins with.
#[derive(Clone, Debug)]
pub struct ClaimedState {
    /// Signs.
    pub authority: AuthorityReceiver,
    /// To whom it doesn't.
    pub denied: Denied,
}

/// Why what is denied was not changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// One more would leave too little room for the rest of the object.
    #[error(
        "the denied identities and serials would take {size} bytes of the state, at most {MAX_DENIED_BYTES} are possible: \
         allow those again that need not be denied any more, as a serial whose certificate has expired, or give shorter \
         reasons"
    )]
    Full {
        /// What they would take.
        size: usize,
    },
    /// The store refused or failed.
    #[error("{error}{then}", error = .0, then = what_then(.0))]
    State(#[from] StateError),
}

/// What is damaged has said what to do, and a restart would only lose what the active still remembers.
const fn what_then(error: &StateError) -> &'static str {
    match error {
        StateError::Damaged(_) | StateError::Unusable(_) => "",
        StateError::Conflict { .. } | StateError::Fenced { .. } | StateError::Io(_) => {
            ": run the command again; if that fails too, restart the active replica, which then reads what is on record"
        }
    }
}

/// As istiod's own root: ten years.
const ROOT_LIFETIME: Duration = Duration::from_secs(3650 * 24 * 3600);
/// Of the 24 KiB that an object may have; the rest is the bundle's, which must have room for the roots of a rotation.
const MAX_DENIED_BYTES: usize = 16 << 10;

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
        if term == Term::EXHAUSTED {
            return Err(StateError::Unusable(
                "no term is left: somebody has set the highest there is by hand; take Lease and state, or the data directory, \
                 away and put a backup of before in their place with `countersign authority import`"
                    .into(),
            ));
        }
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
        let stored = store.load(StateObject::Authority)?;
        let stored =
            stored.map(|stored| Ok((stored.version, StoredAuthority::decode(&stored.content)?))).transpose()?;
        if let Some((_, stored)) = &stored {
            self.check_trust_domain(stored.trust_domain())?;
        }
        let claimed = self.signing_from(store, term, stored.as_ref().map(|(_, stored)| stored))?;
        if let Some((version, stored)) = stored {
            self.ensure_pair(store, term, version, stored)?;
        }
        Ok(Claim::Claimed(claimed))
    }

    fn signing_from(
        &self,
        store: &dyn StateStore,
        term: Term,
        stored: Option<&StoredAuthority>,
    ) -> Result<ClaimedState, StateError> {
        match (&self.origin, stored) {
            (Origin::SelfSigned, Some(StoredAuthority::Own(own))) => self.read(store, term, own),
            (Origin::SelfSigned, None) => Ok(ClaimedState::own(self.make(store, term)?, Denied::default())),
            (Origin::PluggedIn(authority), Some(StoredAuthority::PluggedIn(_))) => {
                let trust = load_trust(store)?;
                let denied = trust.map(|(_, trust)| trust.denied()).transpose()?.unwrap_or_default();
                Ok(ClaimedState { authority: authority.clone(), denied })
            }
            (Origin::PluggedIn(authority), None) => {
                self.write_first(store, term, StoredAuthority::PluggedIn(PluggedInContent::new(&self.trust_domain)))?;
                Ok(ClaimedState { authority: authority.clone(), denied: Denied::default() })
            }
            (Origin::SelfSigned, Some(StoredAuthority::PluggedIn(_))) => Err(StateError::Unusable(
                "the stored state is that of a plugged-in authority: set caDir, or use another dataDir or namespace"
                    .into(),
            )),
            (Origin::PluggedIn(_), Some(StoredAuthority::Own(_))) => Err(StateError::Unusable(
                "the stored state has a root of its own: leave caDir out, or use another dataDir or namespace".into(),
            )),
        }
    }

    /// The first content of the authority object, with a pair authority from the beginning.
    fn write_first(&self, store: &dyn StateStore, term: Term, mut first: StoredAuthority) -> Result<(), StateError> {
        first.set_pair(self.make_pair()?);
        store.compare_and_swap(StateObject::Authority, 0, term, &first.encoded()?).map(drop)
    }

    /// Nothing but replicas believes a pair authority, so one that is missing or of no use any more is made anew.
    fn ensure_pair(
        &self,
        store: &dyn StateStore,
        term: Term,
        version: u64,
        mut stored: StoredAuthority,
    ) -> Result<(), StateError> {
        if stored.pair().is_some_and(|pair| is_usable(pair, &self.trust_domain, self.clock.now())) {
            return Ok(());
        }
        stored.set_pair(self.make_pair()?);
        store.compare_and_swap(StateObject::Authority, version, term, &stored.encoded()?).map(drop)
    }

    fn make_pair(&self) -> Result<PairContent, StateError> {
        new_pair(&self.trust_domain, self.clock.now(), self.random.as_ref())
    }

    fn check_trust_domain(&self, stored: &str) -> Result<(), StateError> {
        if stored == self.trust_domain.as_str() {
            return Ok(());
        }
        Err(StateError::Unusable(format!(
            "trustDomain is {}, but the stored authority is that of {stored}: set that one, or use another dataDir or namespace",
            self.trust_domain
        )))
    }

    /// Changes what is denied, under a claimed term. `change` gives what shall be denied from now on; that is durable when
    /// this returns.
    ///
    /// # Errors
    ///
    /// When a later term has begun, the store is closed or fails, or there is no room: nothing is changed then, except that
    /// after [`StateError::Io`] only the next claim knows what the disk holds.
    pub fn change_denied(&self, term: Term, change: impl FnOnce(&mut Denied)) -> Result<Denied, ChangeError> {
        // never opens the store: who closes it does so before the lock is released, and must have the last word
        let store = self.store.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let store = store.ok_or_else(|| StateError::Io("the state store is closed".into()))?;
        let (version, mut trust) = match (load_trust(store.as_ref())?, &self.origin) {
            (Some(stored), _) => stored,
            // with a plugged-in authority the first denial is the first thing to be kept
            (None, Origin::PluggedIn(_)) => (0, TrustContent::without_bundle()),
            (None, Origin::SelfSigned) => {
                return Err(StateError::Unusable("there is no trust object in the state".into()).into());
            }
        };
        let mut denied = trust.denied()?;
        change(&mut denied);
        let size = trust.set_denied(&denied)?;
        if size > MAX_DENIED_BYTES {
            return Err(ChangeError::Full { size });
        }
        store.compare_and_swap(StateObject::Trust, version, term, &encoded(&trust)?)?;
        Ok(denied)
    }

    /// All that the open store holds, as it was acknowledged under `term`.
    ///
    /// # Errors
    ///
    /// When the store is closed, holds nothing, or can't be read.
    pub fn backup(&self, term: Term) -> Result<Backup, BackupError> {
        let store = self.store.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Backup::of(store.ok_or_else(|| StateError::Io("the state store is closed".into()))?.as_ref(), term)
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
        let content = AuthorityContent::new(&self.trust_domain, authority.certificate().to_pem(), key.to_pem());
        self.write_first(store, term, StoredAuthority::Own(content))?;
        write_bundle(store, term, authority.bundle())?;
        Ok(authority)
    }

    fn read(&self, store: &dyn StateStore, term: Term, stored: &AuthorityContent) -> Result<ClaimedState, StateError> {
        let (bundle, denied) = match load_trust(store)? {
            Some((_, trust)) => (trust.bundle(&self.trust_domain)?, trust.denied()?),
            // killed between the first two writes of all
            None => {
                let bundle = TrustBundle::new(self.trust_domain.clone(), vec![certificate_of(stored)?])
                    .map_err(|error| unusable(&error))?;
                write_bundle(store, term, &bundle)?;
                (bundle, Denied::default())
            }
        };
        Ok(ClaimedState::own(authority_of(stored, bundle, self.clock.now())?, denied))
    }
}

impl ClaimedState {
    /// Of an authority that stays the same.
    pub fn own(authority: impl Into<Arc<SigningAuthority>>, denied: Denied) -> Self {
        let (_never_another, authority) = watch::channel(authority.into());
        Self { authority, denied }
    }
}

/// The fingerprint of the signing certificate in the authority object's content; the store's manifest keeps it, so that a
/// root can't be replaced unnoticed. None of a plugged-in authority, whose root is somebody else's to replace.
pub fn root_of(content: &[u8]) -> Option<String> {
    let Ok(StoredAuthority::Own(stored)) = StoredAuthority::decode(content) else { return None };
    let certificate = Certificate::all_from_pem(stored.certificate.as_bytes()).ok()?.into_iter().next()?;
    Some(certificate.fingerprint().iter().map(|byte| format!("{byte:02x}")).collect())
}

fn authority_of(
    stored: &AuthorityContent,
    bundle: TrustBundle,
    now: Timestamp,
) -> Result<SigningAuthority, StateError> {
    let key = PrivateKey::from_pem(stored.key.as_bytes()).map_err(|error| unusable(&error))?;
    let chain = match stored.chain.as_slice() {
        [] => Vec::new(),
        chain => Certificate::all_from_pem(chain.concat().as_bytes()).map_err(|error| unusable(&error))?,
    };
    SigningAuthority::from_parts(certificate_of(stored)?, &key, chain, bundle, now).map_err(|error| unusable(&error))
}

fn certificate_of(stored: &AuthorityContent) -> Result<Certificate, StateError> {
    let certificates = Certificate::all_from_pem(stored.certificate.as_bytes()).map_err(|error| unusable(&error))?;
    let [certificate] = certificates.try_into().map_err(|_other_number| unusable(&"it is not one certificate"))?;
    Ok(certificate)
}

fn unusable(what: &dyn std::fmt::Display) -> StateError {
    StateError::Unusable(format!("the stored signing authority: {what}"))
}

fn load_trust(store: &dyn StateStore) -> Result<Option<(u64, TrustContent)>, StateError> {
    let stored = store.load(StateObject::Trust)?;
    stored.map(|stored| Ok((stored.version, TrustContent::decode(&stored.content)?))).transpose()
}

fn write_bundle(store: &dyn StateStore, term: Term, bundle: &TrustBundle) -> Result<(), StateError> {
    store.compare_and_swap(StateObject::Trust, 0, term, &encoded(&TrustContent::new(bundle))?).map(drop)
}
