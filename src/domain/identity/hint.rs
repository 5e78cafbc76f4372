//! What tells a workload which of its identities is for what (SPIFFE Workload API 4.3).

use std::{fmt, str::FromStr};

/// A name for an identity among those of one socket. Clients look an identity up by it, so it is no secret, and unique there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Hint(String);

/// Why a text is no hint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HintError {
    /// Nothing to look up by.
    #[error("a hint is not empty")]
    Empty,
    /// Clients need not take more.
    #[error("a hint of {0} bytes: at most {max} are possible", max = Hint::MAX_BYTES)]
    TooLong(usize),
    /// It stands in log lines.
    #[error("a hint holds no control characters")]
    Control,
}

impl Hint {
    /// Of an identity that needs none, as the only one of a socket.
    pub const NONE: Self = Self(String::new());
    /// The longest.
    pub const MAX_BYTES: usize = 1024;

    /// Empty if there is none.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Hint {
    type Err = HintError;

    fn from_str(text: &str) -> Result<Self, HintError> {
        match text.len() {
            0 => Err(HintError::Empty),
            length if length > Self::MAX_BYTES => Err(HintError::TooLong(length)),
            _ if text.chars().any(char::is_control) => Err(HintError::Control),
            _ => Ok(Self(text.to_owned())),
        }
    }
}

impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_clients_can_look_up_is_a_hint() {
        let longest = "x".repeat(1024);
        for text in ["internal", "two words = one hint", &longest] {
            assert_eq!(text.parse::<Hint>().unwrap().as_str(), text);
        }
        assert_eq!("".parse::<Hint>(), Err(HintError::Empty));
        assert_eq!(
            (longest + "x").parse::<Hint>().unwrap_err().to_string(),
            "a hint of 1025 bytes: at most 1024 are possible"
        );
        assert_eq!("a\nb".parse::<Hint>(), Err(HintError::Control));
    }
}
