//! When an SVID is due for renewal.

use std::time::Duration;

use crate::domain::{clock::Timestamp, x509::Certificate};

/// How long after its receipt an SVID is renewed: half of what was left at receipt (not of the whole validity, which the
/// two minutes of backdating would distort), moved by up to a hundredth either way by `jitter`, which is uniform over all
/// of `u16`. Counted on the monotonic clock by the caller. Zero for one that has expired already.
pub fn due_after_receipt(leaf: &Certificate, received: Timestamp, jitter: u16) -> Duration {
    let half = leaf.not_after().since(received).as_micros() / 2;
    // From 99 to 101 hundredths of it.
    let (least, span) = (half * 99, half * 2);
    let micros = (least + span * u128::from(jitter) / u128::from(u16::MAX)) / 100;
    Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::authority::testing::authority;

    #[test]
    fn half_of_what_is_left_give_or_take_a_hundredth() {
        let leaf = authority().certificate().clone();
        let received = leaf.not_after().minus(Duration::from_secs(2000));
        assert_eq!(due_after_receipt(&leaf, received, 0), Duration::from_secs(990));
        assert_eq!(due_after_receipt(&leaf, received, u16::MAX), Duration::from_secs(1010));
        let middle = due_after_receipt(&leaf, received, u16::MAX / 2);
        assert!(middle.abs_diff(Duration::from_secs(1000)) < Duration::from_millis(1), "{middle:?}");
    }

    #[test]
    fn an_expired_one_is_due_at_once() {
        let leaf = authority().certificate().clone();
        let late = leaf.not_after().plus(Duration::from_secs(1));
        assert_eq!(due_after_receipt(&leaf, late, u16::MAX), Duration::ZERO);
    }
}
