use std::{
    collections::HashMap,
    sync::atomic::{AtomicI64, AtomicUsize, Ordering},
};

use zeroize::Zeroizing;

use super::*;
use crate::{
    domain::{
        authority::testing::{NOW, TestRandom},
        clock::BootInstant,
        jwt::JwtSvid,
    },
    service::ports::Versioned,
};

/// Keeps objects in memory, and fails after so many writes, as if the process were killed between two.
pub(super) struct Memory {
    objects: Mutex<HashMap<StateObject, Versioned>>,
    claimed: Mutex<Term>,
    writes_left: AtomicUsize,
}

impl Default for Memory {
    fn default() -> Self {
        Self { objects: Mutex::default(), claimed: Mutex::new(Term::NONE), writes_left: AtomicUsize::new(usize::MAX) }
    }
}

impl Memory {
    /// So many writes from now on succeed.
    pub(super) fn dies_after(&self, writes: usize) {
        self.writes_left.store(writes, Ordering::Relaxed);
    }

    pub(super) fn text(&self, object: StateObject) -> String {
        String::from_utf8(self.load(object).unwrap().unwrap().content.to_vec()).unwrap()
    }

    fn set_text(&self, object: StateObject, text: &str) {
        self.objects.lock().unwrap().get_mut(&object).unwrap().content = Zeroizing::new(text.as_bytes().to_vec());
    }

    fn json(&self, object: StateObject) -> serde_json::Value {
        serde_json::from_str(&self.text(object)).unwrap()
    }
}

impl StateStore for Memory {
    fn claim(&self, term: Term) -> Result<(), StateError> {
        let mut claimed = self.claimed.lock().unwrap();
        if term <= *claimed {
            return Err(StateError::Fenced { own: term, found: *claimed });
        }
        *claimed = term;
        Ok(())
    }

    fn close(&self) {}

    fn load(&self, object: StateObject) -> Result<Option<Versioned>, StateError> {
        Ok(self.objects.lock().unwrap().get(&object).cloned())
    }

    fn compare_and_swap(&self, object: StateObject, expected: u64, term: Term, new: &[u8]) -> Result<u64, StateError> {
        let claimed = *self.claimed.lock().unwrap();
        if term < claimed {
            return Err(StateError::Fenced { own: term, found: claimed });
        }
        if self.writes_left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_err() {
            return Err(StateError::Io("killed".into()));
        }
        let mut objects = self.objects.lock().unwrap();
        let found = objects.get(&object).map_or(0, |stored| stored.version);
        if found != expected {
            return Err(StateError::Conflict { object, expected, found });
        }
        objects.insert(object, Versioned { version: found + 1, term, content: Zeroizing::new(new.to_vec()) });
        Ok(found + 1)
    }
}

/// Stands where it is put: seconds after `NOW`.
#[derive(Default)]
pub(super) struct HandClock(AtomicI64);

impl Clock for HandClock {
    fn now(&self) -> Timestamp {
        NOW.plus(self.boot().since(BootInstant::from_nanos(0)))
    }

    fn boot(&self) -> BootInstant {
        let seconds = u64::try_from(self.0.load(Ordering::Relaxed)).unwrap();
        BootInstant::from_nanos(0).plus(Duration::from_secs(seconds))
    }
}

pub(super) fn state(store: &Arc<Memory>, origin: Origin, clock: &Arc<HandClock>) -> SigningState {
    let store = Arc::clone(store);
    let open = Box::new(move || Ok(Arc::clone(&store) as Arc<dyn StateStore>));
    SigningState::new(open, origin, trust_domain(), Arc::clone(clock) as _, Arc::new(TestRandom))
}

pub(super) fn trust_domain() -> TrustDomain {
    "cluster.local".parse().unwrap()
}

pub(super) fn claim(state: &SigningState, term: u64) -> ClaimedState {
    match state.claim(Term::new(term)) {
        Ok(Claim::Claimed(claimed)) => claimed,
        other => panic!("{other:?}"),
    }
}

fn published(claimed: &ClaimedState) -> Arc<PublishedTrust> {
    claimed.trust.borrow().clone().unwrap()
}

fn new_authority(roots_beside: &[&SigningAuthority]) -> Arc<SigningAuthority> {
    let (own, key) = SigningAuthority::self_signed(&trust_domain(), ROOT_LIFETIME, NOW, &TestRandom).unwrap();
    let beside = roots_beside.iter().map(|other| other.certificate().clone());
    let roots = std::iter::once(own.certificate().clone()).chain(beside).collect();
    let bundle = TrustBundle::new(trust_domain(), roots).unwrap();
    SigningAuthority::from_parts(own.certificate().clone(), &key, Vec::new(), bundle, NOW).unwrap().into()
}

#[test]
fn the_first_claim_publishes_root_and_key_of_jwt_svids_and_later_ones_find_them() {
    let (store, clock) = (Arc::new(Memory::default()), Arc::new(HandClock::default()));
    let first = claim(&state(&store, Origin::SelfSigned, &clock), 1);
    let trust = published(&first);
    assert_eq!(trust.own.x509_authorities, first.authority.borrow().bundle().roots());
    assert_eq!((trust.own.sequence, trust.own.refresh_hint), (Some(1), Some(Duration::from_secs(300))));
    let signer = first.jwt_signer.borrow().clone().unwrap();
    assert_eq!(trust.own.jwt_authorities, [signer.authority().clone()]);

    let versions =
        || [StateObject::Authority, StateObject::Trust].map(|object| store.load(object).unwrap().unwrap().version);
    assert_eq!(versions(), [1, 1]);
    let second = claim(&state(&store, Origin::SelfSigned, &clock), 2);
    assert_eq!(*published(&second), *trust);
    assert_eq!(second.jwt_signer.borrow().as_ref().unwrap().key_id(), signer.key_id());
    assert_eq!(versions(), [1, 1], "a claim that finds everything writes nothing");
    let token = signer.mint(&"spiffe://cluster.local/ns/a/sa/b".parse().unwrap(), &["x".into()], NOW, ROOT_LIFETIME);
    assert!(JwtSvid::unverified(&token.unwrap()).unwrap().expires < NOW.plus(ROOT_LIFETIME));
}

#[test]
fn what_a_version_without_such_keys_wrote_gets_one_and_a_higher_sequence() {
    let (store, clock) = (Arc::new(Memory::default()), Arc::new(HandClock::default()));
    let first = claim(&state(&store, Origin::SelfSigned, &clock), 1);
    for object in [StateObject::Authority, StateObject::Trust] {
        let mut json = store.json(object);
        json.as_object_mut().unwrap().retain(|name, _| !["rotation", "jwt"].contains(&name.as_str()));
        store.set_text(object, &json.to_string());
    }
    let second = claim(&state(&store, Origin::SelfSigned, &clock), 2);
    let (before, after) = (published(&first), published(&second));
    assert_eq!(after.own.x509_authorities, before.own.x509_authorities);
    assert_eq!((after.own.sequence, after.own.jwt_authorities.len()), (Some(2), 1));
    assert_eq!(store.json(StateObject::Authority)["rotation"]["jwt"][0]["published_in"], 2);
    assert_ne!(after.own.jwt_authorities, before.own.jwt_authorities);
}

#[test]
fn a_first_claim_that_is_killed_between_its_writes_is_brought_to_its_end_by_the_next() {
    let (store, clock) = (Arc::new(Memory::default()), Arc::new(HandClock::default()));
    store.dies_after(1);
    assert!(state(&store, Origin::SelfSigned, &clock).claim(Term::new(1)).is_err());
    store.dies_after(usize::MAX);
    let claimed = claim(&state(&store, Origin::SelfSigned, &clock), 2);
    let trust = published(&claimed);
    assert_eq!(trust.own.x509_authorities, claimed.authority.borrow().bundle().roots());
    assert_eq!((trust.own.sequence, trust.own.jwt_authorities.len()), (Some(1), 1));
}

#[test]
fn the_sequence_grows_with_each_change_of_the_plugged_in_roots_and_is_written_before_it_is_told() {
    let (store, clock) = (Arc::new(Memory::default()), Arc::new(HandClock::default()));
    let (a, b) = (new_authority(&[]), new_authority(&[]));
    let both = new_authority(&[&a, &b]);
    let (files, plugged_in) = watch::channel(Arc::clone(&a));
    let origin = || Origin::PluggedIn(plugged_in.clone());
    let claimed = claim(&state(&store, origin(), &clock), 1);
    assert_eq!(published(&claimed).own.sequence, Some(1));
    let term = claimed.state.clone().unwrap();
    term.publish_plugged_in().unwrap();
    assert_eq!(published(&claimed).own.sequence, Some(1), "nothing has changed");

    files.send_replace(Arc::clone(&both));
    store.dies_after(0);
    assert!(matches!(term.publish_plugged_in(), Err(StateError::Io(_))));
    assert_eq!(published(&claimed).own.x509_authorities, a.bundle().roots());
    store.dies_after(usize::MAX);
    term.publish_plugged_in().unwrap();
    let trust = published(&claimed);
    assert_eq!((trust.own.sequence, trust.own.x509_authorities.as_slice()), (Some(2), both.bundle().roots()));

    files.send_replace(b);
    let next = claim(&state(&store, origin(), &clock), 2);
    assert_eq!(published(&next).own.sequence, Some(3), "they may change between two terms as well");
    files.send_replace(both);
    assert!(matches!(term.publish_plugged_in(), Err(StateError::Fenced { .. })), "its term has ended");
}
