//! Keys for tests, PKCS#8 DER.

use std::sync::OnceLock;

use ring::signature::{ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair};
use rsa::{RsaPrivateKey, pkcs8::EncodePrivateKey, rand_core::OsRng};
use zeroize::Zeroizing;

use super::key_pair::system_random;

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
