//! A private key of ours. It is zeroized when dropped and never shows itself in debug output.

use std::{fmt, sync::Arc};

use rcgen::{CertificateParams, DistinguishedName, PublicKeyData, SanType};
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use x509_parser::{
    asn1_rs::{Any, FromDer, Oid},
    oid_registry::{OID_EC_P256, OID_NIST_EC_P384},
};
use zeroize::Zeroizing;

use super::{
    KeyAlgorithm, der,
    key_pair::{KeyPair, system_random},
    pem::{self, PemError},
};
use crate::domain::identity::SpiffeId;

/// An unencrypted private key, PKCS#8 DER.
#[derive(Clone)]
pub struct PrivateKey {
    pkcs8: Zeroizing<Vec<u8>>,
    pair: Arc<KeyPair>,
    public_key_info: Vec<u8>,
}

/// Why bytes are not a private key that can be used. Never holds the bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PrivateKeyError {
    /// No PEM block of a private key.
    #[error("not a PEM private key: {0}")]
    Pem(String),
    /// Encoded in a way, or of a kind, that is not supported.
    #[error("unsupported private key: use PKCS#8 with RSA 2048 to 4096, ECDSA P-256 or P-384, or Ed25519")]
    Unsupported,
    /// Key generation failed for want of randomness.
    #[error("no private key could be generated")]
    Generate,
}

impl PrivateKey {
    /// A new ECDSA key on P-256.
    ///
    /// # Errors
    ///
    /// When the system has no randomness to give.
    pub fn generate_p256() -> Result<Self, PrivateKeyError> {
        let generated = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &system_random());
        let document = generated.or(Err(PrivateKeyError::Generate))?;
        Self::from_pkcs8(Zeroizing::new(document.as_ref().to_vec()))
    }

    /// From PKCS#8 DER.
    ///
    /// # Errors
    ///
    /// When it is not a key of an accepted kind.
    pub fn from_pkcs8(der: Zeroizing<Vec<u8>>) -> Result<Self, PrivateKeyError> {
        let pair = KeyPair::from_pkcs8(&der)?;
        let public_key_info = pair.subject_public_key_info();
        Ok(Self { pkcs8: der, pair: Arc::new(pair), public_key_info })
    }

    /// From the first PEM block, which must be `PRIVATE KEY` (PKCS#8), `EC PRIVATE KEY` (SEC1) or `RSA PRIVATE KEY`.
    ///
    /// # Errors
    ///
    /// When there is no such block, or the key is not of an accepted kind.
    pub fn from_pem(pem: &[u8]) -> Result<Self, PrivateKeyError> {
        let block = pem::first_block(pem)?;
        match block.label {
            "PRIVATE KEY" => Self::from_pkcs8(block.content),
            "EC PRIVATE KEY" => Self::from_pkcs8(wrap_sec1(&block.content)?),
            "RSA PRIVATE KEY" => Self::from_pkcs8(wrap(RSA_ENCRYPTION, &block.content)),
            label => Err(PrivateKeyError::Pem(format!("the first block is {label:?}, not a private key"))),
        }
    }

    /// PKCS#8 DER.
    pub fn pkcs8(&self) -> &[u8] {
        &self.pkcs8
    }

    /// One `PRIVATE KEY` block.
    pub fn to_pem(&self) -> Zeroizing<String> {
        pem::encode("PRIVATE KEY", &self.pkcs8)
    }

    /// The kind of key.
    pub fn algorithm(&self) -> KeyAlgorithm {
        self.pair.key_algorithm()
    }

    /// The public half, SubjectPublicKeyInfo DER.
    pub fn public_key_info(&self) -> &[u8] {
        &self.public_key_info
    }

    /// What signs with this key.
    pub(in crate::domain) fn key_pair(&self) -> Arc<KeyPair> {
        Arc::clone(&self.pair)
    }

    /// A PEM request signed by this key, asking for `id` in a critical URI name, with an empty subject.
    ///
    /// # Errors
    ///
    /// When signing fails for want of randomness.
    pub fn certificate_request(&self, id: &SpiffeId) -> Result<String, PrivateKeyError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(id.as_str().try_into().or(Err(PrivateKeyError::Generate))?)];
        let request = params.serialize_request(self.pair.as_ref()).or(Err(PrivateKeyError::Generate))?;
        Ok(pem::encode("CERTIFICATE REQUEST", request.der()).to_string())
    }
}

/// AlgorithmIdentifier of RSA (RFC 8017 A.1), of ECDSA on P-256 and on P-384 (RFC 5480 2.1.1), DER.
const RSA_ENCRYPTION: &[u8] = &[0x30, 13, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1, 5, 0];
const EC_P256: &[u8] =
    &[0x30, 19, 6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];
const EC_P384: &[u8] = &[0x30, 16, 6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1, 6, 5, 0x2b, 0x81, 4, 0, 34];

/// Puts an older encoding into PKCS#8 (RFC 5208 5).
fn wrap(algorithm: &[u8], key: &[u8]) -> Zeroizing<Vec<u8>> {
    let key = Zeroizing::new(der::value(der::OCTET_STRING, &[key]));
    Zeroizing::new(der::value(der::SEQUENCE, &[&der::value(der::INTEGER, &[&[0]]), algorithm, &key]))
}

/// The same for an ECPrivateKey (RFC 5915 3), whose parameters tell the curve.
fn wrap_sec1(key: &[u8]) -> Result<Zeroizing<Vec<u8>>, PrivateKeyError> {
    match sec1_curve(key) {
        Some(curve) if curve == OID_EC_P256 => Ok(wrap(EC_P256, key)),
        Some(curve) if curve == OID_NIST_EC_P384 => Ok(wrap(EC_P384, key)),
        _ => Err(PrivateKeyError::Unsupported),
    }
}

fn sec1_curve(key: &[u8]) -> Option<Oid<'_>> {
    let (_, whole) = Any::from_der(key).ok()?;
    let (rest, _version) = Any::from_der(whole.data).ok()?;
    let (rest, _secret) = Any::from_der(rest).ok()?;
    let (_, parameters) = Any::from_der(rest).ok()?;
    let (_, curve) = Oid::from_der(parameters.data).ok()?;
    Some(curve)
}

impl From<PemError> for PrivateKeyError {
    fn from(error: PemError) -> Self {
        Self::Pem(error.to_string())
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey({})", self.algorithm())
    }
}

#[cfg(test)]
mod tests {
    use rsa::{RsaPrivateKey, pkcs1::EncodeRsaPrivateKey, pkcs8::DecodePrivateKey};

    use super::*;
    use crate::domain::x509::{
        VerifiedCsr,
        testing::{OID_P256, OID_P384, ed25519_key, p384_key, rsa_key, sec1},
    };

    fn p256_key() -> Zeroizing<Vec<u8>> {
        Zeroizing::new(PrivateKey::generate_p256().unwrap().pkcs8().to_vec())
    }

    #[test]
    fn pem_is_read_as_written() {
        for pkcs8 in [p256_key(), p384_key(), ed25519_key(), rsa_key()] {
            let key = PrivateKey::from_pkcs8(pkcs8).unwrap();
            let again = PrivateKey::from_pem(key.to_pem().as_bytes()).unwrap();
            assert_eq!(again.pkcs8(), key.pkcs8());
            assert_eq!(again.public_key_info(), key.public_key_info());
        }
    }

    #[test]
    fn older_encodings_are_wrapped() {
        for (pkcs8, curve) in [(p256_key(), OID_P256), (p384_key(), OID_P384)] {
            let pem = pem::encode("EC PRIVATE KEY", &sec1(&pkcs8, curve));
            let key = PrivateKey::from_pem(pem.as_bytes()).unwrap();
            assert_eq!(key.public_key_info(), PrivateKey::from_pkcs8(pkcs8).unwrap().public_key_info());
        }
        let pkcs1 = RsaPrivateKey::from_pkcs8_der(&rsa_key()).unwrap().to_pkcs1_der().unwrap();
        let key = PrivateKey::from_pem(pem::encode("RSA PRIVATE KEY", pkcs1.as_bytes()).as_bytes()).unwrap();
        assert_eq!(key.algorithm(), KeyAlgorithm::Rsa(2048));
    }

    #[test]
    fn refuses_what_is_no_key() {
        assert!(matches!(PrivateKey::from_pem(b""), Err(PrivateKeyError::Pem(_))));
        let pem = pem::encode("CERTIFICATE", &p256_key());
        assert!(matches!(PrivateKey::from_pem(pem.as_bytes()), Err(PrivateKeyError::Pem(_))));
        for label in ["PRIVATE KEY", "EC PRIVATE KEY", "RSA PRIVATE KEY"] {
            let refused = PrivateKey::from_pem(pem::encode(label, &[0x30, 3, 2, 1, 0]).as_bytes());
            assert_eq!(refused.err(), Some(PrivateKeyError::Unsupported), "{label}");
        }
    }

    #[test]
    fn shows_nothing_of_itself() {
        assert_eq!(format!("{:?}", PrivateKey::generate_p256().unwrap()), "PrivateKey(ECDSA P-256)");
    }

    #[test]
    fn asks_for_an_id() {
        for pkcs8 in [p256_key(), p384_key(), ed25519_key(), rsa_key()] {
            let key = PrivateKey::from_pkcs8(pkcs8).unwrap();
            let request = key.certificate_request(&"spiffe://cluster.local/a".parse().unwrap()).unwrap();
            let csr = VerifiedCsr::from_pem(request.as_bytes()).unwrap();
            assert_eq!(csr.public_key_info(), key.public_key_info());
            assert!(!csr.has_common_name());
        }
    }
}
