//! Places for streams, of which no identity has more than its share.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tonic::Status;

use crate::domain::identity::SpiffeId;

/// Streams of gateways at one time.
const OF_GATEWAYS: usize = 256;
/// One identity has at most this part of them.
const SHARE: usize = 4;

/// All places.
#[derive(Debug)]
pub(super) struct Places {
    room: usize,
    taken: Arc<Mutex<BTreeMap<SpiffeId, usize>>>,
}

impl Default for Places {
    fn default() -> Self {
        Self::with_room(OF_GATEWAYS)
    }
}

/// One place, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    gateway: SpiffeId,
    taken: Arc<Mutex<BTreeMap<SpiffeId, usize>>>,
}

impl Places {
    /// For so many streams at one time.
    pub(super) fn with_room(room: usize) -> Self {
        Self { room, taken: Arc::default() }
    }

    /// One for a stream of `gateway`.
    ///
    /// # Errors
    ///
    /// `ResourceExhausted` when there is none left for it.
    pub(super) fn take(&self, gateway: &SpiffeId) -> Result<Place, Status> {
        let mut taken = locked(&self.taken);
        let (in_all, of_one) = (taken.values().sum::<usize>(), taken.get(gateway).copied().unwrap_or_default());
        if of_one >= self.room / SHARE {
            return Err(Status::resource_exhausted(format!("{of_one} streams of {gateway} are open already")));
        }
        if in_all >= self.room {
            return Err(Status::resource_exhausted(format!("{in_all} streams are open already")));
        }
        taken.insert(gateway.clone(), of_one + 1);
        Ok(Place { gateway: gateway.clone(), taken: Arc::clone(&self.taken) })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = locked(&self.taken);
        if let Some(count) = taken.get_mut(&self.gateway) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.gateway);
            }
        }
    }
}

fn locked(taken: &Mutex<BTreeMap<SpiffeId, usize>>) -> MutexGuard<'_, BTreeMap<SpiffeId, usize>> {
    taken.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OF_ONE: usize = OF_GATEWAYS / SHARE;

    fn gateway(number: usize) -> SpiffeId {
        format!("spiffe://td/g{number}").parse().unwrap()
    }

    #[test]
    fn one_identity_leaves_places_for_others_and_gives_its_own_back() {
        let places = Places::default();
        let mut taken: Vec<Place> = (0..OF_ONE).map(|_| places.take(&gateway(0)).unwrap()).collect();
        let refused = places.take(&gateway(0)).unwrap_err();
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
        assert!(refused.message().contains("64 streams of spiffe://td/g0"), "{refused}");
        for number in 1..=3 {
            taken.extend((0..OF_ONE).map(|_| places.take(&gateway(number)).unwrap()));
        }
        assert!(places.take(&gateway(4)).unwrap_err().message().contains("256 streams are open"));
        taken.truncate(OF_ONE - 1);
        places.take(&gateway(0)).unwrap();
        drop(taken);
        assert!(locked(&places.taken).is_empty());
    }
}
