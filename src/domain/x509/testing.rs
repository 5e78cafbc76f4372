//! Keys for tests, PKCS#8 DER.

use std::sync::OnceLock;

use ring::signature::{ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair};
use rsa::{RsaPrivateKey, pkcs8::EncodePrivateKey, rand_core::OsRng};
use x509_parser::asn1_rs::{Any, FromDer, OctetString};
use zeroize::Zeroizing;

use super::{der, key_pair::system_random};

/// The curves' names, DER.
pub(in crate::domain) const OID_P256: &[u8] = &[6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];
pub(in crate::domain) const OID_P384: &[u8] = &[6, 5, 0x2b, 0x81, 4, 0, 34];

/// RSA 2048, made once per run: that takes a while.
pub(in crate::domain) fn rsa_key() -> Zeroizing<Vec<u8>> {
    static KEY: OnceLock<Vec<u8>> = OnceLock::new();
    let key = KEY.get_or_init(|| {
        let key = RsaPrivateKey::new(&mut OsRng, 2048).unwrap();
        key.to_pkcs8_der().unwrap().as_bytes().to_vec()
    });
    Zeroizing::new(key.clone())
}

pub(in crate::domain) fn p384_key() -> Zeroizing<Vec<u8>> {
    let key = EcdsaKeyPair::generate_pkcs8(&ECDSA_P384_SHA384_ASN1_SIGNING, &system_random()).unwrap();
    Zeroizing::new(key.as_ref().to_vec())
}

pub(in crate::domain) fn ed25519_key() -> Zeroizing<Vec<u8>> {
    Zeroizing::new(Ed25519KeyPair::generate_pkcs8(&system_random()).unwrap().as_ref().to_vec())
}

/// The ECPrivateKey inside PKCS#8, as `openssl ecparam -genkey` writes it: with the curve.
pub(in crate::domain) fn sec1(pkcs8: &[u8], curve: &[u8]) -> Vec<u8> {
    let (_, outer) = Any::from_der(pkcs8).unwrap();
    let (rest, _version) = Any::from_der(outer.data).unwrap();
    let (rest, _algorithm) = Any::from_der(rest).unwrap();
    let (_, key) = OctetString::from_der(rest).unwrap();
    let (_, key) = Any::from_der(key.as_ref()).unwrap();
    // Version and a secret of 32 octets, or 48.
    let secret = if curve.len() == 10 { 3 + 2 + 32 } else { 3 + 2 + 48 };
    let (before, after) = key.data.split_at(secret);
    der::value(der::SEQUENCE, &[before, &der::value(0xa0, &[curve]), after])
}
