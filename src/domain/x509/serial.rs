//! Serial numbers.

use std::{fmt, str::FromStr};

use crate::domain::random::{RandomUnavailable, SecureRandom};

/// A certificate's serial number: positive, at most 20 octets (RFC 5280 4.1.2.2). Ours have 126 random bits, so that two
/// signers never collide.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SerialNumber(Vec<u8>);

/// Why a text is not a serial number.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SerialNumberError {
    /// Something else than hex digits, or none.
    #[error("a serial number is written in hex digits, with or without colons, not {0:?}")]
    Form(String),
    /// Zero.
    #[error("a serial number is not zero")]
    Zero,
    /// Over 20 octets.
    #[error("a serial number has at most 20 octets, this one has {0}")]
    TooLong(usize),
}

impl SerialNumber {
    const MAX_OCTETS: usize = 20;

    /// 126 random bits below a zero and a one: positive, and always 16 octets long.
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

impl FromStr for SerialNumber {
    type Err = SerialNumberError;

    /// Hex of either case as `issuance list`, openssl and Go print it, with or without colons and leading zeros.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let form = || SerialNumberError::Form(text.to_owned());
        let digits = text.chars().filter(|c| *c != ':').map(|c| c.to_digit(16)).collect::<Option<Vec<_>>>();
        let digits = digits.filter(|digits| !digits.is_empty()).ok_or_else(form)?;
        let bytes = digits.rchunks(2).rev().map(|pair| pair.iter().fold(0, |octet, digit| octet * 16 + digit));
        let bytes = bytes.map(u8::try_from).collect::<Result<Vec<u8>, _>>().map_err(|_out_of_range| form())?;
        match Self::from_bytes(&bytes) {
            Self(octets) if octets.is_empty() => Err(SerialNumberError::Zero),
            Self(octets) if octets.len() > Self::MAX_OCTETS => Err(SerialNumberError::TooLong(octets.len())),
            serial => Ok(serial),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_tools_print() {
        let serial = SerialNumber::from_bytes(&[0x0a, 0xb1, 0x02]);
        for text in ["0ab102", "ab102", "AB102", "0A:B1:02", "00:0a:b1:02"] {
            assert_eq!(text.parse(), Ok(serial.clone()), "{text}");
        }
        assert_eq!(serial.to_string().parse(), Ok(serial));
        let longest = "7f".repeat(20);
        assert_eq!(longest.parse::<SerialNumber>().unwrap().to_string(), longest);
    }

    #[test]
    fn refuses_what_is_no_serial() {
        for text in ["", ":", "0x1", "xyz", "-1", "1 2", "ä"] {
            assert_eq!(text.parse::<SerialNumber>(), Err(SerialNumberError::Form(text.into())));
        }
        assert_eq!("00:00".parse::<SerialNumber>(), Err(SerialNumberError::Zero));
        assert_eq!("01".repeat(21).parse::<SerialNumber>(), Err(SerialNumberError::TooLong(21)));
    }
}
