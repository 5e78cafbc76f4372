//! The fencing number.

use std::fmt;

/// A number that only grows: whoever is active holds one, and no two holders ever have the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Term(u64);

impl Term {
    /// Before the first.
    pub const NONE: Self = Self(0);

    /// Beyond the last: none can follow it, so nobody ever holds it.
    pub const EXHAUSTED: Self = Self(u64::MAX);

    /// From its number.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The number.
    pub const fn number(self) -> u64 {
        self.0
    }

    /// The one after; [`Self::EXHAUSTED`] after the last.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}
