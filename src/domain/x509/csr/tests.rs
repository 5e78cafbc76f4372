use proptest::prelude::*;
use rcgen::SigningKey;
use ring::{
    rsa,
    signature::{
        RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256, RSA_PSS_SHA384, RSA_PSS_SHA512,
        RsaEncoding,
    },
};

use super::*;
use crate::domain::x509::{
    PrivateKey,
    der::{INTEGER, SEQUENCE, value},
    key_pair::system_random,
    testing::{ed25519_key, p384_key, rsa_key},
};

const EMPTY_SUBJECT: &[u8] = &[0x30, 0];
/// One RDN, O, with an empty PrintableString: what Go makes of pilot-agent's template.
const PILOT_AGENT_SUBJECT: &[u8] = &[0x30, 11, 0x31, 9, 0x30, 7, 6, 3, 0x55, 4, 10, 0x13, 0];
const COMMON_NAME: &[u8] = &[0x30, 12, 0x31, 10, 0x30, 8, 6, 3, 0x55, 4, 3, 0x0c, 1, b'a'];
const ECDSA_SHA1: &[u8] = &[0x30, 9, 6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 1];
const ECDSA_SHA256: &[u8] = &[0x30, 10, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];
const ECDSA_SHA384: &[u8] = &[0x30, 10, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 3];
const ECDSA_SHA512: &[u8] = &[0x30, 10, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 4];
const ED25519: &[u8] = &[0x30, 5, 6, 3, 0x2b, 0x65, 0x70];

fn rsa_oid(last: u8) -> [u8; 11] {
    [6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, last]
}

fn pkcs1(last: u8) -> Vec<u8> {
    value(SEQUENCE, &[&rsa_oid(last), &[5, 0]])
}

fn pss(hash: u8, mask: u8, salt: u8) -> Vec<u8> {
    let sha2 = |hash| value(SEQUENCE, &[&[6, 9, 0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, hash], &[5, 0]]);
    let mgf1 = value(SEQUENCE, &[&rsa_oid(8), &sha2(mask)]);
    let salt = [0xa2, 3, 2, 1, salt];
    let parameters = value(SEQUENCE, &[&value(0xa0, &[&sha2(hash)]), &value(0xa1, &[&mgf1]), &salt]);
    value(SEQUENCE, &[&rsa_oid(10), &parameters])
}

fn request_der(subject: &[u8], public_key: &[u8], algorithm: &[u8], sign: impl Fn(&[u8]) -> Vec<u8>) -> Vec<u8> {
    let info = value(SEQUENCE, &[&value(INTEGER, &[&[0]]), subject, public_key, &[0xa0, 0]]);
    let signature = value(3, &[&[0], &sign(&info)]);
    value(SEQUENCE, &[&info, algorithm, &signature])
}

fn verified(der: &[u8]) -> Result<VerifiedCsr, CsrError> {
    VerifiedCsr::from_pem(pem::encode("ANY LABEL", der).as_bytes())
}

fn by(key: &PrivateKey, subject: &[u8], algorithm: &[u8]) -> Result<VerifiedCsr, CsrError> {
    verified(&request_der(subject, key.public_key_info(), algorithm, |info| key.key_pair().sign(info).unwrap()))
}

#[test]
fn accepts_every_kind_of_key() {
    let p256 = PrivateKey::generate_p256().unwrap();
    let p384 = PrivateKey::from_pkcs8(p384_key()).unwrap();
    let ed25519 = PrivateKey::from_pkcs8(ed25519_key()).unwrap();
    for (key, algorithm) in [(&p256, ECDSA_SHA256), (&p384, ECDSA_SHA384), (&ed25519, ED25519)] {
        for subject in [EMPTY_SUBJECT, PILOT_AGENT_SUBJECT] {
            let csr = by(key, subject, algorithm).unwrap();
            assert_eq!((csr.key_algorithm(), csr.public_key_info()), (key.algorithm(), key.public_key_info()));
            assert!(!csr.has_common_name());
        }
        assert!(by(key, COMMON_NAME, algorithm).unwrap().has_common_name());
    }
}

#[test]
fn accepts_rsa_by_both_paddings() {
    let key = PrivateKey::from_pkcs8(rsa_key()).unwrap();
    let pair = rsa::KeyPair::from_pkcs8(&rsa_key()).unwrap();
    let with = |algorithm: &[u8], encoding: &'static dyn RsaEncoding| {
        verified(&request_der(PILOT_AGENT_SUBJECT, key.public_key_info(), algorithm, |info| {
            let mut signature = vec![0; pair.public().modulus_len()];
            pair.sign(encoding, &system_random(), info, &mut signature).unwrap();
            signature
        }))
    };
    for (algorithm, encoding) in [
        (pkcs1(11), &RSA_PKCS1_SHA256 as &'static dyn RsaEncoding),
        (pkcs1(12), &RSA_PKCS1_SHA384),
        (pkcs1(13), &RSA_PKCS1_SHA512),
        (pss(1, 1, 32), &RSA_PSS_SHA256),
        (pss(2, 2, 48), &RSA_PSS_SHA384),
        (pss(3, 3, 64), &RSA_PSS_SHA512),
    ] {
        assert_eq!(with(&algorithm, encoding).map(|csr| csr.key_algorithm()), Ok(KeyAlgorithm::Rsa(2048)));
    }
    for algorithm in [pkcs1(5), pss(1, 2, 32), pss(1, 1, 20), value(SEQUENCE, &[&rsa_oid(10)]), ECDSA_SHA256.to_vec()] {
        let refused = with(&algorithm, &RSA_PKCS1_SHA256);
        assert!(matches!(refused, Err(CsrError::SignatureAlgorithm { .. })), "{refused:?}");
    }
    assert_eq!(with(&pkcs1(11), &RSA_PSS_SHA256), Err(CsrError::Signature { algorithm: "RSA" }));
}

#[test]
fn refuses_other_signature_algorithms_by_name() {
    let key = PrivateKey::generate_p256().unwrap();
    for (algorithm, name) in
        [(ECDSA_SHA1, "SHA1"), (ECDSA_SHA512, "SHA512"), (ED25519, "ed25519"), (&pkcs1(11), "sha256")]
    {
        let text = by(&key, EMPTY_SUBJECT, algorithm).unwrap_err().to_string();
        assert!(text.starts_with("unsupported signature algorithm") && text.contains(name), "{text}");
        assert!(text.contains("ECDSA P-256") && text.contains("SHA-384"), "{text}");
    }
    // Accepted as such, but not what was signed with.
    assert_eq!(by(&key, EMPTY_SUBJECT, ECDSA_SHA384), Err(CsrError::Signature { algorithm: "ECDSA" }));
}

#[test]
fn refuses_other_keys_by_name() {
    let ec = |curve: &[u8], length: usize| {
        let algorithm = value(SEQUENCE, &[&[6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1], &value(6, &[curve])]);
        value(SEQUENCE, &[&algorithm, &value(3, &[&[0, 4], &vec![1; length]])])
    };
    let rsa = |bytes: usize, parameters: &[u8]| {
        let key = value(SEQUENCE, &[&value(INTEGER, &[&[0], &vec![0xff; bytes]]), &[2, 3, 1, 0, 1]]);
        value(SEQUENCE, &[&value(SEQUENCE, &[&rsa_oid(1), parameters]), &value(3, &[&[0], &key])])
    };
    // explicit parameters: a SEQUENCE whose content happens to read as an OID
    let explicit = {
        let algorithm = value(SEQUENCE, &[&[6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1], &[SEQUENCE, 3, 2, 1, 1]]);
        value(SEQUENCE, &[&algorithm, &value(3, &[&[0, 4], &[1; 64]])])
    };
    let x25519 = value(SEQUENCE, &[&[0x30, 5, 6, 3, 0x2b, 0x65, 0x6e], &value(3, &[&[0], &[9; 32]])]);
    let null = &[5, 0][..];
    for (key, name) in [
        (ec(&[0x2b, 0x81, 4, 0, 33], 56), "ECDSA P-224"),
        (ec(&[0x2b, 0x81, 4, 0, 35], 132), "ECDSA P-521"),
        (ec(&[0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7], 32), "ECDSA P-256"),
        (explicit, "ECDSA without a named curve"),
        (rsa(128, null), "RSA 1024"),
        (rsa(1025, null), "RSA 8200"),
        (rsa(256, &[]), "RSA 2048 in an unusual encoding"),
        (x25519, "X25519"),
    ] {
        let refused = verified(&request_der(EMPTY_SUBJECT, &key, ECDSA_SHA256, |_| vec![1]));
        assert_eq!(refused, Err(CsrError::Key { found: name.into() }));
    }
}

#[test]
fn refuses_what_is_no_request() {
    let key = PrivateKey::generate_p256().unwrap();
    let good =
        request_der(EMPTY_SUBJECT, key.public_key_info(), ECDSA_SHA256, |info| key.key_pair().sign(info).unwrap());
    let text = pem::encode("CERTIFICATE REQUEST", &good);
    assert!(VerifiedCsr::from_pem(format!("{}trailing", *text).as_bytes()).is_ok());
    for bad in ["", "not PEM", &text[..text.len() / 2], &format!("{}{}", *text, " ".repeat(VerifiedCsr::MAX_PEM_BYTES))]
    {
        assert_eq!(VerifiedCsr::from_pem(bad.as_bytes()), Err(CsrError::Pem));
    }
    assert_eq!(verified(&[good.as_slice(), &[0]].concat()), Err(CsrError::Der));
    assert_eq!(verified(&good[..good.len() - 1]), Err(CsrError::Der));
    let other = PrivateKey::generate_p256().unwrap();
    let stolen =
        request_der(EMPTY_SUBJECT, other.public_key_info(), ECDSA_SHA256, |info| key.key_pair().sign(info).unwrap());
    let refused = verified(&stolen).unwrap_err();
    assert_eq!(refused.to_string(), "x509: ECDSA verification failure");
}

proptest! {
    #[test]
    fn random_bytes_are_answered(der in proptest::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(verified(&der).is_err());
        prop_assert!(VerifiedCsr::from_pem(&der).is_err());
    }

    #[test]
    fn a_changed_request_is_refused_or_says_the_same(changes in proptest::collection::vec((any::<prop::sample::Index>(), 1u8..), 1..4)) {
        let key = PrivateKey::generate_p256().unwrap();
        let request = key.certificate_request(&"spiffe://cluster.local/a".parse().unwrap()).unwrap();
        let mut der = pem::first_block(request.as_bytes()).unwrap().content.to_vec();
        let original = der.clone();
        for (index, flip) in changes {
            let at = index.index(der.len());
            der[at] ^= flip;
        }
        // Tags and parameters outside the signed part may change without harm; nothing that is kept comes from there.
        if let Ok(csr) = verified(&der) {
            prop_assert_eq!(Ok(csr), verified(&original));
        }
    }
}
