//! The state that a term signs from: claimed for the term, then the signing authority read from it, or made if there has
//! never been one. Of a plugged-in authority the state holds only that there is one (docs/decisions/0009).

mod claimed;
mod content;
mod federation;
mod imported;
mod json;
mod marks;
mod objects;
mod origin;
mod pair;
mod partner_changes;
mod settings;
mod slots;
mod stored;
mod term_state;
mod unknown_fields;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tracing::warn;

pub use self::{
    claimed::ClaimedState,
    federation::{Partners, PartnersError, check_room_for},
    imported::{ImportError, ImportedState, InItsPlace, ReplacementRefused},
    objects::KindState,
    origin::{AuthorityReceiver, MeshRoots, MeshRootsReceiver, Origin},
    pair::pair_authority,
    settings::{LONGEST_JWT_TTL, StateSettings},
    stored::stored_trust,
    term_state::{JwtSignerReceiver, TermState},
};
use self::{
    content::{AuthorityContent, PluggedInContent, StoredAuthority, TrustContent, first_sequence},
    federation::MAX_FILLED_BYTES,
    json::encoded,
    objects::Objects,
    pair::{is_kept, new_pair},
    term_state::Parts,
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

/// Opens the store. In the embedded form that may be done only while the pair's lock is held.
pub type OpenStore = Box<dyn Fn() -> Result<Arc<dyn StateStore>, StateError> + Send + Sync>;

/// The use case; blocking throughout.
pub struct SigningState {
    open: OpenStore,
    store: Mutex<Option<Arc<dyn StateStore>>>,
    origin: Origin,
    trust_domain: TrustDomain,
    clock: Arc<dyn Clock>,
    random: Arc<dyn SecureRandom>,
    settings: StateSettings,
    /// Held over each read, change and write, so that changes of different kinds don't meet.
    changing: Arc<Mutex<()>>,
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

/// Why what is denied was not changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// One more would leave too little room for the rest of the object.
    #[error(
        "the denied identities and serials would take {size} bytes of the state, at most {MAX_DENIED_BYTES} are possible, and \
         less beside bundles of other trust domains: allow those again that need not be denied any more, as a serial whose \
         certificate has expired, or give shorter reasons"
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
/// A key of JWT-SVIDs has no certificate with an end, so it is given one.
const JWT_KEY_LIFETIME: Duration = Duration::from_secs(30 * 24 * 3600);
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
        let (settings, changing) = (StateSettings::default(), Arc::default());
        Self { open, store: Mutex::new(None), origin, trust_domain, clock, random, settings, changing }
    }

    /// The same with other settings.
    #[must_use]
    pub fn with_settings(self, settings: StateSettings) -> Self {
        Self { settings, ..self }
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
        let claim = self.opened().and_then(|store| self.claim_in(store, term));
        if matches!(claim, Err(StateError::Io(_))) {
            // nobody knows what the disk holds now: the next claim opens the store anew and sees
            self.close();
        }
        claim
    }

    fn claim_in(&self, store: Arc<dyn StateStore>, term: Term) -> Result<Claim, StateError> {
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
            self.origin.check(stored)?;
        }
        let is_new = stored.is_none();
        let (authority_version, authority) = match stored {
            Some(stored) => stored,
            None => (0, self.first()?),
        };
        let (trust_version, trust) =
            load_trust(store.as_ref())?.unwrap_or_else(|| (0, TrustContent::empty(self.clock.now())));
        if is_ahead(trust.sequence(), self.clock.now()) {
            warn!(event = "trust_sequence_ahead", sequence = trust.sequence());
        }
        let denied = trust.denied()?;
        let mut objects = Objects { authority_version, authority, trust_version, trust };
        let authority = self.complete(&mut objects, is_new, store.as_ref(), term)?;
        let parts = Parts {
            store,
            term,
            is_first: is_new,
            origin: self.origin.clone(),
            trust_domain: self.trust_domain.clone(),
            settings: self.settings,
            changing: Arc::clone(&self.changing),
            clock: Arc::clone(&self.clock),
            random: Arc::clone(&self.random),
        };
        let state = TermState::claimed(parts, &objects, authority)?;
        Ok(Claim::Claimed(ClaimedState::of(Arc::new(state), denied)))
    }

    /// Adds what is missing, as in what an older version wrote, or one that was killed between two writes; then writes what is
    /// new. What can't be signed with is not touched.
    fn complete(
        &self,
        objects: &mut Objects,
        is_new: bool,
        store: &dyn StateStore,
        term: Term,
    ) -> Result<Option<Arc<SigningAuthority>>, StateError> {
        let now = self.clock.now();
        // nothing but replicas believes a pair authority, so one that is missing or soon of no use is made anew
        let has_pair = objects.authority.pair().is_some_and(|pair| is_kept(pair, &self.trust_domain, now));
        if !has_pair {
            objects.authority.set_pair(new_pair(&self.trust_domain, now, self.random.as_ref())?);
        }
        let was_rotatable = objects.authority.rotation().is_some();
        let is_adopted = objects.adopt(&self.trust_domain, now)?;
        let is_allowed = objects.allow_jwt(self.settings.jwt_ttl);
        let mut is_new_trust = objects.publish(&self.origin, &self.trust_domain, term, now)?;
        if let (true, Err(error)) = (is_new_trust, objects.check_room()) {
            let (Origin::PluggedIn(_) | Origin::Istiod(_), Some((_, trust))) = (&self.origin, load_trust(store)?)
            else {
                return Err(error);
            };
            // somebody signs all the same: what others are told stays as it was until there is room
            warn!(event = "trust_not_published", %error);
            (objects.trust, is_new_trust) = (trust, false);
        }
        let is_replaced = objects.replace_ended(now)?;
        let authority = objects.signing_authority(&self.origin, &self.trust_domain, now)?;
        let is_restored = objects.mark_restored(now.plus(self.settings.max_ttl), now)?;
        let is_marked = match (&self.origin, &authority) {
            // who made this state, or another version meanwhile, put nothing on record
            (Origin::SelfSigned, Some(authority)) => {
                let StateSettings { default_ttl, max_ttl, .. } = self.settings;
                let longest = if is_new || was_rotatable { default_ttl } else { max_ttl };
                self.mark(objects, authority.id(), now.plus(longest), now)
            }
            _ => false,
        };
        if is_new || !has_pair || is_adopted || is_allowed || is_replaced || is_restored || is_marked {
            objects.write_authority(store, term)?;
        }
        if is_new_trust {
            objects.write_trust(store, term)?;
        }
        Ok(authority)
    }

    /// Leaves up to `end` may be out. Returns whether that was not on record.
    fn mark(&self, objects: &mut Objects, authority: &str, end: Timestamp, now: Timestamp) -> bool {
        let sequence = objects.trust.sequence();
        let is_missing = !objects.handed_out().covers(authority, sequence, end);
        if is_missing {
            objects.hand_out(authority, sequence, end.plus(self.settings.default_ttl / 4), now);
        }
        is_missing
    }

    /// The content of an authority object that was never written.
    fn first(&self) -> Result<StoredAuthority, StateError> {
        match &self.origin {
            Origin::PluggedIn(_) | Origin::Istiod(_) => {
                Ok(StoredAuthority::PluggedIn(PluggedInContent::new(&self.trust_domain)))
            }
            Origin::SelfSigned => {
                let (now, random) = (self.clock.now(), self.random.as_ref());
                let (authority, key) = SigningAuthority::self_signed(&self.trust_domain, ROOT_LIFETIME, now, random)
                    .map_err(|error| StateError::Io(error.to_string()))?;
                let certificate = authority.certificate().to_pem();
                Ok(StoredAuthority::Own(AuthorityContent::new(&self.trust_domain, certificate, key.to_pem())))
            }
        }
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
        let _one_at_a_time = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        // never opens the store: who closes it does so before the lock is released, and must have the last word
        let store = self.store.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let store = store.ok_or_else(|| StateError::Io("the state store is closed".into()))?;
        let no_trust = || StateError::Unusable("there is no trust object in the state".into());
        let (version, mut trust) = load_trust(store.as_ref())?.ok_or_else(no_trust)?;
        let mut denied = trust.denied()?;
        change(&mut denied);
        let filled = encoded(&trust)?.len();
        let size = trust.set_denied(&denied)?;
        let overflows = encoded(&trust)?.len() > MAX_FILLED_BYTES.max(filled);
        if size > MAX_DENIED_BYTES || overflows {
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
}

/// The fingerprint of the signing certificate in the authority object's content; the store's manifest keeps it, so that a
/// root can't be replaced unnoticed. None of a plugged-in authority, whose root is somebody else's to replace.
pub fn root_of(content: &[u8]) -> Option<String> {
    let Ok(StoredAuthority::Own(stored)) = StoredAuthority::decode(content) else { return None };
    let certificate = Certificate::all_from_pem(stored.certificate.as_bytes()).ok()?.into_iter().next()?;
    Some(certificate.fingerprint().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Whether a sequence stands for a time to come, which only a clock that is wrong, or was, makes of it: no change after it counts as
/// later for as long. Clocks of a pair may differ by a little.
fn is_ahead(sequence: u64, now: Timestamp) -> bool {
    sequence > first_sequence(now.plus(Duration::from_secs(60)))
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
    SigningAuthority::from_parts(one_certificate(&stored.certificate)?, &key, chain, bundle, now)
        .map_err(|error| unusable(&error))
}

fn one_certificate(pem: &str) -> Result<Certificate, StateError> {
    let certificates = Certificate::all_from_pem(pem.as_bytes()).map_err(|error| unusable(&error))?;
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

#[cfg(test)]
mod rotation_tests;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
