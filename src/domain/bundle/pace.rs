//! A token bucket: how many requests may be made in a time.

use std::time::Duration;

use crate::domain::clock::BootInstant;

/// Gives out turns: one each interval, and up to `burst` that were not taken earlier.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    interval: Duration,
    tolerance: Duration,
    /// When the bucket will be full again.
    full_at: BootInstant,
}

impl Pace {
    /// A bucket that is full at an instant.
    pub fn new(interval: Duration, burst: u32, full_at: BootInstant) -> Self {
        Self { interval, tolerance: interval * burst.saturating_sub(1), full_at }
    }

    /// From when on a turn can be had.
    pub fn free_at(&self) -> BootInstant {
        BootInstant::from_nanos(self.full_at.nanos().saturating_sub(nanos(self.tolerance)))
    }

    /// Takes a turn. Whether there was one.
    pub fn take(&mut self, now: BootInstant) -> bool {
        let free = self.free_at() <= now;
        if free {
            self.full_at = self.full_at.max(now).plus(self.interval);
        }
        free
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn an_untouched_bucket_gives_its_burst_at_once_and_then_one_each_interval() {
        let mut pace = Pace::new(Duration::from_millis(25), 3, BootInstant::from_nanos(1000 * MS));
        let taken = (0..100).filter(|at| pace.take(BootInstant::from_nanos((1000 + at) * MS))).collect::<Vec<_>>();
        assert_eq!(taken, [0, 1, 2, 25, 50, 75]);
    }

    proptest! {
        #[test]
        fn no_second_has_more_than_its_rate_and_the_burst(
            steps in proptest::collection::vec(0_u64..60, 1..2000), interval in 1_u64..50, burst in 1_u32..5,
        ) {
            let mut pace = Pace::new(Duration::from_millis(interval), burst, BootInstant::from_nanos(0));
            let mut at = 0;
            let mut taken = Vec::new();
            for step in steps {
                at += step;
                if pace.take(BootInstant::from_nanos(at * MS)) {
                    taken.push(at);
                } else {
                    prop_assert!(pace.free_at() > BootInstant::from_nanos(at * MS));
                }
            }
            for (index, from) in taken.iter().enumerate() {
                let in_a_second = taken.iter().skip(index).take_while(|at| **at < from + 1000).count() as u64;
                prop_assert!(in_a_second < 1000_u64.div_ceil(interval) + u64::from(burst));
            }
        }
    }
}
