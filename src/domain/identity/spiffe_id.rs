//! A SPIFFE ID of a workload, parsed once and strictly.

use std::{fmt, str::FromStr, sync::Arc};

use super::{TrustDomain, TrustDomainError};

/// The ID of a workload: a trust domain and a path that isn't empty (SPIFFE-ID 2).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpiffeId {
    trust_domain: TrustDomain,
    text: Arc<str>,
}

/// Why a text is not the SPIFFE ID of a workload.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpiffeIdError {
    /// Another scheme, or none.
    #[error("a SPIFFE ID begins with spiffe://")]
    Scheme,
    /// Over 2048 bytes.
    #[error("a SPIFFE ID has at most 2048 bytes, this one has {0}")]
    TooLong(usize),
    /// The trust domain part is not one.
    #[error(transparent)]
    TrustDomain(#[from] TrustDomainError),
    /// Nothing behind the trust domain.
    #[error("the SPIFFE ID of a workload has a path")]
    NoPath,
    /// An empty, `.` or `..` segment, or a slash at the end.
    #[error("a path segment can't be {0:?}")]
    Segment(String),
    /// A character that SPIFFE-ID 2.2 doesn't allow in a path.
    #[error("a path holds only letters, digits, '.', '-' and '_' between its slashes, not {0:?}")]
    Character(char),
}

impl SpiffeId {
    /// The longest, in bytes (SPIFFE-ID 2.3).
    pub const MAX_BYTES: usize = 2048;

    /// The domain that vouches for the ID.
    pub const fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The whole ID.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The path with its leading slash.
    pub fn path(&self) -> &str {
        self.text.get("spiffe://".len() + self.trust_domain.as_str().len()..).unwrap_or_default()
    }
}

impl FromStr for SpiffeId {
    type Err = SpiffeIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > Self::MAX_BYTES {
            return Err(SpiffeIdError::TooLong(text.len()));
        }
        let scheme = text.get(.."spiffe://".len()).ok_or(SpiffeIdError::Scheme)?;
        if !scheme.eq_ignore_ascii_case("spiffe://") {
            return Err(SpiffeIdError::Scheme);
        }
        let rest = text.get(scheme.len()..).unwrap_or_default();
        let (domain, path) = rest.split_once('/').ok_or(SpiffeIdError::NoPath)?;
        let trust_domain: TrustDomain = domain.parse()?;
        for segment in path.split('/') {
            if matches!(segment, "" | "." | "..") {
                return Err(SpiffeIdError::Segment(segment.to_owned()));
            }
            let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
            if let Some(c) = segment.chars().find(|c| !allowed(*c)) {
                return Err(SpiffeIdError::Character(c));
            }
        }
        let text = format!("spiffe://{trust_domain}/{path}").into();
        Ok(Self { trust_domain, text })
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_parts() {
        let id: SpiffeId = "SPIFFE://Example.ORG/ns/A/sa/b".parse().unwrap();
        assert_eq!(id.as_str(), "spiffe://example.org/ns/A/sa/b");
        assert_eq!(id.path(), "/ns/A/sa/b");
        assert_eq!(id.trust_domain().as_str(), "example.org");
    }

    #[test]
    fn refuses_what_the_standard_refuses() {
        for (text, error) in [
            ("https://a/b", SpiffeIdError::Scheme),
            ("spiffe:/", SpiffeIdError::Scheme),
            ("spiffe://a", SpiffeIdError::NoPath),
            ("spiffe://a/", SpiffeIdError::Segment(String::new())),
            ("spiffe://a/b/", SpiffeIdError::Segment(String::new())),
            ("spiffe://a/../b", SpiffeIdError::Segment("..".into())),
            ("spiffe://a/b?c", SpiffeIdError::Character('?')),
            ("spiffe://a/%41", SpiffeIdError::Character('%')),
            ("spiffe:///b", SpiffeIdError::TrustDomain(TrustDomainError::Empty)),
            ("spiffe://a:1/b", SpiffeIdError::TrustDomain(TrustDomainError::Character(':'))),
        ] {
            assert_eq!(text.parse::<SpiffeId>(), Err(error), "{text:?}");
        }
    }

    #[test]
    fn is_bounded_in_bytes() {
        let longest = format!("spiffe://a/{}", "b".repeat(2048 - 11));
        assert!(longest.parse::<SpiffeId>().is_ok());
        assert_eq!(format!("{longest}b").parse::<SpiffeId>(), Err(SpiffeIdError::TooLong(2049)));
    }
}
