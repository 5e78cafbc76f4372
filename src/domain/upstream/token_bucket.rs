//! How often an authority may be asked.

use std::time::Duration;

use crate::domain::clock::BootInstant;

/// A token bucket that says how long each one has to wait for its turn. It holds twice of what flows in each second.
#[derive(Debug)]
pub struct TokenBucket {
    /// Between two turns in the long run.
    interval: Duration,
    /// How far turns may be ahead of that.
    tolerance: Duration,
    /// When the next turn would be if all came evenly.
    next: BootInstant,
}

impl TokenBucket {
    /// For `per_second` turns a second; full. Zero counts as one.
    pub fn new(per_second: u32) -> Self {
        let interval = Duration::from_secs(1) / per_second.max(1);
        let burst = per_second.max(1).saturating_mul(2);
        Self { interval, tolerance: interval * (burst - 1), next: BootInstant::from_nanos(0) }
    }

    /// Takes the next turn, which is after the returned time. Turns are in the order in which they are taken.
    ///
    /// # Errors
    ///
    /// The time, when it is longer than `patience`: no turn is taken then.
    pub fn take(&mut self, now: BootInstant, patience: Duration) -> Result<Duration, Duration> {
        let even = self.next.max(now);
        let wait = even.since(now).saturating_sub(self.tolerance);
        if wait > patience {
            return Err(wait);
        }
        self.next = even.plus(self.interval);
        Ok(wait)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    #[test]
    fn a_burst_passes_at_once_and_the_rest_evenly() {
        let mut bucket = TokenBucket::new(200);
        let now = BootInstant::from_nanos(1);
        for turn in 0..400 {
            assert_eq!(bucket.take(now, PATIENCE), Ok(Duration::ZERO), "{turn}");
        }
        for turn in 1..=2000 {
            assert_eq!(bucket.take(now, PATIENCE), Ok(Duration::from_millis(5) * turn), "{turn}");
        }
        assert_eq!(bucket.take(now, PATIENCE), Err(Duration::from_millis(10_005)));
        let later = now.plus(Duration::from_secs(12));
        assert_eq!(bucket.take(later, PATIENCE), Ok(Duration::ZERO));
    }

    proptest! {
        #[test]
        fn turns_are_in_order_never_more_than_allowed_and_nobody_waits_longer_than_he_would(
            per_second in 1_u32..50,
            asked in prop::collection::vec(0_u64..200, 1..300),
        ) {
            let mut bucket = TokenBucket::new(per_second);
            let mut now = BootInstant::from_nanos(7);
            let mut turns: Vec<BootInstant> = Vec::new();
            for millis in asked {
                now = now.plus(Duration::from_millis(millis));
                if let Ok(wait) = bucket.take(now, PATIENCE) {
                    prop_assert!(wait <= PATIENCE);
                    turns.push(now.plus(wait));
                }
            }
            prop_assert!(turns.is_sorted());
            let burst = 2 * per_second as usize;
            for (first, last) in turns.iter().zip(turns.iter().skip(burst)) {
                // so many and one more turns need at least the time in which one flows in
                prop_assert!(last.since(*first) + Duration::from_nanos(1) >= Duration::from_secs(1) / per_second);
            }
            for (first, last) in turns.iter().zip(turns.iter().skip(burst + per_second as usize)) {
                prop_assert!(last.since(*first) + Duration::from_micros(1) >= Duration::from_secs(1));
            }
        }
    }
}
