//! One object of the state store as bytes: `version | writer's term | claimed term | content` in a frame, numbers in
//! eight bytes, big endian.

use zeroize::Zeroizing;

use super::frame::{self, FrameError};
use crate::{domain::leadership::Term, service::ports::StateObject};

const FORMAT: u16 = 1;

/// Every object, in a fixed order.
pub(super) const OBJECTS: [StateObject; 2] = [StateObject::Authority, StateObject::Trust];

/// An object as it is stored. Version 0: claimed, but never written.
#[derive(Clone, Default)]
pub(super) struct StateRecord {
    pub(super) version: u64,
    /// The term that wrote the content.
    pub(super) writer: Term,
    /// The highest term that has claimed the object.
    pub(super) claimed: Term,
    pub(super) content: Zeroizing<Vec<u8>>,
}

/// An object's key in the database, and its name in the manifest and in messages.
pub(super) const fn key(object: StateObject) -> &'static str {
    match object {
        StateObject::Authority => "authority",
        StateObject::Trust => "trust",
    }
}

impl StateRecord {
    pub(super) fn encode(&self, object: StateObject) -> Zeroizing<Vec<u8>> {
        let mut body = Zeroizing::new(Vec::with_capacity(24 + self.content.len()));
        for number in [self.version, self.writer.number(), self.claimed.number()] {
            body.extend_from_slice(&number.to_be_bytes());
        }
        body.extend_from_slice(&self.content);
        frame::seal(FORMAT, key(object).as_bytes(), &body)
    }

    pub(super) fn decode(object: StateObject, bytes: &[u8]) -> Result<Self, FrameError> {
        let body = frame::open(FORMAT, key(object).as_bytes(), bytes)?;
        let (version, body) = number(body)?;
        let (writer, body) = number(body)?;
        let (claimed, content) = number(body)?;
        Ok(Self {
            version,
            writer: Term::new(writer),
            claimed: Term::new(claimed),
            content: Zeroizing::new(content.to_vec()),
        })
    }
}

fn number(bytes: &[u8]) -> Result<(u64, &[u8]), FrameError> {
    let (number, rest) = bytes.split_first_chunk().ok_or_else(|| FrameError::Content("it is too short".into()))?;
    Ok((u64::from_be_bytes(*number), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comes_back_as_it_went() {
        let record = StateRecord {
            version: 3,
            writer: Term::new(4),
            claimed: Term::new(5),
            content: Zeroizing::new(b"content".to_vec()),
        };
        let bytes = record.encode(StateObject::Trust);
        let read = StateRecord::decode(StateObject::Trust, &bytes).unwrap();
        assert_eq!((read.version, read.writer, read.claimed), (3, Term::new(4), Term::new(5)));
        assert_eq!(read.content.as_slice(), b"content");
        assert!(StateRecord::decode(StateObject::Authority, &bytes).is_err());
    }
}
