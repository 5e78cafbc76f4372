//! How long issuance records are kept.

use std::time::Duration;

/// The oldest records beyond either bound are removed as new ones are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Since the record was written.
    pub max_age: Duration,
    /// In one log. A record takes about 830 bytes on disk.
    pub max_records: u64,
}

impl Default for Retention {
    /// Ninety days, a million records.
    fn default() -> Self {
        Self { max_age: Duration::from_secs(90 * 24 * 60 * 60), max_records: 1_000_000 }
    }
}
