//! The state as the holder of a term works with it: what is in effect, and changes of it, one at a time. A change is durable
//! before it is in effect.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::watch;

use super::{
    AuthorityReceiver, Origin, StateSettings, authority_of, certificate_of,
    content::{StoredAuthority, TrustContent, encoded},
    load_trust,
    slots::PhaseContent,
    unusable,
};
use crate::{
    domain::{
        authority::SigningAuthority, clock::Timestamp, identity::TrustDomain, jwt::JwtSigner, leadership::Term,
        x509::TrustBundle,
    },
    service::{
        ports::{StateError, StateObject, StateStore},
        published_trust::{PublishedTrust, TrustReceiver},
    },
};

/// What signs JWT-SVIDs; `None` while nothing does.
pub type JwtSignerReceiver = watch::Receiver<Option<Arc<JwtSigner>>>;

/// The state under one term. Whatever is asked of it once a later term has claimed the state, or the store is closed, fails.
pub struct TermState {
    starting: Starting,
    trust_domain: TrustDomain,
    settings: StateSettings,
    authority: watch::Sender<Arc<SigningAuthority>>,
    trust: watch::Sender<Option<Arc<PublishedTrust>>>,
    jwt_signer: watch::Sender<Option<Arc<JwtSigner>>>,
}

/// What a term state writes with.
pub(super) struct Starting {
    pub(super) store: Arc<dyn StateStore>,
    pub(super) term: Term,
    pub(super) origin: Origin,
    pub(super) changing: Arc<Mutex<()>>,
}

/// Both objects as they were read, or will be once they are written.
pub(super) struct Objects {
    pub(super) authority_version: u64,
    pub(super) authority: StoredAuthority,
    pub(super) trust_version: u64,
    pub(super) trust: TrustContent,
}

impl TermState {
    pub(super) fn claimed(
        starting: Starting,
        objects: &Objects,
        authority: Arc<SigningAuthority>,
        trust_domain: &TrustDomain,
        settings: StateSettings,
    ) -> Result<Self, StateError> {
        Ok(Self {
            authority: watch::Sender::new(authority),
            trust: watch::Sender::new(Some(Arc::new(objects.trust.published(trust_domain, settings.refresh_hint)?))),
            jwt_signer: watch::Sender::new(objects.jwt_signer()?.map(Arc::new)),
            trust_domain: trust_domain.clone(),
            starting,
            settings,
        })
    }

    /// What signs. A plugged-in authority is its owner's to replace, also before anything here has heard of it.
    pub fn authority(&self) -> AuthorityReceiver {
        match &self.starting.origin {
            Origin::PluggedIn(authority) => authority.clone(),
            Origin::SelfSigned => self.authority.subscribe(),
        }
    }

    /// What others verify by.
    pub fn trust(&self) -> TrustReceiver {
        self.trust.subscribe()
    }

    /// What signs JWT-SVIDs.
    pub fn jwt_signer(&self) -> JwtSignerReceiver {
        self.jwt_signer.subscribe()
    }

    /// Publishes the roots that a plugged-in authority has now, if they are others than before. Blocks.
    ///
    /// # Errors
    ///
    /// When the state can't be written: nothing else is published then.
    pub fn publish_plugged_in(&self) -> Result<(), StateError> {
        let Origin::PluggedIn(authority) = &self.starting.origin else { return Ok(()) };
        let is_published = |trust: &Option<Arc<PublishedTrust>>| {
            let trust = trust.as_ref();
            trust.is_some_and(|trust| trust.own.x509_authorities == authority.borrow().bundle().roots())
        };
        if is_published(&self.trust.borrow()) {
            return Ok(());
        }
        self.change(|objects| objects.publish(&self.starting.origin, &self.trust_domain))
    }

    /// Reads both objects, has them changed, writes the trust object if that is changed, and puts what is published into effect.
    fn change<E: From<StateError>>(&self, change: impl FnOnce(&mut Objects) -> Result<bool, E>) -> Result<(), E> {
        let Starting { store, term, changing, .. } = &self.starting;
        let _one_at_a_time = changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut objects = Objects::load(store.as_ref())?;
        if change(&mut objects)? {
            objects.write_trust(store.as_ref(), *term)?;
            let published = objects.trust.published(&self.trust_domain, self.settings.refresh_hint)?;
            self.trust.send_replace(Some(Arc::new(published)));
        }
        Ok(())
    }
}

impl TermState {
    /// The trust object as it is stored. Blocks.
    pub(super) fn stored_trust(&self) -> Result<TrustContent, StateError> {
        let gone = || StateError::Unusable("there is no trust object in the state".into());
        load_trust(self.starting.store.as_ref())?.map(|(_, trust)| trust).ok_or_else(gone)
    }

    /// Reads the trust object, has it changed, writes it if that was done, and puts what is published into effect: of what
    /// concerns the own authorities nothing may be changed so.
    pub(super) fn change_trust<E: From<StateError>>(
        &self,
        change: impl FnOnce(&mut TrustContent) -> Result<bool, E>,
    ) -> Result<(), E> {
        let Starting { store, term, changing, .. } = &self.starting;
        let _one_at_a_time = changing.lock().unwrap_or_else(PoisonError::into_inner);
        let gone = || StateError::Unusable("there is no trust object in the state".into());
        let (version, mut trust) = load_trust(store.as_ref())?.ok_or_else(gone)?;
        if change(&mut trust)? {
            let published = trust.published(&self.trust_domain, self.settings.refresh_hint)?;
            store.compare_and_swap(StateObject::Trust, version, *term, &encoded(&trust)?)?;
            self.trust.send_replace(Some(Arc::new(published)));
        }
        Ok(())
    }
}

impl fmt::Debug for TermState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TermState({})", self.starting.term)
    }
}

impl Objects {
    fn load(store: &dyn StateStore) -> Result<Self, StateError> {
        let gone = || StateError::Unusable("an object of the state is not there".into());
        let stored = store.load(StateObject::Authority)?.ok_or_else(gone)?;
        let authority = StoredAuthority::decode(&stored.content)?;
        let (trust_version, trust) = load_trust(store)?.ok_or_else(gone)?;
        Ok(Self { authority_version: stored.version, authority, trust_version, trust })
    }

    /// Has the trust object say what the authorities are. Returns whether it says anything new.
    pub(super) fn publish(&mut self, origin: &Origin, trust_domain: &TrustDomain) -> Result<bool, StateError> {
        let bundle = match (origin, &self.authority) {
            (Origin::PluggedIn(authority), _) => authority.borrow().bundle().clone(),
            (Origin::SelfSigned, StoredAuthority::Own(stored)) if self.trust_version == 0 => {
                TrustBundle::new(trust_domain.clone(), vec![certificate_of(stored)?])
                    .map_err(|error| unusable(&error))?
            }
            (Origin::SelfSigned, _) => self.trust.bundle(trust_domain)?,
        };
        let signers = self.jwt_signers()?;
        let keys: Vec<_> = signers.iter().map(|(_, signer)| signer.authority()).collect();
        Ok(self.trust.publish(&bundle, &keys))
    }

    /// What signs by these objects, once they are written.
    pub(super) fn signing_authority(
        &self,
        origin: &Origin,
        trust_domain: &TrustDomain,
        now: Timestamp,
    ) -> Result<Arc<SigningAuthority>, StateError> {
        match (origin, &self.authority) {
            (Origin::PluggedIn(authority), _) => Ok(Arc::clone(&authority.borrow())),
            (Origin::SelfSigned, StoredAuthority::Own(stored)) => {
                authority_of(stored, self.trust.bundle(trust_domain)?, now).map(Arc::new)
            }
            (Origin::SelfSigned, StoredAuthority::PluggedIn(_)) => Err(unusable(&"it is plugged in")),
        }
    }

    fn jwt_signers(&self) -> Result<Vec<(PhaseContent, JwtSigner)>, StateError> {
        self.authority.rotation().map_or_else(|| Ok(Vec::new()), |rotation| rotation.jwt_signers())
    }

    fn jwt_signer(&self) -> Result<Option<JwtSigner>, StateError> {
        let signers = self.jwt_signers()?.into_iter();
        Ok(signers.into_iter().find_map(|(phase, signer)| (phase == PhaseContent::Active).then_some(signer)))
    }

    pub(super) fn write_authority(&mut self, store: &dyn StateStore, term: Term) -> Result<(), StateError> {
        let content = self.authority.encoded()?;
        self.authority_version =
            store.compare_and_swap(StateObject::Authority, self.authority_version, term, &content)?;
        Ok(())
    }

    pub(super) fn write_trust(&mut self, store: &dyn StateStore, term: Term) -> Result<(), StateError> {
        let content = encoded(&self.trust)?;
        self.trust_version = store.compare_and_swap(StateObject::Trust, self.trust_version, term, &content)?;
        Ok(())
    }
}
