//! A state in memory, and a clock that is put where a test wants it.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering},
};

use zeroize::Zeroizing;

use super::*;
use crate::{
    domain::{
        authority::testing::{NOW, TestRandom},
        clock::BootInstant,
    },
    service::ports::Versioned,
};

/// Keeps objects in memory, and fails after so many writes, as if the process were killed between two.
pub(crate) struct Memory {
    objects: Mutex<HashMap<StateObject, Versioned>>,
    claimed: Mutex<Term>,
    writes_left: AtomicUsize,
    writes_until_failure: AtomicUsize,
    loses_answers: AtomicBool,
}

impl Default for Memory {
    fn default() -> Self {
        let [writes_left, writes_until_failure] = [usize::MAX; 2].map(AtomicUsize::new);
        let (objects, claimed) = (Mutex::default(), Mutex::new(Term::NONE));
        Self { objects, claimed, writes_left, writes_until_failure, loses_answers: AtomicBool::default() }
    }
}

impl Memory {
    /// So many writes from now on succeed.
    pub(crate) fn dies_after(&self, writes: usize) {
        self.writes_left.store(writes, Ordering::Relaxed);
    }

    /// Whether nothing can be written since then.
    pub(crate) fn has_died(&self) -> bool {
        self.writes_left.load(Ordering::Relaxed) == 0
    }

    /// After so many writes from now on one fails.
    pub(crate) fn fails_after(&self, writes: usize) {
        self.writes_until_failure.store(writes, Ordering::Relaxed);
    }

    /// Whether what is written is there, and nobody hears of it.
    pub(crate) fn loses_answers(&self, does: bool) {
        self.loses_answers.store(does, Ordering::Relaxed);
    }

    pub(crate) fn text(&self, object: StateObject) -> String {
        String::from_utf8(self.load(object).unwrap().unwrap().content.to_vec()).unwrap()
    }

    pub(crate) fn set_text(&self, object: StateObject, text: &str) {
        self.objects.lock().unwrap().get_mut(&object).unwrap().content = Zeroizing::new(text.as_bytes().to_vec());
    }

    pub(crate) fn json(&self, object: StateObject) -> serde_json::Value {
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
        if self.writes_until_failure.fetch_sub(1, Ordering::Relaxed) == 0 {
            self.writes_until_failure.store(usize::MAX, Ordering::Relaxed);
            return Err(StateError::Io("this write failed".into()));
        }
        let mut objects = self.objects.lock().unwrap();
        let found = objects.get(&object).map_or(0, |stored| stored.version);
        if found != expected {
            return Err(StateError::Conflict { object, expected, found });
        }
        objects.insert(object, Versioned { version: found + 1, term, content: Zeroizing::new(new.to_vec()) });
        if self.loses_answers.load(Ordering::Relaxed) {
            return Err(StateError::Io("no answer".into()));
        }
        Ok(found + 1)
    }
}

/// Stands where it is put: seconds after `NOW`.
#[derive(Default)]
pub(crate) struct HandClock(AtomicI64);

impl HandClock {
    pub(crate) fn forward(&self, by: Duration) {
        self.0.fetch_add(i64::try_from(by.as_secs()).unwrap(), Ordering::Relaxed);
    }
}

impl Clock for HandClock {
    fn now(&self) -> Timestamp {
        NOW.plus(self.boot().since(BootInstant::from_nanos(0)))
    }

    fn boot(&self) -> BootInstant {
        let seconds = u64::try_from(self.0.load(Ordering::Relaxed)).unwrap();
        BootInstant::from_nanos(0).plus(Duration::from_secs(seconds))
    }
}

pub(crate) fn state(store: &Arc<Memory>, origin: Origin, clock: &Arc<HandClock>) -> SigningState {
    let store = Arc::clone(store);
    let open = Box::new(move || Ok(Arc::clone(&store) as Arc<dyn StateStore>));
    SigningState::new(open, origin, trust_domain(), Arc::clone(clock) as _, Arc::new(TestRandom))
}

pub(crate) fn trust_domain() -> TrustDomain {
    "cluster.local".parse().unwrap()
}

pub(crate) fn claim(state: &SigningState, term: u64) -> ClaimedState {
    match state.claim(Term::new(term)) {
        Ok(Claim::Claimed(claimed)) => claimed,
        other => panic!("{other:?}"),
    }
}
