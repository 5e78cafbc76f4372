//! The three lengths of time that a lease lives by.

use std::time::Duration;

/// Lengths of a lease, parsed: renewal < step-down < lease.
///
/// The holder counts the step-down, the others count the lease, each on its own clock. The take-over is safe as long as
/// those clocks' rates differ by less than the factor `lease / step_down` (1.43 by default).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseTiming {
    renew: Duration,
    step_down: Duration,
    lease: Duration,
}

impl LeaseTiming {
    /// Renewal each 1 s, step-down at 3.5 s, lease 5 s.
    pub const DEFAULT: Self =
        Self { renew: Duration::from_secs(1), step_down: Duration::from_millis(3_500), lease: Duration::from_secs(5) };

    /// From its parts.
    ///
    /// # Errors
    ///
    /// Unless 0 < `renew` < `step_down` < `lease`.
    pub fn new(renew: Duration, step_down: Duration, lease: Duration) -> Result<Self, LeaseTimingError> {
        if renew.is_zero() {
            return Err(LeaseTimingError::Renew);
        }
        if step_down <= renew {
            return Err(LeaseTimingError::StepDown { renew, step_down });
        }
        if lease <= step_down {
            return Err(LeaseTimingError::Lease { step_down, lease });
        }
        Ok(Self { renew, step_down, lease })
    }

    /// How often the holder renews and the others look. Also the longest a driver waits for one answer.
    pub const fn renew(self) -> Duration {
        self.renew
    }

    /// How long after the sending of its last successful renewal the holder stops signing.
    pub const fn step_down(self) -> Duration {
        self.step_down
    }

    /// How long a record must stay unchanged before another takes it.
    pub const fn lease(self) -> Duration {
        self.lease
    }
}

/// Why three lengths of time make no lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeaseTimingError {
    /// No time between renewals.
    #[error("renew must be longer than zero")]
    Renew,
    /// The holder would step down before it could have renewed.
    #[error("step-down ({step_down:?}) must be longer than renew ({renew:?})")]
    StepDown {
        /// As asked.
        renew: Duration,
        /// As asked.
        step_down: Duration,
    },
    /// Another could take over while the holder may still sign.
    #[error("lease ({lease:?}) must be longer than step-down ({step_down:?})")]
    Lease {
        /// As asked.
        step_down: Duration,
        /// As asked.
        lease: Duration,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_the_lengths_is_checked_and_the_field_named() {
        let seconds = |renew, step_down, lease| {
            let [renew, step_down, lease] = [renew, step_down, lease].map(Duration::from_secs);
            LeaseTiming::new(renew, step_down, lease).map_err(|error| error.to_string())
        };
        assert!(seconds(1, 2, 3).is_ok());
        assert_eq!(seconds(0, 2, 3), Err("renew must be longer than zero".into()));
        assert_eq!(seconds(2, 2, 3), Err("step-down (2s) must be longer than renew (2s)".into()));
        assert_eq!(seconds(1, 3, 3), Err("lease (3s) must be longer than step-down (3s)".into()));
    }

    #[test]
    fn the_default_is_a_timing() {
        let LeaseTiming { renew, step_down, lease } = LeaseTiming::DEFAULT;
        assert_eq!(LeaseTiming::new(renew, step_down, lease), Ok(LeaseTiming::DEFAULT));
    }
}
