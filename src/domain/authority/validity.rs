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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOUR: u64 = 3600;
    const NOW: Timestamp = Timestamp::from_micros(1_795_348_800_654_321);

    fn bounds(default: u64, max: u64) -> TtlBounds {
        TtlBounds::new(Duration::from_secs(default), Duration::from_secs(max)).unwrap()
    }

    #[test]
    fn writes_durations_as_go_does() {
        for (seconds, text) in [
            (0, "0s"),
            (5, "5s"),
            (60, "1m0s"),
            (90, "1m30s"),
            (3 * HOUR, "3h0m0s"),
            (2160 * HOUR, "2160h0m0s"),
            (i64::MAX.unsigned_abs(), "2562047788015215h30m7s"),
        ] {
            assert_eq!(go_duration(seconds), text);
        }
    }

    #[test]
    fn bounds_are_whole_seconds_in_order() {
        let (second, hour) = (Duration::from_secs(1), Duration::from_secs(HOUR));
        assert_eq!(TtlBounds::new(hour, second), Err(TtlBoundsError::DefaultOverMax));
        assert_eq!(TtlBounds::new(Duration::ZERO, hour), Err(TtlBoundsError::TooShort));
        assert_eq!(TtlBounds::new(second, Duration::from_millis(1500)), Err(TtlBoundsError::TooShort));
        assert!(TtlBounds::new(hour, hour).is_ok());
    }

    #[test]
    fn what_is_over_the_maximum_is_refused_whatever_its_size() {
        let far = NOW.plus(Duration::from_secs(9_999 * HOUR));
        for requested in [2 * HOUR + 1, 9_223_372_036, 9_223_372_037, 18_446_744_074, i64::MAX.unsigned_abs()] {
            let refused = bounds(HOUR, 2 * HOUR).grant(i64::try_from(requested).unwrap(), NOW, far);
            assert_eq!(refused, Err(TtlError::OverMax { requested, max: 2 * HOUR }));
        }
        let text = bounds(HOUR, 2 * HOUR).grant(10_800, NOW, far).unwrap_err().to_string();
        assert_eq!(text, "requested TTL 3h0m0s is greater than the max allowed TTL 2h0m0s");
        let granted = bounds(HOUR, 2 * HOUR).grant(7200, NOW, far).unwrap();
        assert_eq!(granted.not_after.seconds(), NOW.seconds() + 7200);
    }

    #[test]
    fn an_expired_authority_grants_nothing() {
        let ended = NOW.minus(Duration::from_micros(1));
        assert_eq!(bounds(1, 1).grant(0, NOW, ended), Err(TtlError::AuthorityExpired(ended)));
        assert!(bounds(1, 1).grant(0, NOW, NOW).is_ok());
    }

    proptest! {
        #[test]
        fn granted_lies_where_it_must(
            requested in prop_oneof![any::<i64>(), -10i64..200_000],
            default in 1u64..100_000,
            over_default in 0u64..100_000,
            authority_left in 0u64..300_000_000_000,
        ) {
            let bounds = bounds(default, default + over_default);
            let authority = NOW.plus(Duration::from_micros(authority_left));
            match bounds.grant(requested, NOW, authority) {
                Ok(Validity { not_before, not_after }) => {
                    let asked = if requested > 0 { requested.unsigned_abs() } else { default };
                    prop_assert!(asked <= default + over_default);
                    prop_assert_eq!(not_before.seconds(), NOW.seconds() - 120);
                    prop_assert!(not_before < NOW && not_after <= authority);
                    prop_assert!(not_after <= NOW.plus(Duration::from_secs(asked)));
                    prop_assert!(not_after.seconds() >= NOW.seconds());
                    prop_assert_eq!((not_before.micros() % 1_000_000, not_after.micros() % 1_000_000), (0, 0));
                }
                Err(TtlError::OverMax { requested: told, max }) => {
                    prop_assert_eq!(told, requested.unsigned_abs());
                    prop_assert!(requested > 0 && told > max && max == default + over_default);
                }
                Err(error) => prop_assert!(false, "{error}"),
            }
        }
    }
}
