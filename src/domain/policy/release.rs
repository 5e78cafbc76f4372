//! The version of a program, as far as its behaviour depends on it.

use std::{fmt, str::FromStr};

/// A version. What comes before a release is lower than it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Release {
    /// The 1 of 1.30.2.
    pub major: u16,
    /// The 30.
    pub minor: u16,
    /// The 2.
    pub patch: u16,
    /// Whether it is no alpha, beta, release candidate or development build of it.
    pub is_final: bool,
}

/// It is none that means anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not of the form MAJOR.MINOR[.PATCH][-SUFFIX]")]
pub struct NoRelease;

/// What the suffix of a version that is not released yet begins with.
const EARLY: [&str; 6] = ["alpha", "beta", "rc", "dev", "pre", "nightly"];

impl Release {
    /// A released version.
    pub const fn new(major: u16, minor: u16, patch: u16) -> Self {
        Self { major, minor, patch, is_final: true }
    }
}

impl FromStr for Release {
    type Err = NoRelease;

    /// With or without a leading `v`. Suffixes of vendors and of kinds of images (`-distroless`) say nothing.
    fn from_str(text: &str) -> Result<Self, NoRelease> {
        let text = text.trim();
        let text = text.strip_prefix('v').unwrap_or(text);
        let (numbers, suffix) = text.split_once(['-', '+']).map_or((text, None), |(one, other)| (one, Some(other)));
        let mut parts = numbers.split('.').map(number);
        let (Some(major), Some(minor)) = (parts.next(), parts.next()) else { return Err(NoRelease) };
        let (major, minor, patch) = (major?, minor?, parts.next().unwrap_or(Ok(0))?);
        if parts.next().is_some() {
            return Err(NoRelease);
        }
        let is_final = suffix.is_none_or(|suffix| !EARLY.iter().any(|early| suffix.starts_with(early)));
        Ok(Self { major, minor, patch, is_final })
    }
}

/// Digits only: no sign.
fn number(text: &str) -> Result<u16, NoRelease> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().ok()).flatten().ok_or(NoRelease)
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}{}", self.major, self.minor, self.patch, if self.is_final { "" } else { "-pre" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_programs_and_images_write_them() {
        let early = |major, minor, patch| Release { is_final: false, ..Release::new(major, minor, patch) };
        for (text, expected) in [
            ("1.30.1", Release::new(1, 30, 1)),
            ("v1.9.1", Release::new(1, 9, 1)),
            (" 1.28 ", Release::new(1, 28, 0)),
            ("1.24.1-distroless", Release::new(1, 24, 1)),
            ("1.24.1-5c178358f9c61c50d3d6149a0b05a609a0d7defd-Clean", Release::new(1, 24, 1)),
            ("1.19.10-asm.9", Release::new(1, 19, 10)),
            ("1.26.2+build.7", Release::new(1, 26, 2)),
            ("1.30.0-alpha.0", early(1, 30, 0)),
            ("1.28-dev", early(1, 28, 0)),
            ("1.31.0-rc.0-distroless", early(1, 31, 0)),
            ("1.31-alpha.9f1c-9f1c-Clean", early(1, 31, 0)),
        ] {
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
        for text in [
            "",
            "unknown",
            "unknown-unknown-unknown",
            "latest",
            "1",
            "v",
            "1.",
            "1.x",
            "1.2.3.4",
            "-1.2",
            "1.+2",
            "1.99999",
        ] {
            assert_eq!(text.parse::<Release>(), Err(NoRelease), "{text}");
        }
    }

    #[test]
    fn what_is_not_released_yet_is_lower_than_what_is() {
        let order =
            ["1.27.9", "1.28-dev", "1.28.0", "1.30.0", "1.30.1-rc.1", "1.30.1", "1.31.0-alpha.1", "1.31.0", "2.0"];
        let order: Vec<Release> = order.iter().map(|text| text.parse().unwrap()).collect();
        assert!(order.is_sorted());
    }
}
