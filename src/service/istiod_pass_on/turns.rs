//! Who may ask istiod when. Turns come at a bounded rate. They are taken before istiod has judged the token, so no address may have
//! so many that wait that others find none: it has at most as many as are left for everybody else.

use std::{
    collections::HashMap,
    net::IpAddr,
    num::NonZeroU32,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::sleep;

use crate::domain::{clock::BootInstant, pace::Pace};

/// The longest wait for a turn: the rest of the time is istiod's.
const PATIENCE: Duration = Duration::from_secs(8);

/// All turns that there are.
pub(super) struct Turns {
    interval: Duration,
    state: Mutex<State>,
}

struct State {
    pace: Pace,
    /// Turns that have not come yet, by the address that has them.
    waiting: HashMap<IpAddr, u32>,
}

/// One that was taken.
pub(super) struct Turn<'a> {
    wait: Duration,
    turns: &'a Turns,
    address: Option<IpAddr>,
}

impl Turns {
    /// So many a second in the long run, and twice of that at once.
    pub(super) fn new(per_second: NonZeroU32) -> Self {
        let interval = Duration::from_secs(1) / per_second.get();
        let pace = Pace::new(interval, per_second.get().saturating_mul(2), BootInstant::from_nanos(0));
        Self { interval, state: Mutex::new(State { pace, waiting: HashMap::new() }) }
    }

    /// The next one, for a request from `address`. `None`, and none is taken, if it would be too late, or if that address has
    /// as many that wait as are left. What has no address is a replica's own.
    pub(super) fn take(&self, address: Option<IpAddr>, now: BootInstant) -> Option<Turn<'_>> {
        let mut state = self.state();
        let left = PATIENCE.checked_sub(state.pace.free_at().since(now))?;
        let address = address.filter(|_| left < PATIENCE);
        if let Some(address) = address {
            let has = state.waiting.get(&address).copied().unwrap_or_default();
            if has > 0 && self.interval.saturating_mul(has) >= left {
                return None;
            }
            state.waiting.insert(address, has + 1);
        }
        Some(Turn { wait: state.pace.take(now), turns: self, address })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn<'_> {
    /// Waits for it.
    pub(super) async fn come(self) {
        sleep(self.wait).await;
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let Some(address) = self.address else { return };
        let mut state = self.turns.state();
        if let Some(waiting) = state.waiting.get_mut(&address) {
            *waiting -= 1;
            if *waiting == 0 {
                state.waiting.remove(&address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const NOW: BootInstant = BootInstant::from_nanos(1_000_000_000);
    const RATE: u32 = 40;
    /// How many turns fit into the patience.
    const FIT: usize = 320;

    fn turns() -> Turns {
        let turns = Turns::new(RATE.try_into().unwrap());
        (0..2 * RATE).for_each(|_| assert!(turns.take(None, NOW).unwrap().wait.is_zero()));
        turns
    }

    fn address(number: u32) -> Option<IpAddr> {
        Some(Ipv4Addr::from_bits(number).into())
    }

    /// As many as an address gets.
    fn all(turns: &Turns, number: u32) -> Vec<Turn<'_>> {
        std::iter::from_fn(|| turns.take(address(number), NOW)).collect()
    }

    #[test]
    fn an_address_has_no_more_that_wait_than_are_left() {
        let turns = turns();
        let mut waiting = all(&turns, 1);
        assert_eq!(waiting.len(), FIT / 2);
        waiting.extend(all(&turns, 2));
        assert_eq!(waiting.len(), FIT / 2 + FIT / 4);
        let own: Vec<_> = std::iter::from_fn(|| turns.take(None, NOW)).collect();
        assert_eq!(waiting.len() + own.len(), FIT, "those of the replica itself");
        assert_eq!(own.last().unwrap().wait, PATIENCE);
    }

    #[test]
    fn addresses_that_flood_leave_turns_to_others() {
        for flooding in [1, 7, 50, 100] {
            let turns = turns();
            let mut waiting: Vec<_> =
                (0..FIT).flat_map(|_| (1..=flooding).filter_map(|n| turns.take(address(n), NOW))).collect();
            let turn = turns.take(address(0), NOW);
            assert!(turn.is_some(), "{} of {flooding} addresses wait", waiting.len());
            waiting.extend(turn);
            drop(waiting);
            assert!(turns.state().waiting.is_empty());
        }
    }

    #[test]
    fn a_turn_that_comes_at_once_is_nobodys_share() {
        let turns = Turns::new(u32::MAX.try_into().unwrap());
        (0..1000).for_each(|_| assert!(turns.take(address(1), NOW).is_some()));
        assert!(turns.state().waiting.is_empty());
    }
}
