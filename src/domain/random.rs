//! Randomness as an argument: serial numbers and jitter draw from what they are handed.

use std::time::Duration;

/// A cryptographically secure source. Implemented over ring in `runtime::seams` alone.
pub trait SecureRandom: Send + Sync {
    /// Fills `bytes` with uniformly random ones.
    ///
    /// # Errors
    ///
    /// When the operating system has none to give.
    fn fill(&self, bytes: &mut [u8]) -> Result<(), RandomUnavailable>;
}

/// The source of randomness failed; nothing was drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the system's source of randomness failed")]
pub struct RandomUnavailable;

/// Uniform over `u16`; `None` without randomness.
pub fn jitter(random: &dyn SecureRandom) -> Option<u16> {
    let mut bytes = [0; 2];
    random.fill(&mut bytes).ok().map(|()| u16::from_be_bytes(bytes))
}

/// A uniformly random part of a span, so that many who wait for the same don't all act in one moment. None of it without
/// randomness: nothing else is missing then.
pub fn part_of(span: Duration, random: &dyn SecureRandom) -> Duration {
    span / u32::from(u16::MAX) * u32::from(jitter(random).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Filled(Option<u8>);

    impl SecureRandom for Filled {
        fn fill(&self, bytes: &mut [u8]) -> Result<(), RandomUnavailable> {
            bytes.fill(self.0.ok_or(RandomUnavailable)?);
            Ok(())
        }
    }

    #[test]
    fn a_part_is_nothing_to_all_of_a_span_and_nothing_without_randomness() {
        let span = Duration::from_nanos(65535 * 1000);
        for (byte, expected) in [(Some(0), 0), (Some(0x80), 0x8080 * 1000), (Some(0xff), 65535 * 1000), (None, 0)] {
            assert_eq!(part_of(span, &Filled(byte)), Duration::from_nanos(expected), "{byte:?}");
        }
        assert_eq!((jitter(&Filled(Some(1))), jitter(&Filled(None))), (Some(0x0101), None));
    }
}
