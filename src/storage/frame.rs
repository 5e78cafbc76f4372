//! The envelope of everything stored: `format (2 bytes, big endian) | SHA-256 (32 bytes) | body`. The checksum covers the
//! format, the place where the bytes belong, and the body, so neither a changed byte nor a value in another's place
//! passes. This layout is the same for all formats; what the body looks like is the format's matter.

use ring::digest::{Context, SHA256};
use zeroize::Zeroizing;

const CHECKSUM: usize = 32;

/// Why bytes were not opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum FrameError {
    #[error("its checksum is wrong")]
    Checksum,
    #[error("it was written by a newer version of countersign (format {found}, this one reads up to {known})")]
    Newer { found: u16, known: u16 },
    #[error("its content makes no sense: {0}")]
    Content(String),
}

/// Wraps a body. The result is wiped when dropped: it may hold keys.
pub(super) fn seal(format: u16, place: &[u8], body: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(2 + CHECKSUM + body.len()));
    bytes.extend_from_slice(&format.to_be_bytes());
    bytes.extend_from_slice(checksum(format, place, body).as_ref());
    bytes.extend_from_slice(body);
    bytes
}

/// The body of what was sealed for the same place, in a format that is known.
pub(super) fn open<'a>(known: u16, place: &[u8], bytes: &'a [u8]) -> Result<&'a [u8], FrameError> {
    let (format, rest) = bytes.split_first_chunk().ok_or(FrameError::Checksum)?;
    let (found, body) = rest.split_first_chunk::<CHECKSUM>().ok_or(FrameError::Checksum)?;
    let format = u16::from_be_bytes(*format);
    if checksum(format, place, body).as_ref() != found {
        return Err(FrameError::Checksum);
    }
    if format > known {
        return Err(FrameError::Newer { found: format, known });
    }
    Ok(body)
}

fn checksum(format: u16, place: &[u8], body: &[u8]) -> ring::digest::Digest {
    let mut context = Context::new(&SHA256);
    context.update(&format.to_be_bytes());
    context.update(&u64::try_from(place.len()).unwrap_or(u64::MAX).to_be_bytes());
    context.update(place);
    context.update(body);
    context.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_changed_bit_no_cut_and_no_other_place_passes() {
        let sealed = seal(1, b"here", b"body");
        assert_eq!(open(1, b"here", &sealed), Ok(&b"body"[..]));
        assert_eq!(open(1, b"there", &sealed), Err(FrameError::Checksum));
        for length in 0..sealed.len() {
            assert_eq!(open(1, b"here", &sealed[..length]), Err(FrameError::Checksum));
        }
        for bit in 0..sealed.len() * 8 {
            let mut changed = sealed.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(open(1, b"here", &changed), Err(FrameError::Checksum), "bit {bit}");
        }
    }

    #[test]
    fn a_newer_format_is_named() {
        let sealed = seal(3, b"here", b"?");
        assert_eq!(open(2, b"here", &sealed), Err(FrameError::Newer { found: 3, known: 2 }));
    }
}
