//! The stored state and the issuance log, in memory.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use countersign::{
    domain::{issuance::IssuanceEvent, leadership::Term},
    service::{
        issuance_history::{Entries, IssuanceEntry, IssuanceHistory},
        ports::{BoxFuture, IssuanceLog, LogError, StateError, StateObject, StateStore, Versioned},
    },
};
use tokio::{sync::mpsc, time::sleep};
use zeroize::Zeroizing;

/// The objects of one pair.
#[derive(Default)]
pub(crate) struct Memory(Mutex<Objects>);

#[derive(Default)]
struct Objects {
    claimed: u64,
    objects: HashMap<StateObject, Versioned>,
}

impl StateStore for Memory {
    fn claim(&self, term: Term) -> Result<(), StateError> {
        let mut objects = self.0.lock().unwrap();
        if term.number() <= objects.claimed {
            return Err(StateError::Fenced { own: term, found: Term::new(objects.claimed) });
        }
        objects.claimed = term.number();
        Ok(())
    }

    fn close(&self) {}

    fn load(&self, object: StateObject) -> Result<Option<Versioned>, StateError> {
        Ok(self.0.lock().unwrap().objects.get(&object).cloned())
    }

    fn compare_and_swap(&self, object: StateObject, expected: u64, term: Term, new: &[u8]) -> Result<u64, StateError> {
        let mut objects = self.0.lock().unwrap();
        if objects.claimed > term.number() {
            return Err(StateError::Fenced { own: term, found: Term::new(objects.claimed) });
        }
        let found = objects.objects.get(&object).map_or(0, |stored| stored.version);
        if found != expected {
            return Err(StateError::Conflict { object, expected, found });
        }
        let content = Zeroizing::new(new.to_vec());
        objects.objects.insert(object, Versioned { version: found + 1, term, content });
        Ok(found + 1)
    }
}

/// The log of one replica.
#[derive(Default)]
pub(crate) struct Log {
    events: Mutex<Vec<IssuanceEvent>>,
    /// How long a disk takes.
    takes: Duration,
}

impl Log {
    /// On a disk that takes its time.
    pub(crate) fn slow(takes: Duration) -> Self {
        Self { takes, ..Self::default() }
    }

    pub(crate) fn events(&self) -> Vec<IssuanceEvent> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl IssuanceLog for Log {
    fn append(&self, event: IssuanceEvent) -> BoxFuture<'_, Result<(), LogError>> {
        Box::pin(async move {
            sleep(self.takes).await;
            self.events.lock().unwrap().push(event);
            Ok(())
        })
    }
}

impl IssuanceHistory for Log {
    fn entries(&self) -> Entries {
        let (sender, entries) = mpsc::channel(64);
        for (sequence, event) in (1..).zip(self.events()) {
            let entry = IssuanceEntry { log: "replica-0".into(), sequence, event: (&event).into() };
            sender.try_send(Ok(entry)).unwrap();
        }
        entries
    }
}
