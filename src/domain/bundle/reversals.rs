//! How often somebody else undid what we wrote.

use std::time::Duration;

use crate::domain::clock::BootInstant;

/// Counts, and forgets what is long ago.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reversals {
    count: u32,
    last: Option<BootInstant>,
}

/// Two in this time are a fight with another writer; somebody who edits by hand is slower, or doesn't do it twice.
const MEMORY: Duration = Duration::from_secs(600);
/// How many are answered.
const ANSWERED: u32 = 1;

impl Reversals {
    /// One more.
    pub fn count(&mut self, now: BootInstant) {
        if self.last.is_none_or(|last| now.since(last) > MEMORY) {
            self.count = 0;
        }
        self.count = self.count.saturating_add(1);
        self.last = Some(now);
    }

    /// Whether another writer insists: to write again would be a fight without end.
    pub const fn is_a_fight(&self) -> bool {
        self.count > ANSWERED
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_within_ten_minutes_is_a_fight() {
        let at = |seconds: u64| BootInstant::from_nanos(seconds * 1_000_000_000);
        let mut reversals = Reversals::default();
        for (now, fight) in [(1, false), (700, false), (1200, true), (1900, false), (1901, true)] {
            reversals.count(at(now));
            assert_eq!(reversals.is_a_fight(), fight, "at {now} s");
        }
    }
}
