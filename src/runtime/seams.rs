//! The real clocks and the real randomness. Nothing else asks the system for either.

#![expect(clippy::disallowed_methods, reason = "this module is the seam that everybody else is handed")]

use std::time::{SystemTime, UNIX_EPOCH};

use ring::rand::{SecureRandom as _, SystemRandom};
use rustix::time::{ClockId, clock_gettime};

use crate::domain::{
    clock::{BootInstant, Clock, Timestamp},
    random::{RandomUnavailable, SecureRandom},
};

/// The system's wall clock and `CLOCK_BOOTTIME`.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let epoch = Timestamp::from_seconds(0);
        match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(since) => epoch.plus(since),
            Err(before) => epoch.minus(before.duration()),
        }
    }

    fn boot(&self) -> BootInstant {
        let time = clock_gettime(ClockId::Boottime);
        let (seconds, nanos) = (u64::try_from(time.tv_sec).unwrap_or(0), u64::try_from(time.tv_nsec).unwrap_or(0));
        BootInstant::from_nanos(seconds.saturating_mul(1_000_000_000).saturating_add(nanos))
    }
}

/// The operating system's randomness, through ring.
#[derive(Clone, Debug)]
pub struct RingRandom(SystemRandom);

impl RingRandom {
    /// A handle to it.
    pub fn new() -> Self {
        Self(SystemRandom::new())
    }
}

impl Default for RingRandom {
    fn default() -> Self {
        Self::new()
    }
}

impl SecureRandom for RingRandom {
    fn fill(&self, bytes: &mut [u8]) -> Result<(), RandomUnavailable> {
        self.0.fill(bytes).map_err(|_unspecified| RandomUnavailable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_run_forward_from_a_sane_start() {
        let (wall, boot) = (SystemClock.now(), SystemClock.boot());
        assert!(wall > Timestamp::from_seconds(1_700_000_000), "{wall}");
        assert!(boot > BootInstant::from_nanos(0));
        assert!(SystemClock.boot() >= boot);
    }

    #[test]
    fn randomness_differs_from_draw_to_draw() {
        let (mut one, mut two) = ([0; 32], [0; 32]);
        let random = RingRandom::new();
        random.fill(&mut one).unwrap();
        random.fill(&mut two).unwrap();
        assert_ne!(one, two);
    }
}
