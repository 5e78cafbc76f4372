//! Randomness as an argument: serial numbers and jitter draw from what they are handed.

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
