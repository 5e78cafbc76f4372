//! The state as the holder of a term works with it: what is in effect, and changes of it, one at a time. A change is durable
//! before it is in effect, and what could not be signed with is never written.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio::sync::watch;

use super::{
    AuthorityReceiver, JWT_KEY_LIFETIME, MeshRoots, Origin, ROOT_LIFETIME, StateSettings,
    content::TrustContent,
    load_trust,
    objects::{KindState, MAX_AUTHORITIES, NewAuthority, Objects},
};
use crate::{
    domain::{
        authority::{
            SigningAuthority,
            rotation::{Authorities, HandedOut, Step},
        },
        clock::{Clock, Timestamp},
        identity::TrustDomain,
        jwt::JwtSigner,
        leadership::Term,
        random::SecureRandom,
    },
    service::{
        ports::{AuthorityKind, StateError, StateStore, WantedStep},
        published_trust::{PublishedTrust, TrustReceiver},
    },
};

/// What signs JWT-SVIDs; `None` while nothing does.
pub type JwtSignerReceiver = watch::Receiver<Option<Arc<JwtSigner>>>;

/// The state under one term. Whatever is asked of it once a later term has claimed the state, or the store is closed, fails.
pub struct TermState {
    parts: Parts,
    /// `None` where istiod signs certificates.
    authority: Option<watch::Sender<Arc<SigningAuthority>>>,
    trust: watch::Sender<Option<Arc<PublishedTrust>>>,
    jwt_signer: watch::Sender<Option<Arc<JwtSigner>>>,
    handed_out: ArcSwap<HandedOut>,
}

/// What a term state works with.
pub(super) struct Parts {
    pub(super) store: Arc<dyn StateStore>,
    pub(super) term: Term,
    pub(super) is_first: bool,
    pub(super) origin: Origin,
    pub(super) trust_domain: TrustDomain,
    pub(super) settings: StateSettings,
    pub(super) changing: Arc<Mutex<()>>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) random: Arc<dyn SecureRandom>,
}

/// How much of the objects a change has touched.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Touched {
    Nothing,
    Marks,
    Authorities,
    /// What is kept of other trust domains, of which nothing is published.
    Kept,
    /// What is published of other trust domains.
    Federated,
}

/// A key goes on signing until the state is written that says that it doesn't.
const JWT_SLACK: Duration = Duration::from_secs(60);

impl TermState {
    pub(super) fn claimed(
        parts: Parts,
        objects: &Objects,
        authority: Option<Arc<SigningAuthority>>,
    ) -> Result<Self, StateError> {
        let published = objects.trust.published(&parts.trust_domain, parts.settings.refresh_hint)?;
        Ok(Self {
            authority: authority.map(watch::Sender::new),
            trust: watch::Sender::new(Some(Arc::new(published))),
            jwt_signer: watch::Sender::new(objects.jwt_signer()?.map(Arc::new)),
            handed_out: ArcSwap::from_pointee(objects.handed_out()),
            parts,
        })
    }

    /// Which.
    pub const fn term(&self) -> Term {
        self.parts.term
    }

    /// Whether there was no state before it, and so nobody who went by any.
    pub const fn is_first(&self) -> bool {
        self.parts.is_first
    }

    /// The mesh's roots as they are known here, where istiod signs: [`Self::settle`] publishes them.
    pub fn mesh_roots(&self) -> Option<MeshRoots> {
        match &self.parts.origin {
            Origin::Istiod(roots) => Some(roots.clone()),
            Origin::SelfSigned | Origin::PluggedIn(_) => None,
        }
    }

    /// What signs certificates; `None` where istiod does. A plugged-in authority is its owner's to replace, also before anything here
    /// has heard of it.
    pub fn authority(&self) -> Option<AuthorityReceiver> {
        match &self.parts.origin {
            Origin::PluggedIn(authority) => Some(authority.clone()),
            Origin::SelfSigned | Origin::Istiod(_) => Some(self.authority.as_ref()?.subscribe()),
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

    /// Whether it is on record that a leaf of this end may be out, signed by `authority` and answered with the bundle of
    /// `sequence`. Answered from memory.
    pub fn has_on_record(&self, authority: &str, sequence: u64, end: Timestamp) -> bool {
        !matches!(self.parts.origin, Origin::SelfSigned) || self.handed_out.load().covers(authority, sequence, end)
    }

    /// Puts on record that leaves up to `end` may be out, and a quarter of `lifetime` longer, so that it is seldom asked. Blocks.
    ///
    /// # Errors
    ///
    /// When the state can't be written: such a leaf must not leave then.
    pub fn reserve(
        &self,
        authority: &str,
        sequence: u64,
        end: Timestamp,
        lifetime: Duration,
    ) -> Result<(), StateError> {
        let now = self.parts.clock.now();
        self.change(|objects| {
            if objects.handed_out().covers(authority, sequence, end) {
                return Ok(Touched::Nothing);
            }
            objects.hand_out(authority, sequence, end.plus(lifetime / 4), now);
            Ok(Touched::Marks)
        })
    }

    /// Whether authorities of this kind are rotated here: one that is plugged in is its owner's to rotate.
    pub const fn rotates(&self, kind: AuthorityKind) -> bool {
        matches!((kind, &self.parts.origin), (AuthorityKind::Jwt, _) | (_, Origin::SelfSigned))
    }

    /// The authorities of one kind. Blocks.
    ///
    /// # Errors
    ///
    /// When the state can't be read, or the authority is plugged in or istiod's.
    pub fn kind_state(&self, kind: AuthorityKind) -> Result<KindState, StateError> {
        self.check_is_here(kind)?;
        let mut objects = Objects::load(self.parts.store.as_ref())?;
        objects.publish(&self.parts.origin, &self.parts.trust_domain, self.parts.term, self.parts.clock.now())?;
        objects.kind_state(kind)
    }

    /// Takes a step if `decide` says so: it is given where the authorities stand and the step, and says where they stand after
    /// it, or `None` for not taking it. Blocks.
    ///
    /// # Errors
    ///
    /// What `decide` says, and when the state can't be read or written: no step was taken then, or whether it was will be known
    /// when the state is read again.
    pub fn step<E: From<StateError>>(
        &self,
        kind: AuthorityKind,
        wanted: &WantedStep,
        decide: impl FnOnce(&KindState, &Step) -> Result<Option<Authorities>, E>,
    ) -> Result<(), E> {
        self.check_is_here(kind)?;
        let now = self.parts.clock.now();
        self.change(|objects| {
            // others may have changed the state first
            let signed_until = self.parts.clock.now().plus(JWT_SLACK);
            let state = objects.kind_state(kind)?;
            let (step, new) = match wanted {
                WantedStep::Prepare => {
                    if state.authorities.slots().len() >= MAX_AUTHORITIES {
                        return Err(StateError::Unusable(format!(
                            "there are {MAX_AUTHORITIES} authorities already: revoke old ones first"
                        ))
                        .into());
                    }
                    let (step, new) = self.make(kind, now)?;
                    (step, Some(new))
                }
                WantedStep::Activate(id) => (Step::Activate(id.clone()), None),
                WantedStep::Taint(id) => (Step::Taint(id.clone()), None),
                WantedStep::Revoke(id) => (Step::Revoke(id.clone()), None),
            };
            let Some(after) = decide(&state, &step)? else { return Ok(Touched::Nothing) };
            if let Some(new) = new {
                objects.add(&new, now);
            }
            objects.stand(kind, &after, signed_until, self.parts.settings.jwt_ttl)?;
            Ok(Touched::Authorities)
        })
    }

    /// Brings to its end what was begun, as by a process that was killed between two writes; publishes the roots that a
    /// plugged-in authority has now; and reserves ahead what the next leaves need. Writes nothing if there is nothing to be
    /// done. Blocks.
    ///
    /// # Errors
    ///
    /// When the state can't be written.
    pub fn settle(&self) -> Result<(), StateError> {
        let now = self.parts.clock.now();
        self.change(|objects| {
            let ttl = self.parts.settings.default_ttl;
            let Some(authority) = self.signs().map(|authority| authority.id().to_owned()) else {
                return Ok(Touched::Nothing);
            };
            let sequence = objects.trust.sequence();
            if self.has_on_record(&authority, sequence, now.plus(ttl + ttl / 8)) {
                return Ok(Touched::Nothing);
            }
            objects.hand_out(&authority, sequence, now.plus(ttl + ttl / 4), now);
            Ok(Touched::Marks)
        })
    }

    /// Puts on record that everybody has the key of JWT-SVIDs of this name, which is prepared. Blocks.
    ///
    /// # Errors
    ///
    /// When the state can't be read or written.
    pub fn reach_all(&self, key_id: &str) -> Result<(), StateError> {
        self.change(|objects| Ok(if objects.reach_all(key_id)? { Touched::Marks } else { Touched::Nothing }))
    }

    fn check_is_here(&self, kind: AuthorityKind) -> Result<(), StateError> {
        match (kind, &self.parts.origin) {
            (AuthorityKind::X509, Origin::Istiod(_)) => Err(StateError::Unusable(
                "istiod signs the certificates of this mesh: what rotates its authority is a change of istiod's own; of this pair there \
                 are the keys of JWT-SVIDs (`countersign authority jwt`)"
                    .into(),
            )),
            _ => Ok(()),
        }
    }

    fn make(&self, kind: AuthorityKind, now: Timestamp) -> Result<(Step, NewAuthority), StateError> {
        let failed = |error: &dyn fmt::Display| StateError::Io(error.to_string());
        let Parts { trust_domain, random, .. } = &self.parts;
        Ok(match kind {
            AuthorityKind::X509 => {
                let (authority, key) = SigningAuthority::self_signed(trust_domain, ROOT_LIFETIME, now, random.as_ref())
                    .map_err(|error| failed(&error))?;
                let certificate = authority.certificate().clone();
                let step = Step::Prepare { id: authority.id().to_owned(), not_after: certificate.not_after() };
                (step, NewAuthority::X509(certificate, key))
            }
            AuthorityKind::Jwt => {
                let end = Timestamp::from_seconds(now.plus(JWT_KEY_LIFETIME).seconds());
                let signer = JwtSigner::generate(end).map_err(|error| failed(&error))?;
                let step = Step::Prepare { id: signer.key_id().to_owned(), not_after: end };
                (step, NewAuthority::Jwt(Box::new(signer)))
            }
        })
    }

    /// Reads both objects, has them changed, writes what is another one, and puts it into effect. The trust object follows the
    /// authority object, so it is written after it: whoever is killed between the two leaves that to the next change.
    fn change<E: From<StateError>>(&self, change: impl FnOnce(&mut Objects) -> Result<Touched, E>) -> Result<(), E> {
        let Parts { store, term, origin, trust_domain, settings, changing, clock, .. } = &self.parts;
        let _one_at_a_time = changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut objects = Objects::load(store.as_ref())?;
        let mut was_behind = objects.publish(origin, trust_domain, *term, clock.now())?;
        let lacks_room = was_behind && objects.check_room().is_err();
        if lacks_room {
            // what others are told of the own authorities stays as it was until there is room, which a change may make
            objects.load_trust(store.as_ref())?;
            was_behind = false;
        }
        let touched = change(&mut objects)?;
        let is_beside = lacks_room && matches!(touched, Touched::Kept | Touched::Federated);
        if is_beside && objects.has_unpublished()? {
            // the next number is that of a bundle which has it
            return Err(E::from(StateError::Unusable(
                "an authority is not published yet for which there is no room".into(),
            )));
        }
        let is_published_anew = !is_beside && objects.publish(origin, trust_domain, *term, clock.now())? || was_behind;
        if touched == Touched::Federated && !is_published_anew {
            objects.trust.raise_sequence();
        }
        let is_news = is_published_anew || touched == Touched::Federated;
        let now = clock.now();
        // also what a write has changed whose answer never came
        let is_signing_anew = touched == Touched::Authorities || is_published_anew || !self.signs_by(&objects)?;
        let authority = if is_signing_anew { objects.signing_authority(origin, trust_domain, now)? } else { None };
        let own_authority = authority.as_ref().filter(|_| matches!(origin, Origin::SelfSigned));
        if let Some(authority) = own_authority {
            let ttl = settings.default_ttl;
            objects.hand_out(authority.id(), objects.trust.sequence(), now.plus(ttl + ttl / 4), now);
        }
        let published = objects.trust.published(trust_domain, settings.refresh_hint)?;
        let jwt_signer = objects.jwt_signer()?;
        if is_published_anew {
            objects.check_room()?;
        }
        if matches!(touched, Touched::Marks | Touched::Authorities) || own_authority.is_some() {
            objects.write_authority(store.as_ref(), *term)?;
        }
        self.handed_out.store(Arc::new(objects.handed_out()));
        if is_news || touched == Touched::Kept {
            objects.write_trust(store.as_ref(), *term)?;
        }
        // whoever signs takes the sequence first, then the authority: what it puts on record is never too new a sequence
        if let (Some(signs), Some(authority)) = (&self.authority, authority) {
            signs.send_replace(authority);
        }
        if is_signing_anew {
            self.jwt_signer.send_replace(jwt_signer.map(Arc::new));
        }
        let is_told = self.trust.borrow().as_ref().is_some_and(|told| told.sequence() == published.sequence());
        if is_news || !is_told {
            self.trust.send_replace(Some(Arc::new(published)));
        }
        Ok(())
    }
}

impl TermState {
    fn signs(&self) -> Option<Arc<SigningAuthority>> {
        Some(Arc::clone(&self.authority.as_ref()?.borrow()))
    }

    /// Whether those sign that do so by these objects.
    fn signs_by(&self, objects: &Objects) -> Result<bool, StateError> {
        let (authority, jwt) = objects.active_ids()?;
        let is_own = matches!(self.parts.origin, Origin::SelfSigned);
        let signs_x509 = !is_own || authority.as_deref() == self.signs().as_deref().map(SigningAuthority::id);
        Ok(signs_x509 && jwt.as_deref() == self.jwt_signer.borrow().as_ref().map(|signer| signer.key_id()))
    }

    /// The trust object as it is stored. Blocks.
    pub(super) fn stored_trust(&self) -> Result<TrustContent, StateError> {
        let gone = || StateError::Unusable("there is no trust object in the state".into());
        load_trust(self.parts.store.as_ref())?.map(|(_, trust)| trust).ok_or_else(gone)
    }

    /// Has what is kept of other trust domains changed; `change` says whether it did so. The sequence grows if others are believed
    /// after it, and not with a partner's own sequence: two that read each other would raise theirs in turn for ever.
    pub(super) fn change_federation<E: From<StateError>>(
        &self,
        change: impl FnOnce(&mut TrustContent) -> Result<bool, E>,
    ) -> Result<(), E> {
        self.change(|objects| {
            let before = objects.trust.federation().bundles()?;
            if !change(&mut objects.trust)? {
                return Ok(Touched::Nothing);
            }
            let after = objects.trust.federation().bundles()?;
            let is_as_before = before.len() == after.len()
                && before.iter().zip(&after).all(|(before, after)| before.believes_the_same(after));
            Ok(if is_as_before { Touched::Kept } else { Touched::Federated })
        })
    }
}

impl fmt::Debug for TermState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TermState({})", self.parts.term)
    }
}
