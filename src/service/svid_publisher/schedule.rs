//! How long to wait after a renewal that failed.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(100);
/// An authority that comes back is noticed within this, long before what is held expires: it may be about to leave again.
const LONGEST: Duration = Duration::from_secs(2);
/// While nothing is held there is nothing to live on, so an authority that comes up is noticed within this.
const LONGEST_WITHOUT_SVID: Duration = Duration::from_secs(1);

/// 100 ms, doubled with each failure in a row, up to a tenth of what `remaining` life the published SVID has, within
/// 100 ms and 2 s; 1 s when none is published. `jitter`, uniform over `u16`, takes up to a quarter off.
pub(super) fn retry_after(failures: u32, remaining: Option<Duration>, jitter: u16) -> Duration {
    let longest = remaining.map_or(LONGEST_WITHOUT_SVID, |remaining| (remaining / 10).clamp(FIRST, LONGEST));
    let doubled = FIRST.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1)));
    let pause = doubled.min(longest);
    pause - pause / 4 * u32::from(jitter) / u32::from(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn doubles_up_to_what_the_remaining_life_allows() {
        let hour = Some(Duration::from_secs(3600));
        let pauses: Vec<_> = (1..=8).map(|failures| retry_after(failures, hour, 0)).collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1600, 2000, 2000, 2000].map(ms));
        assert_eq!(retry_after(9, Some(Duration::from_secs(6)), 0), ms(600));
        assert_eq!(retry_after(9, Some(ms(10)), 0), ms(100));
        assert_eq!(retry_after(9, None, 0), ms(1000));
        assert_eq!(retry_after(u32::MAX, hour, 0), ms(2000));
    }

    #[test]
    fn jitter_only_shortens() {
        assert_eq!(retry_after(1, None, u16::MAX), ms(75));
        assert_eq!(retry_after(7, Some(Duration::from_secs(3600)), u16::MAX), ms(1500));
    }
}
