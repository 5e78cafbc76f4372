//! The public keys that may stand in a request, and how any key is called in words.

use std::fmt;

use rcgen::PublicKeyData;
use x509_parser::{
    asn1_rs::{Tag, oid},
    oid_registry::{
        OID_EC_P256, OID_KEY_TYPE_DSA, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_NIST_EC_P521,
        OID_PKCS1_RSAENCRYPTION, OID_PKCS1_RSASSAPSS, OID_SIG_ED448, OID_SIG_ED25519, Oid,
    },
    public_key::PublicKey as ParsedKey,
    x509::SubjectPublicKeyInfo,
};

/// The kinds of key that certificates and signing authorities may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyAlgorithm {
    /// ECDSA on P-256.
    EcdsaP256,
    /// ECDSA on P-384.
    EcdsaP384,
    /// Ed25519.
    Ed25519,
    /// RSA with this many bits, 2048 to 8192.
    Rsa(u16),
}

impl fmt::Display for KeyAlgorithm {
    /// As in `ECDSA P-256` or `RSA 2048`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EcdsaP256 => f.write_str("ECDSA P-256"),
            Self::EcdsaP384 => f.write_str("ECDSA P-384"),
            Self::Ed25519 => f.write_str("Ed25519"),
            Self::Rsa(bits) => write!(f, "RSA {bits}"),
        }
    }
}

/// A public key of an accepted kind, in the one DER form that this kind has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::domain) struct PublicKey {
    algorithm: KeyAlgorithm,
    info: Vec<u8>,
    bits: Vec<u8>,
}

impl PublicKey {
    /// From a parsed SubjectPublicKeyInfo.
    ///
    /// # Errors
    ///
    /// The key in words, when it is of no accepted kind, or encoded in another way than RFC 5480, 8017 and 8410 say.
    pub(in crate::domain) fn new(info: &SubjectPublicKeyInfo<'_>) -> Result<Self, String> {
        let algorithm = accepted(info).ok_or_else(|| in_words(info))?;
        let key = Self { algorithm, info: info.raw.to_vec(), bits: info.subject_public_key.data.to_vec() };
        // Parameters, unused bits and lengths have one right form; whatever differs would be written differently.
        if key.subject_public_key_info() != key.info {
            return Err(format!("{algorithm} in an unusual encoding"));
        }
        Ok(key)
    }

    /// The kind.
    pub(in crate::domain) const fn algorithm(&self) -> KeyAlgorithm {
        self.algorithm
    }

    /// SubjectPublicKeyInfo, DER.
    pub(in crate::domain) fn info(&self) -> &[u8] {
        &self.info
    }
}

impl PublicKeyData for PublicKey {
    fn der_bytes(&self) -> &[u8] {
        &self.bits
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        self.algorithm.signature_algorithm()
    }
}

impl KeyAlgorithm {
    /// What a key of this kind signs with, as Go's defaults have it. For RSA this is PKCS#1 v1.5 with SHA-256.
    pub(super) fn signature_algorithm(self) -> &'static rcgen::SignatureAlgorithm {
        match self {
            Self::EcdsaP256 => &rcgen::PKCS_ECDSA_P256_SHA256,
            Self::EcdsaP384 => &rcgen::PKCS_ECDSA_P384_SHA384,
            Self::Ed25519 => &rcgen::PKCS_ED25519,
            Self::Rsa(_) => &rcgen::PKCS_RSA_SHA256,
        }
    }
}

/// The kind of key if it is one that is accepted. An uncompressed point has 65 bytes on P-256 and 97 on P-384.
fn accepted(info: &SubjectPublicKeyInfo<'_>) -> Option<KeyAlgorithm> {
    let bits = &info.subject_public_key.data;
    let oid = &info.algorithm.algorithm;
    if *oid == OID_KEY_TYPE_EC_PUBLIC_KEY {
        let curve = curve(info)?;
        match (bits.first(), bits.len()) {
            (Some(4), 65) if curve == OID_EC_P256 => Some(KeyAlgorithm::EcdsaP256),
            (Some(4), 97) if curve == OID_NIST_EC_P384 => Some(KeyAlgorithm::EcdsaP384),
            _ => None,
        }
    } else if *oid == OID_SIG_ED25519 {
        (bits.len() == 32).then_some(KeyAlgorithm::Ed25519)
    } else if *oid == OID_PKCS1_RSAENCRYPTION {
        rsa_bits(info)
            .and_then(|bits| u16::try_from(bits).ok())
            .filter(|b| (2048..=8192).contains(b))
            .map(KeyAlgorithm::Rsa)
    } else {
        None
    }
}

/// Any key in words, such as `ECDSA P-256` or `RSA 2048`; what has no name here is shown by its OID.
pub(super) fn in_words(info: &SubjectPublicKeyInfo<'_>) -> String {
    let named: [(Oid<'_>, &str); 6] = [
        (OID_SIG_ED25519, "Ed25519"),
        (OID_SIG_ED448, "Ed448"),
        (oid!(1.3.101.110), "X25519"),
        (oid!(1.3.101.111), "X448"),
        (OID_KEY_TYPE_DSA, "DSA"),
        (OID_PKCS1_RSASSAPSS, "RSA for PSS alone"),
    ];
    let oid = &info.algorithm.algorithm;
    if *oid == OID_KEY_TYPE_EC_PUBLIC_KEY {
        curve(info)
            .map_or_else(|| "ECDSA without a named curve".into(), |curve| format!("ECDSA {}", curve_name(&curve)))
    } else if *oid == OID_PKCS1_RSAENCRYPTION {
        rsa_bits(info).map_or_else(|| "RSA without a modulus".into(), |bits| format!("RSA {bits}"))
    } else {
        let name = named.into_iter().find_map(|(known, name)| (known == *oid).then(|| name.to_owned()));
        name.unwrap_or_else(|| format!("of type {oid}"))
    }
}

pub(super) fn curve<'a>(info: &'a SubjectPublicKeyInfo<'_>) -> Option<Oid<'a>> {
    // `as_oid` alone would take the content of any type for an OID
    info.algorithm.parameters.as_ref().filter(|parameters| parameters.tag() == Tag::Oid)?.as_oid().ok()
}

fn curve_name(curve: &Oid<'_>) -> String {
    let named: [(Oid<'_>, &str); 4] = [
        (OID_EC_P256, "P-256"),
        (OID_NIST_EC_P384, "P-384"),
        (OID_NIST_EC_P521, "P-521"),
        (oid!(1.3.132.0.33), "P-224"),
    ];
    let name = named.into_iter().find_map(|(known, name)| (known == *curve).then(|| name.to_owned()));
    name.unwrap_or_else(|| format!("on curve {curve}"))
}

fn rsa_bits(info: &SubjectPublicKeyInfo<'_>) -> Option<usize> {
    let Ok(ParsedKey::RSA(key)) = info.parsed() else { return None };
    let start = key.modulus.iter().position(|byte| *byte != 0)?;
    let significant = key.modulus.get(start..)?;
    let unused = usize::try_from(significant.first()?.leading_zeros()).ok()?;
    (significant.len() * 8).checked_sub(unused)
}
