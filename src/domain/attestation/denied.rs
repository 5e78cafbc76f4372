//! What an operator has denied: identities that get no certificate, certificates that prove nothing any more.

use std::{collections::BTreeMap, fmt, str::FromStr};

use crate::domain::{clock::Timestamp, identity::SpiffeId, x509::SerialNumber};

/// What can be denied.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    /// No certificate is issued for this ID, on whatever proof.
    Identity(SpiffeId),
    /// A client certificate with this serial is no proof.
    Serial(SerialNumber),
}

/// Why an operator denies something, in one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason(String);

/// Why a text is not a reason.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReasonError {
    /// Nothing but blanks.
    #[error("a reason has at least one character that is not blank")]
    Empty,
    /// Over the limit.
    #[error("a reason has at most {MAX_REASON_BYTES} bytes, this one has {0}: shorten it")]
    TooLong(usize),
    /// More than a line, or something that a terminal would obey.
    #[error("a reason is one line of text without control characters, not {0:?}")]
    Control(char),
}

/// One entry: on whose word, since when, why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// Why.
    pub reason: Reason,
    /// Since when.
    pub since: Timestamp,
    /// The user who denied it: the effective UID of the process that asked.
    pub actor_uid: u32,
}

/// All that is denied. Looked at for each request, changed by operators alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Denied {
    identities: BTreeMap<SpiffeId, Denial>,
    serials: BTreeMap<SerialNumber, Denial>,
}

const MAX_REASON_BYTES: usize = 256;

impl Reason {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Reason {
    type Err = ReasonError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        if text.is_empty() {
            return Err(ReasonError::Empty);
        }
        if text.len() > MAX_REASON_BYTES {
            return Err(ReasonError::TooLong(text.len()));
        }
        match text.chars().find(|c| c.is_control()) {
            Some(control) => Err(ReasonError::Control(control)),
            None => Ok(Self(text.to_owned())),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Subject {
    /// The ID as it is, a serial as `serial HEX`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Identity(id) => id.fmt(f),
            Self::Serial(serial) => write!(f, "serial {serial}"),
        }
    }
}

impl Denied {
    /// Denies a subject. Returns the entry that this one takes the place of.
    pub fn deny(&mut self, subject: Subject, denial: Denial) -> Option<Denial> {
        match subject {
            Subject::Identity(id) => self.identities.insert(id, denial),
            Subject::Serial(serial) => self.serials.insert(serial, denial),
        }
    }

    /// Takes a denial back. Returns its entry; `None` if there was none.
    pub fn allow(&mut self, subject: &Subject) -> Option<Denial> {
        match subject {
            Subject::Identity(id) => self.identities.remove(id),
            Subject::Serial(serial) => self.serials.remove(serial),
        }
    }

    /// The entry of a subject.
    pub fn entry(&self, subject: &Subject) -> Option<&Denial> {
        match subject {
            Subject::Identity(id) => self.identity(id),
            Subject::Serial(serial) => self.serial(serial),
        }
    }

    /// The entry of an ID.
    pub fn identity(&self, id: &SpiffeId) -> Option<&Denial> {
        self.identities.get(id)
    }

    /// The entry of a certificate.
    pub fn serial(&self, serial: &SerialNumber) -> Option<&Denial> {
        self.serials.get(serial)
    }

    /// Whether nothing is denied.
    pub fn is_empty(&self) -> bool {
        self.identities.is_empty() && self.serials.is_empty()
    }

    /// All entries: identities, then serials, each in order.
    pub fn iter(&self) -> impl Iterator<Item = (Subject, &Denial)> {
        let identities = self.identities.iter().map(|(id, denial)| (Subject::Identity(id.clone()), denial));
        identities.chain(self.serials.iter().map(|(serial, denial)| (Subject::Serial(serial.clone()), denial)))
    }
}

impl FromIterator<(Subject, Denial)> for Denied {
    fn from_iter<I: IntoIterator<Item = (Subject, Denial)>>(entries: I) -> Self {
        let mut denied = Self::default();
        for (subject, denial) in entries {
            denied.deny(subject, denial);
        }
        denied
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn denial(reason: &str) -> Denial {
        Denial { reason: reason.parse().unwrap(), since: Timestamp::from_seconds(1), actor_uid: 7 }
    }

    #[test]
    fn denies_what_it_was_told_until_that_is_allowed_again() {
        let (id, other): (SpiffeId, SpiffeId) =
            ("spiffe://td/ns/a/sa/b".parse().unwrap(), "spiffe://td/ns/a/sa/c".parse().unwrap());
        let serial: SerialNumber = "0A:1b".parse().unwrap();
        let mut denied = Denied::default();
        assert!(denied.is_empty());
        assert_eq!(denied.deny(Subject::Identity(id.clone()), denial("lost")), None);
        assert_eq!(denied.deny(Subject::Serial(serial.clone()), denial("stolen")), None);
        assert_eq!(denied.identity(&id), Some(&denial("lost")));
        assert_eq!(denied.identity(&other), None);
        assert_eq!(denied.serial(&"a1b".parse().unwrap()), Some(&denial("stolen")));
        assert_eq!(denied.serial(&"a1c".parse().unwrap()), None);

        assert_eq!(denied.deny(Subject::Identity(id.clone()), denial("sold")), Some(denial("lost")));
        let copy: Denied = denied.iter().map(|(subject, denial)| (subject, denial.clone())).collect();
        assert_eq!(copy, denied);
        assert_eq!(denied.allow(&Subject::Identity(id.clone())), Some(denial("sold")));
        assert_eq!(denied.allow(&Subject::Identity(id)), None);
        assert_eq!(denied.allow(&Subject::Serial(serial)), Some(denial("stolen")));
        assert!(denied.is_empty());
    }

    #[test]
    fn a_reason_is_one_short_line() {
        assert_eq!(" node lost ".parse::<Reason>().unwrap().as_str(), "node lost");
        assert_eq!(" \n".parse::<Reason>(), Err(ReasonError::Empty));
        assert_eq!("a\nb".parse::<Reason>(), Err(ReasonError::Control('\n')));
        assert_eq!("a\u{1b}[2J".parse::<Reason>(), Err(ReasonError::Control('\u{1b}')));
        assert!("r".repeat(256).parse::<Reason>().is_ok());
        assert_eq!("r".repeat(257).parse::<Reason>(), Err(ReasonError::TooLong(257)));
    }
}
