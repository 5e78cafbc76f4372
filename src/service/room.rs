//! What requests that are being answered take up in memory, bounded before anybody has looked at their proofs.
//!
//! No address has more than a part of the room: one that floods is refused, and the others are answered as before. What an older
//! replica forwards has no address: it has the bounds of the whole alone.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Of the whole, one address has at most one part of so many.
pub(super) const PARTS: usize = 8;
/// What an answer takes up beside the request, in bytes.
pub(super) const BYTES_EACH: usize = 2 << 10;

#[derive(Debug)]
pub(super) struct Room {
    /// In bytes.
    in_all: usize,
    taken: Arc<Mutex<Taken>>,
}

#[derive(Debug, Default)]
struct Taken {
    in_all: usize,
    /// Of addresses that have something under way.
    by_address: HashMap<IpAddr, usize>,
}

/// A request's part of the room; free again when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    taken: Arc<Mutex<Taken>>,
    bytes: usize,
    address: Option<IpAddr>,
}

impl Room {
    /// For so many bytes: of what callers send, and [`BYTES_EACH`] for each.
    pub(super) fn new(in_all: usize) -> Self {
        Self { in_all, taken: Arc::default() }
    }

    /// A place for a request of so many bytes. `None` when there is none left, for this address or for anybody.
    pub(super) fn place(&self, bytes: usize, address: Option<IpAddr>) -> Option<Place> {
        let bytes = bytes.saturating_add(BYTES_EACH);
        let mut taken = lock(&self.taken);
        let of_address = address.and_then(|address| taken.by_address.get(&address).copied()).unwrap_or_default();
        let fits = |taken: usize, most: usize| taken.saturating_add(bytes) <= most;
        if !fits(taken.in_all, self.in_all) || (address.is_some() && !fits(of_address, self.in_all / PARTS)) {
            return None;
        }
        taken.in_all += bytes;
        if let Some(address) = address {
            taken.by_address.insert(address, of_address + bytes);
        }
        Some(Place { taken: Arc::clone(&self.taken), bytes, address })
    }

    /// Whether nobody has a place.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        let taken = lock(&self.taken);
        taken.in_all == 0 && taken.by_address.is_empty()
    }
}

fn lock(taken: &Mutex<Taken>) -> MutexGuard<'_, Taken> {
    taken.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = lock(&self.taken);
        taken.in_all -= self.bytes;
        if let Some(address) = self.address
            && let Some(of_address) = taken.by_address.get_mut(&address)
        {
            *of_address -= self.bytes;
            if *of_address == 0 {
                taken.by_address.remove(&address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const IN_ALL: usize = 1 << 20;
    const OF_ONE: usize = IN_ALL / PARTS;

    #[test]
    fn one_address_has_a_part_and_all_have_the_whole() {
        let room = Room::new(IN_ALL);
        let [one, other] = [1, 2].map(|last| Some(IpAddr::from(Ipv4Addr::new(10, 0, 0, last))));
        let large = OF_ONE - BYTES_EACH;
        let of_one = room.place(large, one).unwrap();
        assert!(room.place(0, one).is_none());
        assert!(room.place(OF_ONE, other).is_none());
        let _of_other = room.place(large, other).unwrap();
        let _of_nobody = room.place(IN_ALL - 2 * OF_ONE - BYTES_EACH, None).unwrap();
        assert!(room.place(0, None).is_none());
        drop(of_one);
        let _again = room.place(large, one).unwrap();
        assert!(room.place(0, Some(Ipv4Addr::LOCALHOST.into())).is_none());
    }

    #[test]
    fn what_has_been_left_is_forgotten() {
        let room = Room::new(IN_ALL);
        let places: Vec<_> =
            (0..100).map(|n| room.place(n, Some(Ipv4Addr::from_bits(u32::try_from(n).unwrap()).into()))).collect();
        assert!(!room.is_empty());
        drop(places);
        assert!(room.is_empty());
    }
}
