//! Equal requests that are under way at the same time are made once.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::watch;

/// Says which requests are equal: a hash of all that counts.
pub(super) type Key = [u8; 32];

/// What is under way.
pub(super) struct Flights<T>(Arc<Mutex<HashMap<Key, Flight<T>>>>);

type Flight<T> = watch::Receiver<Option<T>>;

/// What goes on here at the most: the tasks of callers that have left are among them.
const MOST: usize = 16_384;

/// Takes a flight off the list, also when its task panics.
struct Landing<T> {
    flights: Arc<Mutex<HashMap<Key, Flight<T>>>>,
    key: Key,
}

/// How a caller comes by its answer.
pub(super) enum Joined<T> {
    /// Its request is the first of its kind.
    First(Flight<T>),
    /// There is an equal one.
    Other(Flight<T>),
    /// Too much is under way.
    Full,
}

impl<T: Clone + Send + Sync + 'static> Flights<T> {
    pub(super) fn new() -> Self {
        Self(Arc::default())
    }

    /// Joins what is under way under `key`, or begins it. It goes on whoever leaves.
    pub(super) fn join<F: Future<Output = T> + Send + 'static>(
        &self,
        key: Key,
        begin: impl FnOnce() -> F,
    ) -> Joined<T> {
        let mut flights = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(flight) = flights.get(&key) {
            return Joined::Other(flight.clone());
        }
        if flights.len() >= MOST {
            return Joined::Full;
        }
        let (answer, flight) = watch::channel(None);
        flights.insert(key, flight.clone());
        let (landing, work) = (Landing { flights: Arc::clone(&self.0), key }, begin());
        tokio::spawn(async move {
            let outcome = work.await;
            // whoever comes from here on begins anew: answers are not kept
            drop(landing);
            answer.send_replace(Some(outcome));
        });
        Joined::First(flight)
    }
}

/// Waits for the answer; `None` if there will be none.
pub(super) async fn landed<T: Clone>(mut flight: Flight<T>) -> Option<T> {
    flight.wait_for(Option::is_some).await.ok()?.clone()
}

impl<T> Drop for Landing<T> {
    fn drop(&mut self) {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}
