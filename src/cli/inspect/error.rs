//! Why there is nothing to show.

use std::fmt;

/// Why there is nothing to show. Never holds what was read.
#[derive(Debug, thiserror::Error)]
#[error("{place}: {problem}")]
pub struct SourceError {
    place: String,
    problem: String,
}

impl SourceError {
    pub(super) fn new(place: &str, problem: impl fmt::Display) -> Self {
        Self { place: place.to_owned(), problem: problem.to_string() }
    }

    pub(super) fn printing(error: impl fmt::Display) -> Self {
        Self::new("output", error)
    }
}
