//! When an SVID is due for renewal.

use std::time::Duration;

use crate::domain::{clock::Timestamp, x509::Certificate};

/// How long an SVID may be used from its receipt on, counted on the monotonic clock by the caller. By the wall clock of the
/// `received` instant that is until NotAfter; but a clock that is behind would make it longer than the authority meant it, so
/// it is never more than the whole validity, and never more than was `asked` for, if anything was.
pub fn life_at_receipt(leaf: &Certificate, received: Timestamp, asked: Option<Duration>) -> Duration {
    let validity = leaf.not_after().since(leaf.not_before());
    leaf.not_after().since(received).min(validity).min(asked.unwrap_or(validity))
}

/// How long after its receipt an SVID of so much `life` is renewed: half of that (not of the whole validity, which the two
/// minutes of backdating would distort), moved by up to a hundredth either way by `jitter`, which is uniform over all of
/// `u16`. Zero for one that has expired already.
pub fn due_after_receipt(life: Duration, jitter: u16) -> Duration {
    let half = life.as_micros() / 2;
    // From 99 to 101 hundredths of it.
    let (least, span) = (half * 99, half * 2);
    let micros = (least + span * u128::from(jitter) / u128::from(u16::MAX)) / 100;
    Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::authority::testing::authority;

    const LIFE: Duration = Duration::from_secs(2000);

    #[test]
    fn half_of_what_is_left_give_or_take_a_hundredth() {
        assert_eq!(due_after_receipt(LIFE, 0), Duration::from_secs(990));
        assert_eq!(due_after_receipt(LIFE, u16::MAX), Duration::from_secs(1010));
        let middle = due_after_receipt(LIFE, u16::MAX / 2);
        assert!(middle.abs_diff(Duration::from_secs(1000)) < Duration::from_millis(1), "{middle:?}");
        assert_eq!(due_after_receipt(Duration::ZERO, u16::MAX), Duration::ZERO);
    }

    #[test]
    fn a_right_clock_gives_what_is_left() {
        let leaf = authority().certificate().clone();
        let left = |before: Duration| life_at_receipt(&leaf, leaf.not_after().minus(before), None);
        assert_eq!(left(LIFE), LIFE);
        assert_eq!(life_at_receipt(&leaf, leaf.not_after().plus(LIFE), None), Duration::ZERO);
    }

    proptest! {
        /// Whatever the own clock says, a life never reaches beyond what the authority meant.
        #[test]
        fn a_wrong_clock_never_makes_a_life_longer(off in -100_000_000i64..100_000_000, asked in 1u64..10_000_000) {
            let leaf = authority().certificate().clone();
            let validity = leaf.not_after().since(leaf.not_before());
            let wrong = Timestamp::from_seconds(leaf.not_before().seconds() + off);
            let asked = Duration::from_secs(asked);
            let life = life_at_receipt(&leaf, wrong, Some(asked));
            prop_assert!(life <= validity && life <= asked);
            prop_assert!(life <= leaf.not_after().since(wrong));
        }
    }
}
