//! The little DER that is written by hand: one value after its tag and length (X.690 10.1).

pub(in crate::domain) const INTEGER: u8 = 0x02;
pub(in crate::domain) const OCTET_STRING: u8 = 0x04;
pub(in crate::domain) const SEQUENCE: u8 = 0x30;

/// Tag, shortest length, content.
pub(in crate::domain) fn value(tag: u8, content: &[&[u8]]) -> Vec<u8> {
    let length: usize = content.iter().map(|part| part.len()).sum();
    let octets = length.to_be_bytes();
    let significant: Vec<u8> = octets.into_iter().skip_while(|octet| *octet == 0).collect();
    let mut der = Vec::with_capacity(length + 10);
    der.push(tag);
    match (u8::try_from(length), u8::try_from(significant.len())) {
        (Ok(short @ 0..0x80), _) => der.push(short),
        (_, Ok(count)) => {
            der.push(0x80 | count);
            der.extend(significant);
        }
        // A usize has at most eight octets.
        (_, Err(_)) => {}
    }
    for part in content {
        der.extend_from_slice(part);
    }
    der
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_the_shortest() {
        assert_eq!(value(SEQUENCE, &[]), [0x30, 0]);
        assert_eq!(value(OCTET_STRING, &[&[7], &[8]]), [4, 2, 7, 8]);
        assert_eq!(value(OCTET_STRING, &[&[0; 127]])[..2], [4, 127]);
        assert_eq!(value(OCTET_STRING, &[&[0; 128]])[..3], [4, 0x81, 128]);
        assert_eq!(value(OCTET_STRING, &[&[0; 256]])[..4], [4, 0x82, 1, 0]);
    }
}
