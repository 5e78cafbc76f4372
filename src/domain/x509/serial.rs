//! Serial numbers.

use std::fmt;

use crate::domain::random::{RandomUnavailable, SecureRandom};

/// A certificate's serial number: positive, at most 20 octets (RFC 5280 4.1.2.2). Ours have 128 random bits, so that two
/// signers never collide.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SerialNumber(Vec<u8>);

impl SerialNumber {
    /// 127 random bits below a fixed one: positive, and always 16 octets long.
    ///
    /// # Errors
    ///
    /// When there is no randomness.
    pub fn random(random: &dyn SecureRandom) -> Result<Self, RandomUnavailable> {
        let mut bytes = [0u8; 16];
        random.fill(&mut bytes)?;
        if let Some(first) = bytes.first_mut() {
            *first = (*first & 0x7f) | 0x40;
        }
        Ok(Self(bytes.to_vec()))
    }

    /// From big-endian octets as they stand in a certificate; leading zeros don't count.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let start = bytes.iter().position(|byte| *byte != 0).unwrap_or(bytes.len());
        Self(bytes.get(start..).unwrap_or_default().to_vec())
    }

    /// Big-endian octets.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for SerialNumber {
    /// Lower-case hex, as most tools show it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
