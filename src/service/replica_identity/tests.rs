use std::{
    collections::HashMap,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::time::timeout;
use zeroize::Zeroizing;

use super::*;
use crate::{
    domain::{
        authority::testing::{NOW, TestRandom},
        clock::Timestamp,
        identity::TrustDomain,
        leadership::Term,
    },
    service::{
        ports::{StateError, StateObject, Versioned},
        signing_state::{Origin, SigningState},
    },
};

/// Follows tokio's clock, which these tests pause.
struct TestClock(Instant);

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        NOW.plus(self.0.elapsed())
    }

    fn boot(&self) -> BootInstant {
        BootInstant::from_nanos(0).plus(self.0.elapsed())
    }
}

/// Keeps objects in memory, and knows no terms.
#[derive(Default)]
struct Memory {
    objects: Mutex<HashMap<StateObject, Versioned>>,
    away: AtomicBool,
}

impl StateStore for Memory {
    fn claim(&self, _term: Term) -> Result<(), StateError> {
        Ok(())
    }

    fn close(&self) {}

    fn load(&self, object: StateObject) -> Result<Option<Versioned>, StateError> {
        if self.away.load(Ordering::Relaxed) {
            return Err(StateError::Io("nobody answers".into()));
        }
        Ok(self.objects.lock().unwrap().get(&object).cloned())
    }

    fn compare_and_swap(&self, object: StateObject, expected: u64, term: Term, new: &[u8]) -> Result<u64, StateError> {
        let mut objects = self.objects.lock().unwrap();
        let found = objects.get(&object).map_or(0, |stored| stored.version);
        if found != expected {
            return Err(StateError::Conflict { object, expected, found });
        }
        let content = Zeroizing::new(new.to_vec());
        objects.insert(object, Versioned { version: found + 1, term, content });
        Ok(found + 1)
    }
}

impl Memory {
    fn text(&self) -> String {
        String::from_utf8(self.load(StateObject::Authority).unwrap().unwrap().content.to_vec()).unwrap()
    }

    fn set_text(&self, text: &str) {
        let mut objects = self.objects.lock().unwrap();
        objects.get_mut(&StateObject::Authority).unwrap().content = Zeroizing::new(text.as_bytes().to_vec());
    }

    fn pair_certificate(&self) -> String {
        let authority = pair_authority(self, &trust_domain(), NOW).unwrap().unwrap();
        authority.certificate().to_pem()
    }
}

fn trust_domain() -> TrustDomain {
    "cluster.local".parse().unwrap()
}

fn claim(store: &Arc<Memory>, term: u64) {
    let (store, clock) = (Arc::clone(store), Arc::new(TestClock(Instant::now())));
    let open = Box::new(move || Ok(Arc::clone(&store) as Arc<dyn StateStore>));
    let state = SigningState::new(open, Origin::SelfSigned, trust_domain(), clock, Arc::new(TestRandom));
    state.claim(Term::new(term)).unwrap();
}

fn start(store: &Arc<Memory>) -> ReplicaIdentityReceiver {
    let id = ReplicaId::new(&trust_domain(), "uid-1").unwrap();
    let clock = Arc::new(TestClock(Instant::now()));
    let (keeper, identity) = ReplicaIdentityKeeper::new(Arc::clone(store) as _, id, clock, Arc::new(TestRandom));
    tokio::spawn(keeper.run());
    identity
}

async fn next(identity: &mut ReplicaIdentityReceiver, within: Duration) -> Arc<ReplicaIdentity> {
    let begun = Instant::now();
    timeout(within, identity.changed()).await.expect("in time").unwrap();
    assert!(begun.elapsed() <= within);
    identity.borrow_and_update().clone().unwrap()
}

const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn the_first_claim_makes_a_pair_authority_and_later_ones_keep_it() {
    let store = Arc::new(Memory::default());
    assert!(pair_authority(store.as_ref(), &trust_domain(), NOW).unwrap().is_none());
    claim(&store, 1);
    let first = store.pair_certificate();
    claim(&store, 2);
    assert_eq!(store.pair_certificate(), first);
    let foreign = pair_authority(store.as_ref(), &"other".parse().unwrap(), NOW).unwrap_err();
    assert!(matches!(&foreign, StateError::Unusable(text) if text.contains("cluster.local")), "{foreign}");
}

#[test]
fn a_claim_gives_one_to_what_an_older_version_wrote_and_changes_nothing_else() {
    let store = Arc::new(Memory::default());
    claim(&store, 1);
    let mut old: serde_json::Value = serde_json::from_str(&store.text()).unwrap();
    let pair = old.as_object_mut().unwrap().remove("pair").unwrap();
    assert!(pair["key"].as_str().unwrap().contains("PRIVATE KEY"));
    for broken in [None, Some(serde_json::json!({ "certificate": "x", "key": "y" }))] {
        let mut stored = old.clone();
        stored.as_object_mut().unwrap().extend(broken.map(|pair| ("pair".to_owned(), pair)));
        store.set_text(&stored.to_string());
        claim(&store, 2);
        store.pair_certificate();
        let mut new: serde_json::Value = serde_json::from_str(&store.text()).unwrap();
        new.as_object_mut().unwrap().remove("pair");
        assert_eq!(new, old);
    }
}

#[tokio::test(start_paused = true)]
async fn an_identity_is_made_as_soon_as_there_is_a_pair_authority_and_renewed_before_half_of_its_life_is_over() {
    let store = Arc::new(Memory::default());
    let mut identity = start(&store);
    timeout(HOUR, identity.changed()).await.expect_err("nobody has claimed the state");
    claim(&store, 1);
    let first = next(&mut identity, LONGEST_PAUSE).await;
    assert_eq!(first.svid.id().as_str(), "spiffe://cluster.local/countersign/replica/uid-1");
    first.svid.chain().verify(&first.bundle, NOW.plus(HOUR)).unwrap();
    timeout(HOUR * 11, identity.changed()).await.expect_err("it is good");

    // also when nobody answers
    store.away.store(true, Ordering::Relaxed);
    let second = next(&mut identity, HOUR * 2).await;
    assert_ne!(second.svid.leaf(), first.svid.leaf());
    assert_eq!(second.bundle, first.bundle);
}

#[tokio::test(start_paused = true)]
async fn a_pair_authority_in_the_place_of_another_is_noticed() {
    let store = Arc::new(Memory::default());
    claim(&store, 1);
    let mut identity = start(&store);
    let first = next(&mut identity, LONGEST_PAUSE).await;
    let mut text: serde_json::Value = serde_json::from_str(&store.text()).unwrap();
    text.as_object_mut().unwrap().remove("pair");
    store.set_text(&text.to_string());
    claim(&store, 2);
    let second = next(&mut identity, LOOK_AGAIN * 2).await;
    assert_ne!(second.bundle, first.bundle);
    second.svid.chain().verify(&first.bundle, NOW).unwrap_err();
}
