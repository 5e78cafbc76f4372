//! DER and PEM written by hand, because no library writes them wrong.

use base64::{Engine, engine::general_purpose::STANDARD};

pub(crate) const SEQUENCE: u8 = 0x30;
pub(crate) const INTEGER: u8 = 2;
pub(crate) const BIT_STRING: u8 = 3;
pub(crate) const OID: u8 = 6;
pub(crate) const NULL: &[u8] = &[5, 0];

/// One value of `parts` one after another.
pub(crate) fn value(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let length = u32::try_from(content.len()).unwrap().to_be_bytes();
    let significant = &length[length.iter().position(|byte| *byte != 0).unwrap_or(3)..];
    let mut der = vec![tag];
    if content.len() > 127 {
        der.push(0x80 | u8::try_from(significant.len()).unwrap());
    }
    der.extend_from_slice(significant);
    der.extend(content);
    der
}

/// A BIT STRING of whole octets.
pub(crate) fn bits(content: &[u8]) -> Vec<u8> {
    value(BIT_STRING, &[&[0], content])
}

/// A PEM block.
pub(crate) fn pem(label: &str, der: &[u8]) -> String {
    let mut text = format!("-----BEGIN {label}-----\n");
    for line in STANDARD.encode(der).as_bytes().chunks(64) {
        text.push_str(std::str::from_utf8(line).unwrap());
        text.push('\n');
    }
    text + &format!("-----END {label}-----\n")
}

/// The content of the first PEM block.
pub(crate) fn from_pem(text: &str) -> Vec<u8> {
    let digits: String = text.lines().skip(1).take_while(|line| !line.starts_with("-----")).collect();
    STANDARD.decode(digits).unwrap()
}
