//! From a requested TTL to a validity period.

use std::time::Duration;

use crate::domain::clock::Timestamp;

/// How long SVIDs may live. Made only by [`TtlBounds::new`]: default within maximum, neither zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TtlBounds {
    default: Duration,
    max: Duration,
}

/// Why two durations are not bounds.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TtlBoundsError {
    /// Zero, or not whole seconds.
    #[error("a TTL is at least one whole second")]
    TooShort,
    /// The default is over the maximum.
    #[error("the default TTL is over the maximum TTL")]
    DefaultOverMax,
}

/// Why no validity can be granted. Texts are istiod's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TtlError {
    /// Asked for more than the maximum. Durations are written as Go writes them.
    #[error("requested TTL {} is greater than the max allowed TTL {}", go_duration(*.requested), go_duration(*.max))]
    OverMax {
        /// Seconds asked for.
        requested: u64,
        /// Seconds allowed.
        max: u64,
    },
    /// The signing certificate has expired.
    #[error("signing certificate has expired at {0}")]
    AuthorityExpired(Timestamp),
}

/// A validity period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// First second.
    pub not_before: Timestamp,
    /// Last second.
    pub not_after: Timestamp,
}

impl TtlBounds {
    /// Bounds of whole seconds.
    ///
    /// # Errors
    ///
    /// When one is under a second, or the default is over the maximum.
    pub fn new(default: Duration, max: Duration) -> Result<Self, TtlBoundsError> {
        if [default, max].iter().any(|ttl| ttl.is_zero() || ttl.subsec_nanos() != 0) {
            return Err(TtlBoundsError::TooShort);
        }
        if default > max { Err(TtlBoundsError::DefaultOverMax) } else { Ok(Self { default, max }) }
    }

    /// What is granted when nothing is asked.
    pub const fn default_ttl(&self) -> Duration {
        self.default
    }

    /// The most that may be asked.
    pub const fn max_ttl(&self) -> Duration {
        self.max
    }

    /// Grants `requested` seconds from `now` (zero and below: the default), starting two minutes early for clocks that are
    /// behind, never past `authority_not_after`.
    ///
    /// # Errors
    ///
    /// When more than the maximum is asked, whatever the size of the number, or the authority has expired.
    pub fn grant(&self, requested: i64, now: Timestamp, authority_not_after: Timestamp) -> Result<Validity, TtlError> {
        let ttl = match u64::try_from(requested) {
            Err(_) | Ok(0) => self.default,
            Ok(seconds) => Duration::from_secs(seconds),
        };
        if ttl > self.max {
            return Err(TtlError::OverMax { requested: ttl.as_secs(), max: self.max.as_secs() });
        }
        Validity::until(now.plus(ttl), now, authority_not_after)
    }
}

impl Validity {
    /// From two minutes before `now` to `end`, never past `authority_not_after`; both rounded down to whole seconds, which
    /// is all that a certificate can say.
    ///
    /// # Errors
    ///
    /// When the authority has expired.
    pub(super) fn until(end: Timestamp, now: Timestamp, authority_not_after: Timestamp) -> Result<Self, TtlError> {
        if authority_not_after < now {
            return Err(TtlError::AuthorityExpired(authority_not_after));
        }
        let whole = |time: Timestamp| Timestamp::from_seconds(time.seconds());
        Ok(Self { not_before: whole(now.minus(BACKDATING)), not_after: whole(end.min(authority_not_after)) })
    }
}

/// For clocks that are behind (istiod's `ClockSkewGracePeriod`).
pub(super) const BACKDATING: Duration = Duration::from_secs(120);

/// Seconds as Go prints a `time.Duration` of them: `2h0m0s`, `1m30s`, `5s`.
fn go_duration(seconds: u64) -> String {
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds}s"),
        (0, minutes, seconds) => format!("{minutes}m{seconds}s"),
        (hours, minutes, seconds) => format!("{hours}h{minutes}m{seconds}s"),
    }
}
