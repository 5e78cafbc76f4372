//! How long to wait after failures in a row.

use std::time::Duration;

/// Doubles from `first` up to `ceiling`.
#[derive(Debug)]
pub(super) struct Backoff {
    first: Duration,
    ceiling: Duration,
    setbacks: u32,
}

impl Backoff {
    pub(super) const fn new(first: Duration, ceiling: Duration) -> Self {
        Self { first, ceiling, setbacks: 0 }
    }

    pub(super) const fn reset(&mut self) {
        self.setbacks = 0;
    }

    /// After a failure.
    pub(super) fn failed(&mut self) -> Duration {
        let delay = self.first.saturating_mul(1_u32.checked_shl(self.setbacks).unwrap_or(u32::MAX)).min(self.ceiling);
        self.setbacks = self.setbacks.saturating_add(1);
        delay
    }

    /// After a refusal that tells what to do instead: at once the first time, then like a failure.
    pub(super) fn refused(&mut self) -> Duration {
        if self.setbacks == 0 {
            self.setbacks = 1;
            return Duration::ZERO;
        }
        self.failed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_double_up_to_the_ceiling_and_the_first_refusal_costs_nothing() {
        let millis = Duration::from_millis;
        let mut backoff = Backoff::new(millis(250), millis(1_000));
        assert_eq!(backoff.refused(), millis(0));
        assert_eq!([backoff.refused(), backoff.failed(), backoff.failed()], [500, 1_000, 1_000].map(millis));
        backoff.reset();
        assert_eq!(backoff.failed(), millis(250));
        for _ in 0..100 {
            assert!(backoff.failed() <= millis(1_000));
        }
    }
}
