//! What requests that are being answered take up in memory, bounded before anybody has looked at their proofs.
//!
//! No address has more than a part of the room: one that floods is refused, and the others are answered as before. What an older
//! replica forwards has no address: it has the bounds of the whole alone.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// In all, in bytes: of what callers send, and [`BYTES_EACH`] for each. The small ones are some 10,000.
pub(super) const BYTES_IN_ALL: usize = 32 << 20;
/// Of one address.
pub(super) const BYTES_OF_ONE: usize = 4 << 20;
/// What an answer takes up beside the request.
pub(super) const BYTES_EACH: usize = 2 << 10;

#[derive(Debug, Default)]
pub(super) struct Room(Mutex<Taken>);

#[derive(Debug, Default)]
struct Taken {
    in_all: usize,
    /// Of addresses that have something under way.
    by_address: HashMap<IpAddr, usize>,
}

/// A request's part of the room; free again when it is dropped.
#[derive(Debug)]
pub(super) struct Place<'a> {
    room: &'a Room,
    bytes: usize,
    address: Option<IpAddr>,
}

impl Room {
    /// A place for a request of so many bytes. `None` when there is none left, for this address or for anybody.
    pub(super) fn place(&self, bytes: usize, address: Option<IpAddr>) -> Option<Place<'_>> {
        let bytes = bytes.saturating_add(BYTES_EACH);
        let mut taken = self.taken();
        let of_address = address.and_then(|address| taken.by_address.get(&address).copied()).unwrap_or_default();
        let fits = |taken: usize, most: usize| taken.saturating_add(bytes) <= most;
        if !fits(taken.in_all, BYTES_IN_ALL) || (address.is_some() && !fits(of_address, BYTES_OF_ONE)) {
            return None;
        }
        taken.in_all += bytes;
        if let Some(address) = address {
            taken.by_address.insert(address, of_address + bytes);
        }
        Some(Place { room: self, bytes, address })
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether nobody has a place.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        let taken = self.taken();
        taken.in_all == 0 && taken.by_address.is_empty()
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut taken = self.room.taken();
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

    #[test]
    fn one_address_has_a_part_and_all_have_the_whole() {
        let room = Room::default();
        let [one, other] = [1, 2].map(|last| Some(IpAddr::from(Ipv4Addr::new(10, 0, 0, last))));
        let large = BYTES_OF_ONE - BYTES_EACH;
        let of_one = room.place(large, one).unwrap();
        assert!(room.place(0, one).is_none());
        assert!(room.place(BYTES_OF_ONE, other).is_none());
        let _of_other = room.place(large, other).unwrap();
        let _of_nobody = room.place(BYTES_IN_ALL - 2 * BYTES_OF_ONE - BYTES_EACH, None).unwrap();
        assert!(room.place(0, None).is_none());
        drop(of_one);
        let _again = room.place(large, one).unwrap();
        assert!(room.place(0, Some(Ipv4Addr::LOCALHOST.into())).is_none());
    }

    #[test]
    fn what_has_been_left_is_forgotten() {
        let room = Room::default();
        let places: Vec<_> =
            (0..100).map(|n| room.place(n, Some(Ipv4Addr::from_bits(u32::try_from(n).unwrap()).into()))).collect();
        assert!(!room.is_empty());
        drop(places);
        assert!(room.is_empty());
    }
}
