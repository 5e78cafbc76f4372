//! A trust domain name, parsed once.

use std::{fmt, str::FromStr, sync::Arc};

/// A trust domain, always lower case (SPIFFE-ID 2.1): `a-z 0-9 . - _`, 1 to 255 bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrustDomain(Arc<str>);

/// Why a text is not a trust domain.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TrustDomainError {
    /// No characters.
    #[error("a trust domain can't be empty")]
    Empty,
    /// Over 255 bytes.
    #[error("a trust domain has at most 255 bytes, this one has {0}")]
    TooLong(usize),
    /// A character that SPIFFE-ID 2.1 doesn't allow.
    #[error("a trust domain holds only a-z, 0-9, '.', '-' and '_', not {0:?}")]
    Character(char),
}

impl TrustDomain {
    const MAX_BYTES: usize = 255;

    /// The bare name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The trust domain's own ID, `spiffe://NAME`.
    pub fn id(&self) -> String {
        format!("spiffe://{}", self.0)
    }
}

impl FromStr for TrustDomain {
    type Err = TrustDomainError;

    /// Upper case is accepted and lowered: the standard calls the name case-insensitive.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() {
            return Err(TrustDomainError::Empty);
        }
        if text.len() > Self::MAX_BYTES {
            return Err(TrustDomainError::TooLong(text.len()));
        }
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        match text.chars().find(|c| !allowed(*c)) {
            Some(c) => Err(TrustDomainError::Character(c)),
            None => Ok(Self(text.to_ascii_lowercase().into())),
        }
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lowers_and_keeps() {
        let domain: TrustDomain = "Cluster.Local".parse().unwrap();
        assert_eq!(domain.as_str(), "cluster.local");
        assert_eq!(domain.id(), "spiffe://cluster.local");
    }

    #[test]
    fn refuses_what_the_standard_refuses() {
        for (text, error) in [
            ("", TrustDomainError::Empty),
            ("a:b", TrustDomainError::Character(':')),
            ("a/b", TrustDomainError::Character('/')),
            ("ä", TrustDomainError::Character('ä')),
            ("a b", TrustDomainError::Character(' ')),
        ] {
            assert_eq!(text.parse::<TrustDomain>(), Err(error), "{text:?}");
        }
        assert_eq!("a".repeat(256).parse::<TrustDomain>(), Err(TrustDomainError::TooLong(256)));
        assert!("a".repeat(255).parse::<TrustDomain>().is_ok());
    }
}
