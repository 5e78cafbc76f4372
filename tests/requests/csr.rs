//! Certificate signing requests, good and bad.

use rcgen::{KeyPair, PublicKeyData, SigningKey};
use rsa::{RsaPrivateKey, pkcs8::EncodePrivateKey, rand_core::OsRng};

use super::der::{INTEGER, NULL, OID, SEQUENCE, bits, pem, value};

/// ztunnel's.
pub(crate) const EMPTY_SUBJECT: &[u8] = &[SEQUENCE, 0];
/// pilot-agent's: one RDN, O, with an empty PrintableString.
pub(crate) const EMPTY_ORGANIZATION: &[u8] = &[0x30, 11, 0x31, 9, 0x30, 7, 6, 3, 0x55, 4, 10, 0x13, 0];
/// `CN=a`.
pub(crate) const COMMON_NAME: &[u8] = &[0x30, 12, 0x31, 10, 0x30, 8, 6, 3, 0x55, 4, 3, 0x0c, 1, b'a'];

pub(crate) const ECDSA_SHA1: &[u8] = &[0x30, 9, 6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 1];
pub(crate) const ECDSA_SHA256: &[u8] = &[0x30, 10, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];
pub(crate) const ECDSA_SHA384: &[u8] = &[0x30, 10, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 3];
pub(crate) const ECDSA_SHA512: &[u8] = &[0x30, 10, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 4];
pub(crate) const ED25519: &[u8] = &[0x30, 5, 6, 3, 0x2b, 0x65, 0x70];

pub(crate) const P224_CURVE: &[u8] = &[0x2b, 0x81, 4, 0, 33];
pub(crate) const P521_CURVE: &[u8] = &[0x2b, 0x81, 4, 0, 35];
pub(crate) const K256_CURVE: &[u8] = &[0x2b, 0x81, 4, 0, 10];
pub(crate) const P256_CURVE: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];

/// The parts of a request, so that each can be wrong by itself.
#[derive(Clone)]
pub(crate) struct Csr {
    pub(crate) subject: Vec<u8>,
    pub(crate) key: Vec<u8>,
    pub(crate) attributes: Vec<u8>,
    pub(crate) algorithm: Vec<u8>,
}

impl Csr {
    /// An empty subject, no attributes.
    pub(crate) fn of(key: Vec<u8>, algorithm: &[u8]) -> Self {
        let (subject, attributes) = (EMPTY_SUBJECT.to_vec(), vec![0xa0, 0]);
        Self { subject, key, attributes, algorithm: algorithm.to_vec() }
    }

    /// For a key of which only the public half is there.
    pub(crate) fn unsigned(key: Vec<u8>) -> String {
        pem_request(&Self::of(key, ECDSA_SHA256).with_signature(&[1, 2, 3]))
    }

    pub(crate) fn subject(mut self, subject: &[u8]) -> Self {
        self.subject = subject.to_vec();
        self
    }

    /// What is signed.
    pub(crate) fn info(&self) -> Vec<u8> {
        value(SEQUENCE, &[&value(INTEGER, &[&[0]]), &self.subject, &self.key, &self.attributes])
    }

    /// DER with this signature.
    pub(crate) fn with_signature(&self, signature: &[u8]) -> Vec<u8> {
        value(SEQUENCE, &[&self.info(), &self.algorithm, &bits(signature)])
    }

    /// DER, signed by `key`.
    pub(crate) fn signed(&self, key: &KeyPair) -> Vec<u8> {
        self.with_signature(&key.sign(&self.info()).unwrap())
    }

    /// PEM, signed by `key`.
    pub(crate) fn pem(&self, key: &KeyPair) -> String {
        pem_request(&self.signed(key))
    }

    /// DER with one bit of the signature changed.
    pub(crate) fn broken(&self, key: &KeyPair) -> String {
        let mut der = self.signed(key);
        *der.last_mut().unwrap() ^= 1;
        pem_request(&der)
    }
}

pub(crate) fn pem_request(der: &[u8]) -> String {
    pem("CERTIFICATE REQUEST", der)
}

/// The SubjectPublicKeyInfo of a key.
pub(crate) fn info_of(key: &KeyPair) -> Vec<u8> {
    key.subject_public_key_info()
}

/// A point of so many bytes behind its 4, on the curve by name only.
pub(crate) fn ec_key(curve: &[u8], point: &[u8]) -> Vec<u8> {
    ec_key_with(&value(OID, &[curve]), point)
}

pub(crate) fn ec_key_with(parameters: &[u8], point: &[u8]) -> Vec<u8> {
    let algorithm = value(SEQUENCE, &[&[6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1], parameters]);
    value(SEQUENCE, &[&algorithm, &bits(point)])
}

/// A modulus of so many bytes, all ones.
pub(crate) fn rsa_key_of(bytes: usize, parameters: &[u8], oid: u8) -> Vec<u8> {
    let key = value(SEQUENCE, &[&value(INTEGER, &[&[0], &vec![0xff; bytes]]), &[2, 3, 1, 0, 1]]);
    value(SEQUENCE, &[&value(SEQUENCE, &[&pkcs1_oid(oid), parameters]), &bits(&key)])
}

/// A key whose algorithm is named by `oid` alone.
pub(crate) fn key_of(oid: &[u8], bytes: &[u8]) -> Vec<u8> {
    value(SEQUENCE, &[&value(SEQUENCE, &[&value(OID, &[oid])]), &bits(bytes)])
}

/// PKCS #1's signature algorithm with this last number: 4 is MD5, 5 SHA-1, 11 SHA-256.
pub(crate) fn pkcs1(last: u8) -> Vec<u8> {
    value(SEQUENCE, &[&pkcs1_oid(last), NULL])
}

fn pkcs1_oid(last: u8) -> [u8; 11] {
    [6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, last]
}

/// RSASSA-PSS by SHA-256, with a salt of this length.
pub(crate) fn pss(salt: u8) -> Vec<u8> {
    let sha256 = value(SEQUENCE, &[&[6, 9, 0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 1], NULL]);
    let mgf1 = value(SEQUENCE, &[&pkcs1_oid(8), &sha256]);
    let salt = [0xa2, 3, 2, 1, salt];
    value(SEQUENCE, &[&pkcs1_oid(10), &value(SEQUENCE, &[&value(0xa0, &[&sha256]), &value(0xa1, &[&mgf1]), &salt])])
}

/// RSA of this size, which ring can't make.
pub(crate) fn rsa_pkcs8(bits: usize) -> Vec<u8> {
    RsaPrivateKey::new(&mut OsRng, bits).unwrap().to_pkcs8_der().unwrap().as_bytes().to_vec()
}
