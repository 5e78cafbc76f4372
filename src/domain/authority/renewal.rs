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
