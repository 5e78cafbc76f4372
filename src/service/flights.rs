//! Equal questions that are under way at the same time are asked once. How many there are at the most is for those to bound who
//! begin them.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use opentelemetry::context::FutureExt as _;
use tokio::sync::watch;
use tracing::Instrument as _;

/// Says which questions are equal: a hash of all that counts.
pub(super) type Key = [u8; 32];

/// What is under way.
pub(super) struct Flights<T>(Arc<Mutex<HashMap<Key, Flight<T>>>>);

/// The answer, as soon as there is one.
pub(super) type Flight<T> = watch::Receiver<Option<T>>;

/// Takes a flight off the list, also when its task panics.
struct Landing<T> {
    flights: Arc<Mutex<HashMap<Key, Flight<T>>>>,
    key: Key,
}

/// How a caller comes by its answer.
pub(super) enum Joined<T> {
    /// Its question is the first of its kind.
    First(Flight<T>),
    /// There is an equal one.
    Other(Flight<T>),
}

impl<T: Clone + Send + Sync + 'static> Flights<T> {
    pub(super) fn new() -> Self {
        Self(Arc::default())
    }

    /// Joins what is under way under `key`, or begins it. It goes on whoever leaves.
    ///
    /// # Errors
    ///
    /// What `begin` says that keeps it from beginning.
    pub(super) fn join<F: Future<Output = T> + Send + 'static, E>(
        &self,
        key: Key,
        begin: impl FnOnce() -> Result<F, E>,
    ) -> Result<Joined<T>, E> {
        let mut flights = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(flight) = flights.get(&key) {
            return Ok(Joined::Other(flight.clone()));
        }
        let work = begin()?;
        let (answer, flight) = watch::channel(None);
        flights.insert(key, flight.clone());
        let landing = Landing { flights: Arc::clone(&self.0), key };
        let flown = async move {
            let outcome = work.await;
            // whoever comes from here on begins anew: answers are not kept here
            drop(landing);
            answer.send_replace(Some(outcome));
        };
        // in the trace of the first, whose question it is
        tokio::spawn(flown.in_current_span().with_current_context());
        Ok(Joined::First(flight))
    }
}

#[cfg(test)]
impl<T> Flights<T> {
    /// Whether nothing is under way.
    pub(super) fn is_empty(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
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
