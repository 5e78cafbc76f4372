//! Both objects of the state together: what they say of the authorities of either kind, and how they change.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{
    JWT_KEY_LIFETIME, Origin, authority_of,
    content::{StoredAuthority, TrustContent},
    json::encoded,
    load_trust, one_certificate,
    slots::{ActiveContent, JwtKeyContent, RotationContent, SlotContent},
    unusable,
};
use crate::{
    domain::{
        authority::{
            SigningAuthority, authority_id,
            rotation::{Authorities, AuthorityId, HandedOut, Phase, Slot, Step},
        },
        clock::Timestamp,
        identity::TrustDomain,
        jwt::JwtSigner,
        leadership::Term,
        x509::{Certificate, PrivateKey, TrustBundle},
    },
    service::ports::{AuthorityKind, MAX_OBJECT_BYTES, StateError, StateObject, StateStore},
};

/// Both as they were read, or will be once they are written.
pub(super) struct Objects {
    pub(super) authority_version: u64,
    pub(super) authority: StoredAuthority,
    pub(super) trust_version: u64,
    pub(super) trust: TrustContent,
}

/// The authorities of one kind.
#[derive(Clone, Debug)]
pub struct KindState {
    /// Which there are.
    pub authorities: Authorities,
    /// What of theirs is still out.
    pub handed_out: HandedOut,
    /// Since when there has been one that is prepared, if there is one.
    pub prepared_since: Option<Timestamp>,
    /// The whole life of the one that signs.
    pub lifetime: Duration,
    /// Of intermediates: when the last of the roots ends that they lead to.
    pub roots_end: BTreeMap<AuthorityId, Timestamp>,
    /// Whether the one that signs is an intermediate, imported with the roots that it leads to.
    pub is_intermediate: bool,
    /// Of keys of JWT-SVIDs: whether it is on record that everybody has the one that is prepared.
    pub has_reached_all: bool,
}

/// An authority that was made just now.
pub(super) enum NewAuthority {
    X509(Certificate, PrivateKey),
    Jwt(Box<JwtSigner>),
}

/// More authorities of one kind than any rotation needs would fill the object.
pub(super) const MAX_AUTHORITIES: usize = 5;

impl Objects {
    pub(super) fn load(store: &dyn StateStore) -> Result<Self, StateError> {
        let gone = || StateError::Unusable("an object of the state is not there".into());
        let stored = store.load(StateObject::Authority)?.ok_or_else(gone)?;
        let authority = StoredAuthority::decode(&stored.content)?;
        let (trust_version, trust) = load_trust(store)?.ok_or_else(gone)?;
        Ok(Self { authority_version: stored.version, authority, trust_version, trust })
    }

    /// Reads the trust object again, as it is stored.
    pub(super) fn load_trust(&mut self, store: &dyn StateStore) -> Result<(), StateError> {
        if let Some((version, trust)) = load_trust(store)? {
            (self.trust_version, self.trust) = (version, trust);
        }
        Ok(())
    }

    /// Whether there is an authority of which the trust object knows nothing yet.
    pub(super) fn has_unpublished(&self) -> Result<bool, StateError> {
        let x509 = if let StoredAuthority::Own(_) = &self.authority { self.x509_slots()? } else { Vec::new() };
        let jwt: Vec<Slot> = self.rotation()?.jwt.iter().map(JwtKeyContent::slot).collect::<Result<_, _>>()?;
        Ok(x509.iter().chain(&jwt).any(|slot| slot.published_in > self.trust.sequence()))
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

    /// Adds what is missing, as in what an older version wrote or was imported. Returns whether anything was.
    pub(super) fn adopt(&mut self, trust_domain: &TrustDomain, now: Timestamp) -> Result<bool, StateError> {
        let sequence = self.trust.sequence();
        let next_sequence = self.trust.next_sequence();
        let mut has_changed = false;
        if let StoredAuthority::Own(own) = &mut self.authority {
            let certificate = one_certificate(&own.certificate)?;
            let rotation = own.rotation.get_or_insert_default();
            if rotation.active.is_none() {
                // killed between the first two writes of all, there is no bundle yet
                let bundle = match self.trust_version {
                    0 => TrustBundle::new(trust_domain.clone(), vec![certificate.clone()])
                        .map_err(|error| unusable(&error))?,
                    _ => self.trust.bundle(trust_domain)?,
                };
                rotation.active = Some(ActiveContent::of_only(&certificate, &bundle, now, sequence));
                has_changed = true;
            }
        }
        let rotation = self.authority.rotation_mut();
        if !rotation.jwt.iter().any(JwtKeyContent::signs) {
            let signer = JwtSigner::generate(Timestamp::from_seconds(now.plus(JWT_KEY_LIFETIME).seconds()));
            let signer = signer.map_err(|error| StateError::Io(error.to_string()))?;
            rotation.jwt.push(JwtKeyContent::new(&signer, Phase::Active, now, next_sequence));
            has_changed = true;
        }
        Ok(has_changed)
    }

    /// Has another authority sign if the one that does has come to its end while nobody was there to see to that: it breaks
    /// nobody. Returns whether there was need and one to take its place.
    pub(super) fn replace_ended(&mut self, now: Timestamp) -> Result<bool, StateError> {
        if !matches!(self.authority, StoredAuthority::Own(_)) {
            return Ok(false);
        }
        let KindState { authorities, .. } = self.kind_state(AuthorityKind::X509)?;
        let has_ended = authorities.slots().iter().any(|slot| slot.phase == Phase::Active && slot.not_after <= now);
        let next = authorities.slots().iter().rev().find(|slot| slot.phase != Phase::Active && slot.not_after > now);
        let Some(next) = next.filter(|_| has_ended) else { return Ok(false) };
        let after = authorities.after_by_force(&Step::Activate(next.id.clone()), now);
        self.stand_x509(&after.map_err(|error| unusable(&error))?)?;
        Ok(true)
    }

    /// Has the trust object say what the authorities are in `term`. Returns whether it says anything new.
    pub(super) fn publish(
        &mut self,
        origin: &Origin,
        trust_domain: &TrustDomain,
        term: Term,
        now: Timestamp,
    ) -> Result<bool, StateError> {
        let bundle = match origin {
            Origin::PluggedIn(authority) => authority.borrow().bundle().clone(),
            Origin::Istiod(roots) => {
                let stored = if self.trust.has_bundle() { Some(self.trust.bundle(trust_domain)?) } else { None };
                let unknown = || StateError::Unusable("the mesh's roots are not known yet".into());
                roots.published(term, stored, now).ok_or_else(unknown)?
            }
            Origin::SelfSigned => {
                TrustBundle::new(trust_domain.clone(), self.own_roots()?).map_err(|error| unusable(&error))?
            }
        };
        let keys = self.rotation()?.jwt.iter().map(|key| Ok((key.slot()?, key.signer()?)));
        let keys: Vec<(Slot, JwtSigner)> = keys.collect::<Result<_, StateError>>()?;
        let x509 = if let StoredAuthority::Own(_) = &self.authority { self.x509_slots()? } else { Vec::new() };
        let tainted = x509.iter().chain(keys.iter().map(|(slot, _)| slot)).filter(|slot| slot.tainted);
        let mut tainted: Vec<_> = tainted.map(|slot| slot.id.clone()).collect();
        let roots = if let StoredAuthority::Own(_) = &self.authority { self.tainted_roots()? } else { Vec::new() };
        tainted.extend(roots);
        let public: Vec<_> = keys.iter().map(|(_, signer)| signer.authority()).collect();
        // two that were prepared before the trust object could be written count for two
        let slots = x509.iter().chain(keys.iter().map(|(slot, _)| slot));
        let at_least = slots.map(|slot| slot.published_in).max().unwrap_or_default();
        Ok(self.trust.publish(&bundle, &public, tainted, at_least))
    }

    /// What signs certificates by these objects, once they are written; `None` where istiod does.
    pub(super) fn signing_authority(
        &self,
        origin: &Origin,
        trust_domain: &TrustDomain,
        now: Timestamp,
    ) -> Result<Option<Arc<SigningAuthority>>, StateError> {
        match (origin, &self.authority) {
            (Origin::Istiod(_), _) => Ok(None),
            (Origin::PluggedIn(authority), _) => Ok(Some(Arc::clone(&authority.borrow()))),
            (Origin::SelfSigned, StoredAuthority::Own(stored)) => {
                Ok(Some(Arc::new(authority_of(stored, self.trust.bundle(trust_domain)?, now)?)))
            }
            (Origin::SelfSigned, StoredAuthority::PluggedIn(_)) => Err(plugged_in()),
        }
    }

    /// Whoever signs certificates by these objects, if it is not plugged in, and JWT-SVIDs.
    pub(super) fn active_ids(&self) -> Result<(Option<String>, Option<String>), StateError> {
        let authority = match &self.authority {
            StoredAuthority::Own(own) => Some(authority_id(&one_certificate(&own.certificate)?)),
            StoredAuthority::PluggedIn(_) => None,
        };
        let jwt = self.rotation()?.jwt.iter().find(|key| key.signs());
        Ok((authority, jwt.map(|key| key.slot().map(|slot| slot.id)).transpose()?))
    }

    /// Before anything is written: one object without the other would say half of it.
    pub(super) fn check_room(&self) -> Result<(), StateError> {
        let size = encoded(&self.trust)?.len();
        if size <= MAX_OBJECT_BYTES {
            return Ok(());
        }
        Err(StateError::Unusable(format!(
            "the trust object would have {size} bytes with these roots, and {MAX_OBJECT_BYTES} are possible: end a federation, allow \
             again what need not be denied any more, or plug an authority in with fewer roots"
        )))
    }

    /// What signs JWT-SVIDs by these objects.
    pub(super) fn jwt_signer(&self) -> Result<Option<JwtSigner>, StateError> {
        self.rotation()?.jwt.iter().find(|key| key.signs()).map(JwtKeyContent::signer).transpose()
    }

    /// The authorities of one kind.
    pub(super) fn kind_state(&self, kind: AuthorityKind) -> Result<KindState, StateError> {
        let rotation = self.rotation()?;
        let since = |seconds: i64| Timestamp::from_seconds(seconds);
        let leads_to_others = rotation.active.as_ref().is_some_and(|active| !active.roots.is_empty());
        let is_intermediate = kind == AuthorityKind::X509 && leads_to_others;
        let prepared_key = rotation.jwt.iter().find(|key| kind == AuthorityKind::Jwt && key.is_prepared());
        let has_reached_all = prepared_key.is_some_and(JwtKeyContent::has_reached_all);
        let (slots, handed_out, prepared_since, lifetime) = match kind {
            AuthorityKind::X509 => {
                let StoredAuthority::Own(own) = &self.authority else { return Err(plugged_in()) };
                let prepared = rotation.others.iter().find(|slot| slot.phase() == Phase::Prepared);
                let certificate = one_certificate(&own.certificate)?;
                let lifetime = certificate.not_after().since(certificate.not_before());
                (self.x509_slots()?, rotation.handed_out(), prepared.map(|slot| since(slot.standing.since)), lifetime)
            }
            AuthorityKind::Jwt => {
                let keys = rotation.jwt.iter().map(|key| Ok((key.slot()?, since(key.since))));
                let keys: Vec<(Slot, Timestamp)> = keys.collect::<Result<_, StateError>>()?;
                let of_phase = |phase| keys.iter().find(|(slot, _)| slot.phase == phase);
                let prepared = of_phase(Phase::Prepared).map(|(_, since)| *since);
                let lifetime = of_phase(Phase::Active).map(|(slot, since)| slot.not_after.since(*since));
                let slots = keys.iter().map(|(slot, _)| slot.clone()).collect();
                (slots, rotation.jwt_handed_out()?, prepared, lifetime.unwrap_or_default())
            }
        };
        let authorities = Authorities::restored(slots, self.trust.sequence())
            .ok_or_else(|| unusable(&"the phases of the authorities make no sense"))?;
        let roots_end = if kind == AuthorityKind::X509 { self.roots_end()? } else { BTreeMap::new() };
        Ok(KindState { authorities, handed_out, prepared_since, lifetime, roots_end, is_intermediate, has_reached_all })
    }

    /// Puts a new one beside the others.
    pub(super) fn add(&mut self, new: &NewAuthority, now: Timestamp) {
        let published_in = self.trust.next_sequence();
        let rotation = self.authority.rotation_mut();
        match new {
            NewAuthority::X509(certificate, key) => {
                rotation.others.push(SlotContent::new(certificate, key, now, published_in));
            }
            NewAuthority::Jwt(signer) => {
                rotation.jwt.push(JwtKeyContent::new(signer, Phase::Prepared, now, published_in));
            }
        }
    }

    /// Has the authorities of one kind stand as they do in `after`. A key of JWT-SVIDs that signs no more did so until
    /// `signed_until`; one that does signs for `jwt_life` at the most.
    pub(super) fn stand(
        &mut self,
        kind: AuthorityKind,
        after: &Authorities,
        signed_until: Timestamp,
        jwt_life: Duration,
    ) -> Result<(), StateError> {
        match kind {
            AuthorityKind::X509 => self.stand_x509(after),
            AuthorityKind::Jwt => self.authority.rotation_mut().set_jwt(after.slots(), signed_until, jwt_life),
        }
    }

    /// Marks that the key of JWT-SVIDs that signs may do so for such a life. Returns whether that was not on record.
    pub(super) fn allow_jwt(&mut self, life: Duration) -> bool {
        self.authority.rotation_mut().allow_jwt(life)
    }

    fn rotation(&self) -> Result<&RotationContent, StateError> {
        self.authority.rotation().ok_or_else(|| unusable(&"its standing is missing: restart the replica"))
    }

    /// The roots of all authorities, in the order in which these were published.
    fn own_roots(&self) -> Result<Vec<Certificate>, StateError> {
        self.roots_of(|_whichever| true)
    }

    /// Those above intermediates that are tainted, and above no other authority.
    fn tainted_roots(&self) -> Result<Vec<String>, StateError> {
        let (sound, tainted) = (self.roots_of(|is_tainted| !is_tainted)?, self.roots_of(|is_tainted| is_tainted)?);
        let named: Vec<_> = self.x509_slots()?.into_iter().map(|slot| slot.id).collect();
        let roots = tainted.iter().filter(|root| !sound.contains(root)).map(authority_id);
        Ok(roots.filter(|root| !named.contains(root)).collect())
    }

    /// The roots of those authorities that count, by whether they are tainted.
    fn roots_of(&self, counts: impl Fn(bool) -> bool) -> Result<Vec<Certificate>, StateError> {
        let StoredAuthority::Own(own) = &self.authority else { return Err(plugged_in()) };
        let rotation = self.rotation()?;
        let active = rotation.active.as_ref().ok_or_else(|| unusable(&"its standing is missing"))?;
        let others = rotation.others.iter().filter(|slot| counts(slot.is_tainted()));
        let others = others.map(|slot| (&slot.standing, &slot.certificate));
        let mut all: Vec<_> = others.chain(counts(false).then_some((active, &own.certificate))).collect();
        all.sort_by_key(|(standing, _)| standing.published_in);
        let pems = all.into_iter().flat_map(|(standing, certificate)| {
            let roots = standing.roots.as_slice();
            if roots.is_empty() { std::slice::from_ref(certificate) } else { roots }
        });
        let pem: String = pems.map(String::as_str).collect();
        if pem.is_empty() {
            return Ok(Vec::new());
        }
        Certificate::all_from_pem(pem.as_bytes()).map_err(|error| unusable(&error))
    }

    fn roots_end(&self) -> Result<BTreeMap<AuthorityId, Timestamp>, StateError> {
        let mut ends = BTreeMap::new();
        for other in &self.rotation()?.others {
            let roots: Vec<_> =
                other.standing.roots.iter().map(|pem| one_certificate(pem)).collect::<Result<_, _>>()?;
            if let Some(last) = roots.iter().map(Certificate::not_after).max() {
                ends.insert(authority_id(&one_certificate(&other.certificate)?), last);
            }
        }
        Ok(ends)
    }

    pub(super) fn x509_slots(&self) -> Result<Vec<Slot>, StateError> {
        let StoredAuthority::Own(own) = &self.authority else { return Err(plugged_in()) };
        let rotation = self.rotation()?;
        let active = rotation.active.as_ref().ok_or_else(|| unusable(&"its standing is missing"))?;
        let slot = |certificate: &Certificate, phase, tainted, published_in| Slot {
            id: authority_id(certificate),
            phase,
            not_after: certificate.not_after(),
            tainted,
            published_in,
        };
        let mut slots = vec![slot(&one_certificate(&own.certificate)?, Phase::Active, false, active.published_in)];
        for other in &rotation.others {
            let certificate = one_certificate(&other.certificate)?;
            slots.push(slot(&certificate, other.phase(), other.is_tainted(), other.standing.published_in));
        }
        slots.sort_by_key(|slot| slot.published_in);
        Ok(slots)
    }

    /// The one that signs stands in fields of its own.
    fn stand_x509(&mut self, after: &Authorities) -> Result<(), StateError> {
        let StoredAuthority::Own(own) = &mut self.authority else { return Err(plugged_in()) };
        let rotation = own.rotation.get_or_insert_default();
        let mut others = Vec::with_capacity(rotation.others.len());
        for mut other in std::mem::take(&mut rotation.others) {
            let Some(slot) = after.slot(&authority_id(&one_certificate(&other.certificate)?)) else { continue };
            if slot.phase != Phase::Active {
                other.stand(slot.phase, slot.tainted);
                others.push(other);
                continue;
            }
            let SlotContent { certificate, key, chain, standing, .. } = other;
            let missing = || unusable(&"its standing is missing");
            others.push(SlotContent::old(
                std::mem::replace(&mut own.certificate, certificate),
                std::mem::replace(&mut own.key, key),
                std::mem::replace(&mut own.chain, chain),
                rotation.active.replace(standing).ok_or_else(missing)?,
            ));
        }
        rotation.others = others;
        Ok(())
    }
}

fn plugged_in() -> StateError {
    StateError::Unusable("the signing authority is plugged in: what rotates it is a change of its files".into())
}
