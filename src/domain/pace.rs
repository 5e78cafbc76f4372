//! How often somebody may be asked: a token bucket.

use std::time::Duration;

use super::clock::BootInstant;

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

    /// From when on the next turn can be had.
    pub fn free_at(&self) -> BootInstant {
        BootInstant::from_nanos(self.full_at.nanos().saturating_sub(nanos(self.tolerance)))
    }

    /// Takes the next turn, which is after the returned time. Turns are in the order in which they are taken.
    pub fn take(&mut self, now: BootInstant) -> Duration {
        let wait = self.free_at().since(now);
        self.full_at = self.full_at.max(now).plus(self.interval);
        wait
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn at(millis: u64) -> BootInstant {
        BootInstant::from_nanos(millis * nanos(MS))
    }

    #[test]
    fn an_untouched_bucket_gives_its_burst_at_once_and_then_one_each_interval() {
        let mut pace = Pace::new(25 * MS, 3, at(1000));
        let free = |millis: &u64| pace.free_at() <= at(1000 + millis) && pace.take(at(1000 + millis)).is_zero();
        assert_eq!((0..100).filter(free).collect::<Vec<_>>(), [0, 1, 2, 25, 50, 75]);
    }

    #[test]
    fn turns_that_are_taken_ahead_come_one_each_interval() {
        let mut pace = Pace::new(5 * MS, 400, at(0));
        for turn in 0..400 {
            assert_eq!(pace.take(at(1)), Duration::ZERO, "{turn}");
        }
        for turn in 1..=2000 {
            assert_eq!(pace.take(at(1)), 5 * MS * turn, "{turn}");
        }
        assert_eq!(pace.free_at(), at(10_006));
        assert_eq!(pace.take(at(12_001)), Duration::ZERO);
    }

    proptest! {
        #[test]
        fn turns_are_in_order_and_no_second_has_more_than_its_rate_and_the_burst(
            steps in prop::collection::vec(0_u64..60, 1..1000),
            (interval, burst, patience) in (1_u64..50, 1_u32..100, 0_u64..10_000),
        ) {
            let mut pace = Pace::new(Duration::from_millis(interval), burst, at(0));
            let (mut now, mut turns) = (at(0), Vec::new());
            for step in steps {
                now = now.plus(Duration::from_millis(step));
                let free_at = pace.free_at().max(now);
                if free_at.since(now) <= Duration::from_millis(patience) {
                    prop_assert_eq!(now.plus(pace.take(now)), free_at);
                    turns.push(free_at);
                }
            }
            prop_assert!(turns.is_sorted());
            for (index, from) in turns.iter().enumerate() {
                let in_a_second = turns.iter().skip(index).take_while(|at| at.since(*from) < 1000 * MS).count() as u64;
                prop_assert!(in_a_second < 1000_u64.div_ceil(interval) + u64::from(burst));
            }
        }
    }
}
