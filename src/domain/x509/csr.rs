//! A certificate signing request whose proof of possession holds.

use rcgen::PublicKeyData;
use ring::signature::{self, UnparsedPublicKey, VerificationAlgorithm};
use x509_parser::{
    asn1_rs::oid,
    certification_request::X509CertificationRequest,
    objects::oid_registry,
    oid_registry::{
        OID_NIST_HASH_SHA256, OID_NIST_HASH_SHA384, OID_NIST_HASH_SHA512, OID_PKCS1_RSASSAPSS, OID_PKCS1_SHA256WITHRSA,
        OID_PKCS1_SHA384WITHRSA, OID_PKCS1_SHA512WITHRSA, OID_SIG_ECDSA_WITH_SHA256, OID_SIG_ECDSA_WITH_SHA384,
        OID_SIG_ED25519, Oid,
    },
    prelude::FromDer,
    signature_algorithm::RsaSsaPssParams,
    x509::AlgorithmIdentifier,
};

use super::{KeyAlgorithm, PublicKey, pem};

/// A PKCS#10 request that parsed, whose key is of an accepted kind, and whose signature that key made. Subject, names and
/// extensions that it asks for are not kept: what a certificate says is decided by the caller's identity alone. One
/// exception, as in istiod: whether it had a common name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedCsr {
    key: PublicKey,
    has_common_name: bool,
}

/// Why a request is refused. The first two texts are istiod's; the others stand inside its parentheses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CsrError {
    /// No PEM block.
    #[error("certificate signing request is not properly encoded")]
    Pem,
    /// The block is not PKCS#10.
    #[error("failed to parse X.509 certificate signing request")]
    Der,
    /// The key is of a kind or size that is not accepted.
    #[error("unsupported public key {found}: use RSA 2048 to 8192, ECDSA P-256 or P-384, or Ed25519")]
    Key {
        /// What the request holds.
        found: String,
    },
    /// The signature algorithm is not accepted, or does not fit the key.
    #[error(
        "unsupported signature algorithm {found}: use SHA-256, SHA-384 or SHA-512 with RSA (PKCS#1 v1.5 or PSS), ECDSA with SHA-256 or SHA-384, or Ed25519"
    )]
    SignatureAlgorithm {
        /// What the request names.
        found: String,
    },
    /// The signature is not by the request's own key.
    #[error("{}", in_gos_words(.algorithm))]
    Signature {
        /// RSA, ECDSA or Ed25519.
        algorithm: &'static str,
    },
}

impl VerifiedCsr {
    /// A request is at most a few KiB; whatever is larger is not looked at.
    pub const MAX_PEM_BYTES: usize = 64 * 1024;

    /// Parses the first PEM block, whatever its label (as istiod does), and checks the proof of possession. What stands
    /// behind that block is ignored. pilot-agent's `O=""` and ztunnel's empty subject are accepted.
    ///
    /// # Errors
    ///
    /// When the text is not such a request, or the key or signature is not acceptable.
    pub fn from_pem(pem: &[u8]) -> Result<Self, CsrError> {
        if pem.len() > Self::MAX_PEM_BYTES {
            return Err(CsrError::Pem);
        }
        let block = pem::first_block(pem).or(Err(CsrError::Pem))?;
        let (rest, request) = X509CertificationRequest::from_der(&block.content).or(Err(CsrError::Der))?;
        // A signature is whole octets; its count of unused bits is not signed, so it is looked at.
        if !rest.is_empty() || request.signature_value.unused_bits != 0 {
            return Err(CsrError::Der);
        }
        let info = &request.certification_request_info;
        let key = PublicKey::new(&info.subject_pki).map_err(|found| CsrError::Key { found })?;
        let verify = algorithm(&request.signature_algorithm, key.algorithm())?;
        UnparsedPublicKey::new(verify, key.der_bytes())
            .verify(info.raw, &request.signature_value.data)
            .or(Err(CsrError::Signature { algorithm: family(key.algorithm()) }))?;
        let has_common_name = info.subject.iter_common_name().any(|name| !name.as_slice().is_empty());
        Ok(Self { key, has_common_name })
    }

    /// SubjectPublicKeyInfo, DER.
    pub fn public_key_info(&self) -> &[u8] {
        self.key.info()
    }

    /// The kind of the request's key.
    pub const fn key_algorithm(&self) -> KeyAlgorithm {
        self.key.algorithm()
    }

    /// The request's key, as the builder takes it.
    pub(in crate::domain) const fn key(&self) -> &PublicKey {
        &self.key
    }

    /// Whether the subject held a common name.
    pub const fn has_common_name(&self) -> bool {
        self.has_common_name
    }
}

/// As istiod passes on what Go says.
fn in_gos_words(algorithm: &str) -> String {
    match algorithm {
        "RSA" => "crypto/rsa: verification error".to_owned(),
        other => format!("x509: {other} verification failure"),
    }
}

const fn family(key: KeyAlgorithm) -> &'static str {
    match key {
        KeyAlgorithm::EcdsaP256 | KeyAlgorithm::EcdsaP384 => "ECDSA",
        KeyAlgorithm::Ed25519 => "Ed25519",
        KeyAlgorithm::Rsa(_) => "RSA",
    }
}

/// What verifies a signature of this algorithm by a key of this kind. RSA is held to 2048 to 8192 bits by all of these.
fn algorithm(
    named: &AlgorithmIdentifier<'_>,
    key: KeyAlgorithm,
) -> Result<&'static dyn VerificationAlgorithm, CsrError> {
    let is = |oid: Oid<'_>| named.algorithm == oid;
    let found: Option<&'static dyn VerificationAlgorithm> = match key {
        KeyAlgorithm::EcdsaP256 if is(OID_SIG_ECDSA_WITH_SHA256) => Some(&signature::ECDSA_P256_SHA256_ASN1),
        KeyAlgorithm::EcdsaP256 if is(OID_SIG_ECDSA_WITH_SHA384) => Some(&signature::ECDSA_P256_SHA384_ASN1),
        KeyAlgorithm::EcdsaP384 if is(OID_SIG_ECDSA_WITH_SHA256) => Some(&signature::ECDSA_P384_SHA256_ASN1),
        KeyAlgorithm::EcdsaP384 if is(OID_SIG_ECDSA_WITH_SHA384) => Some(&signature::ECDSA_P384_SHA384_ASN1),
        KeyAlgorithm::Ed25519 if is(OID_SIG_ED25519) => Some(&signature::ED25519),
        KeyAlgorithm::Rsa(_) if is(OID_PKCS1_SHA256WITHRSA) => Some(&signature::RSA_PKCS1_2048_8192_SHA256),
        KeyAlgorithm::Rsa(_) if is(OID_PKCS1_SHA384WITHRSA) => Some(&signature::RSA_PKCS1_2048_8192_SHA384),
        KeyAlgorithm::Rsa(_) if is(OID_PKCS1_SHA512WITHRSA) => Some(&signature::RSA_PKCS1_2048_8192_SHA512),
        KeyAlgorithm::Rsa(_) if is(OID_PKCS1_RSASSAPSS) => pss(named),
        KeyAlgorithm::EcdsaP256 | KeyAlgorithm::EcdsaP384 | KeyAlgorithm::Ed25519 | KeyAlgorithm::Rsa(_) => None,
    };
    found.ok_or_else(|| CsrError::SignatureAlgorithm { found: format!("{} with {key}", name(&named.algorithm)) })
}

/// PSS with one hash for message and mask, and a salt as long as that hash (RFC 4055 3.1).
fn pss(named: &AlgorithmIdentifier<'_>) -> Option<&'static dyn VerificationAlgorithm> {
    let parameters = RsaSsaPssParams::try_from(named.parameters.as_ref()?).ok()?;
    let hash = parameters.hash_algorithm_oid();
    let mask = parameters.mask_gen_algorithm().ok()?;
    if mask.mgf != oid!(1.2.840.113549.1.1.8) || mask.hash != *hash || parameters.trailer_field() != 1 {
        return None;
    }
    match parameters.salt_length() {
        32 if *hash == OID_NIST_HASH_SHA256 => Some(&signature::RSA_PSS_2048_8192_SHA256),
        48 if *hash == OID_NIST_HASH_SHA384 => Some(&signature::RSA_PSS_2048_8192_SHA384),
        64 if *hash == OID_NIST_HASH_SHA512 => Some(&signature::RSA_PSS_2048_8192_SHA512),
        _ => None,
    }
}

/// A signature algorithm by its registered name, else by its OID.
fn name(algorithm: &Oid<'_>) -> String {
    if *algorithm == oid!(1.2.840.10045.4.1) {
        return "ecdsa-with-SHA1".into();
    }
    match oid_registry().get(algorithm) {
        Some(entry) => entry.sn().to_owned(),
        None => algorithm.to_string(),
    }
}

#[cfg(test)]
mod tests;
