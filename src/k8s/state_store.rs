//! The state of a pair in two Secrets. A replica claims both for its term; from then on it answers reads from memory, and
//! each write names the Secret that it replaces, so that it fails if anybody else has written (docs/decisions/0013).
//!
//! The port is blocking: it is called on threads that may wait, never on the runtime.

mod examine;
pub(super) mod pair;
pub(super) mod record;
pub(super) mod secrets;
mod watch;
mod writing;

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use kube::Client;
use tokio::{
    runtime::Handle,
    sync::watch as channel,
    time::{Instant, timeout_at},
};

pub use self::examine::RootOf;
pub(super) use self::examine::examine;
use self::{
    pair::{OBJECTS, Pair},
    record::{Record, Stored, new_secret},
    secrets::{Secrets, WriteError},
};
use crate::{
    domain::leadership::Term,
    service::{
        ports::{Kept, KeptState, MAX_OBJECT_BYTES, StateError, StateObject, StateStore, Versioned},
        state_condition::StateCondition,
        state_manifest::{Acknowledged, Known, StateManifest},
    },
};

/// The state store of a replica. Cheap to clone; all clones are one store.
#[derive(Clone)]
pub struct SecretStateStore(Arc<Inner>);

struct Inner {
    secrets: Secrets,
    handle: Handle,
    limit: Duration,
    root_of: RootOf,
    manifest: Arc<StateManifest>,
    /// What was claimed, and has been acknowledged since.
    held: Mutex<Option<Held>>,
    /// What was held last, until something is claimed again: a backup can be made of it if the Secrets are lost meanwhile.
    kept: Mutex<Option<Held>>,
    /// One claim or write at a time.
    writing: tokio::sync::Mutex<()>,
    condition: channel::Sender<StateCondition>,
    higher_term: channel::Sender<Term>,
}

/// The state under this replica's term, in memory: it signs from this whatever becomes of the Secrets.
#[derive(Clone)]
struct Held {
    term: Term,
    objects: Pair<Stored>,
    /// What a write without an answer would have written.
    in_doubt: Pair<Option<Record>>,
}

/// How often a write that came too late is tried again. Each time somebody else got on.
const ATTEMPTS: usize = 12;

impl SecretStateStore {
    /// A store in `namespace` that has claimed nothing yet. `client` must belong to the runtime of `handle`. A claim and a
    /// write each take at most `limit`. `root_of` names the root in the content of the authority object.
    pub fn new(
        client: Client,
        handle: Handle,
        namespace: &str,
        limit: Duration,
        manifest: Arc<StateManifest>,
        root_of: RootOf,
    ) -> Self {
        Self(Arc::new(Inner {
            secrets: Secrets::new(client, namespace),
            handle,
            limit,
            root_of,
            manifest,
            held: Mutex::default(),
            kept: Mutex::default(),
            writing: tokio::sync::Mutex::default(),
            condition: channel::Sender::new(StateCondition::Unwatched),
            higher_term: channel::Sender::new(Term::NONE),
        }))
    }

    /// How the Secrets are, while this replica holds a term.
    pub fn condition(&self) -> channel::Receiver<StateCondition> {
        self.0.condition.subscribe()
    }

    /// The highest term of somebody else that was found on a Secret: whoever is active in a lower one must step down.
    pub fn higher_term(&self) -> channel::Receiver<Term> {
        self.0.higher_term.subscribe()
    }
}

impl fmt::Debug for SecretStateStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretStateStore").field("manifest", &self.0.manifest).finish_non_exhaustive()
    }
}

impl StateStore for SecretStateStore {
    fn claim(&self, term: Term) -> Result<(), StateError> {
        self.0.handle.block_on(self.0.claim(term, self.0.deadline()))
    }

    /// What was claimed is not the state any more. A later claim begins anew.
    fn close(&self) {
        self.0.forget();
    }

    fn load(&self, object: StateObject) -> Result<Option<Versioned>, StateError> {
        self.0.handle.block_on(self.0.load(object, self.0.deadline()))
    }

    fn compare_and_swap(
        &self,
        object: StateObject,
        expected: u64,
        term: Term,
        content: &[u8],
    ) -> Result<u64, StateError> {
        if content.len() > MAX_OBJECT_BYTES {
            let size = content.len();
            return Err(StateError::Io(format!("{object:?} has {size} bytes, the limit is {MAX_OBJECT_BYTES}")));
        }
        self.0.handle.block_on(self.0.compare_and_swap(object, expected, term, content))
    }
}

impl KeptState for SecretStateStore {
    fn kept_if_lost(&self) -> Option<Kept> {
        // what is held outlives its term until somebody is known to have claimed a higher one
        let held = self.0.held().clone();
        let kept = held.or_else(|| self.0.kept().clone())?;
        let known = self.0.manifest.known();
        match self.0.handle.block_on(self.0.read_sound(&known, self.0.deadline())) {
            Err(StateError::Damaged(_) | StateError::Unusable(_)) => kept.into_kept(),
            // whoever asks may find it where it belongs, or nobody can say that it is not there
            Ok(_) | Err(_) => None,
        }
    }
}

impl Held {
    fn into_kept(self) -> Option<Kept> {
        let Pair { authority, trust } = self.objects;
        Some(Kept { term: self.term, authority: versioned(authority.record)?, trust: versioned(trust.record) })
    }
}

/// Nothing of an object that was claimed only.
fn versioned(record: Record) -> Option<Versioned> {
    let Record { version, writer, content, .. } = record;
    (!content.is_empty()).then_some(Versioned { version, term: writer, content })
}

impl Inner {
    fn deadline(&self) -> Instant {
        Instant::now() + self.limit
    }

    /// A panic under this lock leaves a whole value behind, so a poisoned lock is a lock.
    fn held(&self) -> MutexGuard<'_, Option<Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn kept(&self) -> MutexGuard<'_, Option<Held>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets aside what is held.
    fn forget(&self) {
        if let Some(held) = self.held().take() {
            *self.kept() = Some(held);
        }
        self.condition.send_replace(StateCondition::Unwatched);
    }

    async fn one_at_a_time(&self, until: Instant) -> Result<tokio::sync::MutexGuard<'_, ()>, StateError> {
        let turn = timeout_at(until, self.writing.lock()).await;
        turn.map_err(|_elapsed| StateError::Io("another write of the state is still under way".into()))
    }

    async fn claim(&self, term: Term, until: Instant) -> Result<(), StateError> {
        let _turn = self.one_at_a_time(until).await?;
        self.forget();
        let known = self.manifest.known();
        let mut found = self.read_sound(&known, until).await?;
        let claimed = OBJECTS.into_iter().filter_map(|object| found.of(object).as_ref());
        let highest = claimed.map(|stored| stored.record.claimed).fold(known.acknowledged.highest_term(), Term::max);
        if term <= highest {
            return Err(StateError::Fenced { own: term, found: highest });
        }
        for object in OBJECTS {
            self.raise(object, &mut found, term, &known, until).await?;
        }
        let (Some(authority), Some(trust)) = (found.authority, found.trust) else {
            return Err(StateError::Io("an object that was claimed is not there".into()));
        };
        self.hold(Held { term, objects: Pair { authority, trust }, in_doubt: Pair::default() });
        *self.kept() = None;
        self.condition.send_replace(StateCondition::Sound);
        Ok(())
    }

    /// Writes `term` onto one object, whatever else is written to it meanwhile.
    async fn raise(
        &self,
        object: StateObject,
        found: &mut Pair<Option<Stored>>,
        term: Term,
        known: &Known,
        until: Instant,
    ) -> Result<(), StateError> {
        for _ in 0..ATTEMPTS {
            let stored = found.of(object).as_ref();
            let mut record = stored.map(|stored| stored.record.clone()).unwrap_or_default();
            if record.claimed >= term {
                return Err(StateError::Fenced { own: term, found: record.claimed });
            }
            record.claimed = term;
            record.view = self.acknowledged(&Pair {
                authority: found.authority.as_ref().map(|stored| &stored.record),
                trust: found.trust.as_ref().map(|stored| &stored.record),
            });
            let secret = stored.map_or_else(|| new_secret(object, &record), |stored| stored.with(object, &record));
            match self.secrets.put(secret, until).await {
                Ok(written) => {
                    *found.of_mut(object) = Some(Stored::written(written, record));
                    return Ok(());
                }
                Err(WriteError::Conflict) => *found = self.read_sound(known, until).await?,
                Err(WriteError::Refused(why) | WriteError::Unknown(why)) => {
                    return Err(self.secrets.failed("claimed", object, &why));
                }
            }
        }
        Err(self.secrets.failed("claimed", object, KEEPS_CHANGING))
    }

    /// Reads both objects and makes sure that nothing is missing. Between two reads others may write, so damage must show
    /// twice in the same objects.
    async fn read_sound(&self, known: &Known, until: Instant) -> Result<Pair<Option<Stored>>, StateError> {
        let mut seen = None;
        for _ in 0..ATTEMPTS {
            let found = self.secrets.get_both(until).await?;
            let records = Pair {
                authority: found.authority.as_ref().map(|stored| &stored.record),
                trust: found.trust.as_ref().map(|stored| &stored.record),
            };
            let Err(damage) = examine(&records, known, self.root_of) else { return Ok(found) };
            let versions = OBJECTS.map(|object| found.of(object).as_ref().map(|one| one.resource_version().to_owned()));
            if seen.as_ref() == Some(&versions) {
                return Err(self.secrets.damaged(&damage));
            }
            seen = Some(versions);
        }
        Err(self.secrets.failed("read", StateObject::Authority, KEEPS_CHANGING))
    }

    async fn load(&self, object: StateObject, until: Instant) -> Result<Option<Versioned>, StateError> {
        let held = self.held().clone();
        let stored = match held {
            Some(held) if held.in_doubt.of(object).is_none() => Some(held.objects.of(object).clone()),
            Some(_) => {
                let _turn = self.one_at_a_time(until).await?;
                Some(self.current(object, until).await?)
            }
            None => {
                let known = self.manifest.known();
                self.read_sound(&known, until).await?.of(object).clone()
            }
        };
        Ok(stored.and_then(|stored| versioned(stored.record)))
    }

    /// A higher term was found than was held when the question was asked. Unless a claim of our own has written it since, it is
    /// somebody else's, and what is held is not the state any more.
    fn fenced_by(&self, term: Term) {
        if self.held().as_ref().is_some_and(|held| held.term >= term) {
            return;
        }
        self.forget();
        self.higher_term.send_if_modified(|highest| {
            let higher = term > *highest;
            *highest = (*highest).max(term);
            higher
        });
    }

    fn hold(&self, held: Held) {
        let records = Pair { authority: Some(&held.objects.authority.record), trust: Some(&held.objects.trust.record) };
        self.manifest.acknowledge(self.acknowledged(&records), held.term);
        *self.held() = Some(held);
    }

    fn acknowledged(&self, records: &Pair<Option<&Record>>) -> Acknowledged {
        Acknowledged {
            root: records.authority.and_then(|record| (self.root_of)(&record.content)),
            authority: records.authority.map(Record::mark).unwrap_or_default(),
            trust: records.trust.map(Record::mark).unwrap_or_default(),
        }
    }
}

const KEEPS_CHANGING: &str = "others keep changing it";

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(object: StateObject, term: u64) -> Stored {
        let record = Record { claimed: Term::new(term), ..Record::default() };
        Stored::written(new_secret(object, &record), record)
    }

    #[tokio::test]
    async fn what_was_held_is_kept_until_something_is_claimed_again() {
        let client = Client::try_from(kube::Config::new("http://127.0.0.1:9".parse().unwrap())).unwrap();
        let store =
            SecretStateStore::new(client, Handle::current(), "ns", Duration::ZERO, Arc::default(), |_content| None);
        let mut objects = Pair { authority: stored(OBJECTS[0], 5), trust: stored(OBJECTS[1], 5) };
        objects.authority.record.version = 3;
        objects.authority.record.content = b"key".to_vec().into();
        store.0.hold(Held { term: Term::new(5), objects, in_doubt: Pair::default() });
        // the end of the term, and claims that fail
        for _ in 0..2 {
            store.0.forget();
            assert!(store.0.claim(Term::new(6), Instant::now()).await.is_err());
        }
        let kept = store.0.kept().clone().and_then(Held::into_kept).expect("a copy in memory");
        assert_eq!((kept.term, kept.authority.version, kept.trust.is_none()), (Term::new(5), 3, true));
        assert_eq!(*kept.authority.content, b"key");
        assert!(store.0.held().is_none());
        // the API server doesn't answer: nobody says that anything is lost
        let asked = store.clone();
        assert!(tokio::task::spawn_blocking(move || asked.kept_if_lost()).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn what_was_just_claimed_is_not_given_up_because_of_its_own_term() {
        let client = Client::try_from(kube::Config::new("http://127.0.0.1:9".parse().unwrap())).unwrap();
        let store =
            SecretStateStore::new(client, Handle::current(), "ns", Duration::ZERO, Arc::default(), |_content| None);
        let higher = store.higher_term();
        let objects = Pair { authority: stored(OBJECTS[0], 5), trust: stored(OBJECTS[1], 5) };
        store.0.hold(Held { term: Term::new(5), objects, in_doubt: Pair::default() });
        // found by a look that began before the claim
        store.0.fenced_by(Term::new(5));
        assert!(store.0.held().is_some() && *higher.borrow() == Term::NONE);
        store.0.fenced_by(Term::new(6));
        assert!(store.0.held().is_none() && *higher.borrow() == Term::new(6));
    }
}
