//! When an SVID is due for renewal.

use std::time::Duration;

use crate::domain::{clock::Timestamp, x509::Certificate};

/// How long after its receipt an SVID is renewed: half of what was left at receipt (not of the whole validity, which the
/// two minutes of backdating would distort), moved by up to a hundredth either way by `jitter`, which is uniform over all
/// of `u16`. Counted on the monotonic clock by the caller. Zero for one that has expired already.
pub fn due_after_receipt(_leaf: &Certificate, _received: Timestamp, _jitter: u16) -> Duration {
    todo!()
}
