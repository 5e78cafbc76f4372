//! PEM (RFC 7468) as the peers read it: one block decoded by our own strict rules, written with 64-character lines.

use base64::{Engine, engine::general_purpose::STANDARD};
use zeroize::Zeroizing;

/// One decoded block. The content may be a private key, so it is wiped when dropped.
#[derive(Debug)]
pub struct Block<'a> {
    /// What stands behind `BEGIN`, such as `CERTIFICATE`.
    pub label: &'a str,
    /// The decoded bytes.
    pub content: Zeroizing<Vec<u8>>,
    /// The text behind the block.
    pub rest: &'a [u8],
}

/// Why a text holds no block that can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PemError {
    /// No line that begins a block.
    #[error("there is no -----BEGIN …----- line")]
    NoBlock,
    /// The line that begins the block is cut off or not text.
    #[error("the -----BEGIN …----- line is damaged")]
    Begin,
    /// No line that ends the block with the same label.
    #[error("the block has no -----END …----- line of the same label")]
    NoEnd,
    /// Not base64; also what an encrypted key's headers look like.
    #[error("the block is not base64, or is encrypted")]
    Base64,
}

const BEGIN: &[u8] = b"-----BEGIN ";
const DASHES: &[u8] = b"-----";
const LINE: usize = 64;

/// Decodes the first block; what stands before it is skipped. White space inside the block is ignored, headers (RFC 1421)
/// are not accepted.
///
/// # Errors
///
/// When there is no block, or the first one is damaged: a later one is not tried in its place.
pub fn first_block(text: &[u8]) -> Result<Block<'_>, PemError> {
    let (_, rest) = split_at_pattern(text, BEGIN).ok_or(PemError::NoBlock)?;
    let (label, rest) = split_at_pattern(rest, DASHES).ok_or(PemError::Begin)?;
    let label = std::str::from_utf8(label).ok().filter(|label| !label.contains('\n')).ok_or(PemError::Begin)?;
    let end = [b"-----END ", label.as_bytes(), DASHES].concat();
    let (body, rest) = split_at_pattern(rest, &end).ok_or(PemError::NoEnd)?;
    // Sized at once: a vector that grows leaves copies of a key behind.
    let mut digits = Zeroizing::new(Vec::with_capacity(body.len()));
    digits.extend(body.iter().copied().filter(|byte| !byte.is_ascii_whitespace()));
    let mut content = Zeroizing::new(Vec::with_capacity(digits.len()));
    STANDARD
        .decode_vec(digits.as_slice(), &mut content)
        .ok()
        .filter(|()| !content.is_empty())
        .ok_or(PemError::Base64)?;
    Ok(Block { label, content, rest })
}

/// Writes one block, with a newline at its end.
pub fn encode(label: &str, content: &[u8]) -> Zeroizing<String> {
    let digits = Zeroizing::new(STANDARD.encode(content));
    let mut text = Zeroizing::new(String::with_capacity(digits.len() + digits.len() / LINE + 2 * label.len() + 36));
    text.extend(["-----BEGIN ", label, "-----\n"]);
    let mut left = digits.as_str();
    while let Some((line, rest)) = left.split_at_checked(LINE).or((!left.is_empty()).then_some((left, ""))) {
        text.extend([line, "\n"]);
        left = rest;
    }
    text.extend(["-----END ", label, "-----\n"]);
    text
}

fn split_at_pattern<'a>(text: &'a [u8], pattern: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let at = text.windows(pattern.len()).position(|window| window == pattern)?;
    Some((text.get(..at)?, text.get(at + pattern.len()..)?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_the_first_block_and_leaves_the_rest() {
        let text = b"noise\n-----BEGIN A-----\r\nAQ\r\nID\r\n-----END A-----\ntail";
        let block = first_block(text).unwrap();
        assert_eq!((block.label, block.content.as_slice(), block.rest), ("A", &[1, 2, 3][..], &b"\ntail"[..]));
    }

    #[test]
    fn refuses_damaged_blocks() {
        for (text, error) in [
            ("", PemError::NoBlock),
            ("MIIB", PemError::NoBlock),
            ("-----BEGIN A", PemError::Begin),
            ("-----BEGIN A\n-----\nAQID\n-----END A-----", PemError::Begin),
            ("-----BEGIN A-----\nAQID\n", PemError::NoEnd),
            ("-----BEGIN A-----\nAQID\n-----END B-----", PemError::NoEnd),
            ("-----BEGIN A-----\nAQI*\n-----END A-----", PemError::Base64),
            ("-----BEGIN A-----\nAQI\n-----END A-----", PemError::Base64),
            ("-----BEGIN A-----\n-----END A-----", PemError::Base64),
            ("-----BEGIN A-----\nDEK-Info: x\n\nAQID\n-----END A-----", PemError::Base64),
        ] {
            assert_eq!(first_block(text.as_bytes()).err(), Some(error), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn encoded_decodes_to_itself(content in proptest::collection::vec(any::<u8>(), 1..300)) {
            let text = encode("SOME LABEL", &content);
            prop_assert!(text.lines().all(|line| line.len() <= 64));
            let block = first_block(text.as_bytes()).unwrap();
            prop_assert_eq!(block.label, "SOME LABEL");
            prop_assert_eq!(block.content.as_slice(), content.as_slice());
            prop_assert_eq!(block.rest, b"\n");
        }

        #[test]
        fn anything_at_all_is_answered(text in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(block) = first_block(&text) {
                prop_assert!(!block.content.is_empty());
            }
        }
    }
}
