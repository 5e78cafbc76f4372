//! Which token is put before the API server next.
//!
//! The API server's time is shared out in two lanes. The wide one is for tokens that look like those which it accepted
//! before: of the same issuer and key, from an address whose tokens were not refused lately. All others share the narrow
//! lane: however many there are, they hold up each other alone. A new signing key comes through the narrow lane until its
//! first token is accepted. While nothing has been accepted yet, every issuer and key is taken for good.
//!
//! - Within a lane it goes by arrival. A lane has so many places for calls and for waiting; who finds none is not refused
//!   but undecided, and tries again within the bounds of a held request.
//! - One address has so many places in all: who can name the right issuer and key, which are no secrets, gets at most these
//!   in front of others, until the third refusal in a row moves the address to the narrow lane for ten seconds. One
//!   acceptance makes it good again.
//! - What an older replica forwards has no address: it has the bounds of its lane alone.

use std::{
    collections::{HashMap, VecDeque},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

use super::Reviewed;
use crate::domain::{clock::BootInstant, jwt::TokenOrigin};

/// Calls at a time, and places for calls and waiting together.
const WIDE: (usize, usize) = (32, 1024);
/// The same for everybody else.
const NARROW: (usize, usize) = (4, 256);
/// Places of one address.
const PLACES_OF_ONE: usize = 64;
/// Refusals in a row that cast doubt on an address.
const DOUBTED_AFTER: u32 = 3;
/// How long doubt lasts after the last refusal.
const DOUBT_LASTS: Duration = Duration::from_secs(10);
/// Addresses that are remembered. When so many have something under way or are in doubt, a new one is taken for a doubtful
/// one.
const ADDRESSES: usize = 4096;
/// Issuers and keys that are remembered: the last ones of which a token was accepted.
const ORIGINS: usize = 16;

/// Why a token is not reviewed now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Busy {
    #[error("too many tokens are under review")]
    Lane,
    #[error("too many tokens from the same address are under review")]
    Address,
}

pub(super) struct Admission {
    wide: Lane,
    narrow: Lane,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Clone)]
struct Lane {
    calls: Arc<Semaphore>,
    places: Arc<Semaphore>,
}

#[derive(Default)]
struct Seen {
    /// The latest last.
    accepted: VecDeque<TokenOrigin>,
    addresses: HashMap<IpAddr, Address>,
}

#[derive(Default)]
struct Address {
    under_way: usize,
    refused_in_a_row: u32,
    last_refused: Option<BootInstant>,
}

/// A token's place in its lane; free again when it is dropped.
pub(super) struct Place {
    calls: Arc<Semaphore>,
    _place: OwnedSemaphorePermit,
    seen: Arc<Mutex<Seen>>,
    origin: TokenOrigin,
    address: Option<IpAddr>,
}

impl Admission {
    pub(super) fn new() -> Self {
        Self { wide: Lane::new(WIDE), narrow: Lane::new(NARROW), seen: Arc::default() }
    }

    /// A place for one review.
    pub(super) fn enter(&self, address: Option<IpAddr>, origin: &TokenOrigin, now: BootInstant) -> Result<Place, Busy> {
        let mut seen = lock(&self.seen);
        let known = address.map(|address| seen.remember(address, now));
        let (remembered, is_doubted) = match known {
            Some(Some(known)) if known.under_way >= PLACES_OF_ONE => return Err(Busy::Address),
            Some(Some(known)) => (address, known.is_doubted(now)),
            Some(None) => (None, true),
            None => (None, false),
        };
        let lane = if is_doubted || !seen.is_like_accepted(origin) { &self.narrow } else { &self.wide };
        let place = Arc::clone(&lane.places).try_acquire_owned().map_err(|_full| Busy::Lane)?;
        if let Some(known) = remembered.and_then(|address| seen.addresses.get_mut(&address)) {
            known.under_way += 1;
        }
        Ok(Place {
            calls: Arc::clone(&lane.calls),
            _place: place,
            seen: Arc::clone(&self.seen),
            origin: origin.clone(),
            address: remembered,
        })
    }
}

impl Lane {
    fn new((calls, places): (usize, usize)) -> Self {
        Self { calls: Arc::new(Semaphore::new(calls)), places: Arc::new(Semaphore::new(places)) }
    }
}

impl Seen {
    /// `None` when there is no room for one more.
    fn remember(&mut self, address: IpAddr, now: BootInstant) -> Option<&Address> {
        if !self.addresses.contains_key(&address) && self.addresses.len() >= ADDRESSES {
            self.addresses.retain(|_, known| known.under_way > 0 || known.is_doubted(now));
            if self.addresses.len() >= ADDRESSES {
                return None;
            }
        }
        Some(self.addresses.entry(address).or_default())
    }

    fn is_like_accepted(&self, origin: &TokenOrigin) -> bool {
        self.accepted.is_empty() || self.accepted.contains(origin)
    }

    fn accepted(&mut self, origin: &TokenOrigin) {
        if self.accepted.back() == Some(origin) {
            return;
        }
        self.accepted.retain(|known| known != origin);
        self.accepted.push_back(origin.clone());
        if self.accepted.len() > ORIGINS {
            self.accepted.pop_front();
        }
    }
}

impl Address {
    fn is_doubted(&self, now: BootInstant) -> bool {
        self.refused_in_a_row >= DOUBTED_AFTER && self.last_refused.is_some_and(|last| last.plus(DOUBT_LASTS) > now)
    }
}

impl Place {
    /// Waits until it is this token's turn; it lasts until the permit is dropped.
    pub(super) async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        self.calls.acquire().await.ok()
    }

    /// Remembers what came of it.
    pub(super) fn learn(&self, reviewed: &Reviewed, now: BootInstant) {
        let mut seen = lock(&self.seen);
        if reviewed.is_ok() {
            seen.accepted(&self.origin);
        }
        let Some(known) = self.address.and_then(|address| seen.addresses.get_mut(&address)) else { return };
        match reviewed {
            Ok(_) => known.refused_in_a_row = 0,
            Err(error) if error.is_undecided() => {}
            Err(_) => {
                known.refused_in_a_row = known.refused_in_a_row.saturating_add(1);
                known.last_refused = Some(now);
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut seen = lock(&self.seen);
        let Some(address) = self.address else { return };
        if let Some(known) = seen.addresses.get_mut(&address) {
            known.under_way = known.under_way.saturating_sub(1);
            if known.under_way == 0 && known.refused_in_a_row == 0 {
                seen.addresses.remove(&address);
            }
        }
    }
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::domain::attestation::{ReviewError, ReviewedAccount};

    const NOW: BootInstant = BootInstant::from_nanos(1_000_000_000);

    fn origin(key: &str) -> TokenOrigin {
        TokenOrigin { issuer: "issuer".into(), key: key.into() }
    }

    fn address(number: u32) -> Option<IpAddr> {
        Some(Ipv4Addr::from_bits(number).into())
    }

    fn accepted() -> Reviewed {
        Ok(ReviewedAccount { account: "default/gateway".parse().unwrap(), pod: None })
    }

    fn refused() -> Reviewed {
        Err(ReviewError::NotAuthenticated)
    }

    /// An admission that has accepted a token of `key` from address 1.
    fn admission() -> Admission {
        let admission = Admission::new();
        admission.enter(address(1), &origin("key"), NOW).unwrap().learn(&accepted(), NOW);
        admission
    }

    fn is_wide(admission: &Admission, place: &Place) -> bool {
        Arc::ptr_eq(&admission.wide.calls, &place.calls)
    }

    #[test]
    fn what_looks_like_what_was_accepted_goes_wide_and_all_else_narrow() {
        let admission = admission();
        for (key, wide) in [("key", true), ("other", false), ("", false)] {
            let place = admission.enter(address(2), &origin(key), NOW).unwrap();
            assert_eq!(is_wide(&admission, &place), wide, "{key}");
        }
        admission.enter(address(2), &origin("other"), NOW).unwrap().learn(&accepted(), NOW);
        assert!(is_wide(&admission, &admission.enter(address(2), &origin("other"), NOW).unwrap()));
    }

    #[test]
    fn before_anything_is_accepted_every_key_is_taken_for_good() {
        let admission = Admission::new();
        assert!(is_wide(&admission, &admission.enter(None, &origin("any"), NOW).unwrap()));
    }

    #[test]
    fn an_address_is_in_doubt_after_three_refusals_in_a_row_for_a_while() {
        let admission = admission();
        let review = |outcome: &Reviewed| admission.enter(address(2), &origin("key"), NOW).unwrap().learn(outcome, NOW);
        let wide_at = |at| is_wide(&admission, &admission.enter(address(2), &origin("key"), at).unwrap());
        review(&refused());
        review(&refused());
        review(&accepted());
        review(&refused());
        review(&refused());
        assert!(wide_at(NOW));
        review(&Err(ReviewError::Unavailable(String::new())));
        assert!(wide_at(NOW));
        review(&refused());
        assert!(!wide_at(NOW));
        assert!(is_wide(&admission, &admission.enter(address(3), &origin("key"), NOW).unwrap()));
        assert!(wide_at(NOW.plus(DOUBT_LASTS)));
        review(&refused());
        assert!(!wide_at(NOW));
        review(&accepted());
        assert!(wide_at(NOW));
    }

    #[test]
    fn one_address_has_so_many_places_and_a_lane_too() {
        let admission = admission();
        let mut places: Vec<_> =
            (0..PLACES_OF_ONE).map(|_| admission.enter(address(1), &origin("key"), NOW).unwrap()).collect();
        assert_eq!(admission.enter(address(1), &origin("key"), NOW).err(), Some(Busy::Address));
        let others = WIDE.1 - PLACES_OF_ONE;
        places.extend((0..others).map(|_| admission.enter(None, &origin("key"), NOW).unwrap()));
        assert_eq!(admission.enter(None, &origin("key"), NOW).err(), Some(Busy::Lane));
        assert!(admission.enter(None, &origin("other"), NOW).is_ok());
        places.clear();
        assert!(admission.enter(address(1), &origin("key"), NOW).is_ok());
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let admission = admission();
        for number in 0..u32::try_from(ADDRESSES).unwrap() {
            for _ in 0..DOUBTED_AFTER {
                admission.enter(address(number), &origin("key"), NOW).unwrap().learn(&refused(), NOW);
            }
        }
        let place = admission.enter(address(1 << 20), &origin("key"), NOW).unwrap();
        assert!(!is_wide(&admission, &place));
        assert_eq!(lock(&admission.seen).addresses.len(), ADDRESSES);
        // doubt ends, and makes room
        let later = NOW.plus(DOUBT_LASTS);
        assert!(is_wide(&admission, &admission.enter(address(1 << 20), &origin("key"), later).unwrap()));
        drop(place);
        assert_eq!(lock(&admission.seen).addresses.len(), 0);
        for key in 0..100 {
            admission.enter(None, &origin(&key.to_string()), NOW).unwrap().learn(&accepted(), NOW);
        }
        assert_eq!(lock(&admission.seen).accepted.len(), ORIGINS);
    }
}
