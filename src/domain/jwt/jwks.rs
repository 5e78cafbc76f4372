//! JWK Sets (RFC 7517), the public half only.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::signature::{self, RsaPublicKeyComponents, UnparsedPublicKey};
use serde::Deserialize;

use crate::domain::x509::KeyAlgorithm;

/// The verification keys of one issuer: EC P-256 and P-384, RSA of at least 2048 bits, Ed25519. Keys for other uses or of
/// other kinds are skipped, as the standard asks.
#[derive(Clone, Debug, Default)]
pub struct KeySet {
    keys: Vec<VerificationKey>,
}

/// Why a document is not a usable JWK Set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JwkError {
    /// Not JSON, or not of that shape.
    #[error("not a JWK Set: {0}")]
    Json(String),
    /// No key in it can verify a token.
    #[error("the JWK Set holds no usable key: use EC P-256 or P-384, RSA of at least 2048 bits, or Ed25519")]
    NoKey,
}

impl KeySet {
    /// Parses a JWK Set.
    ///
    /// # Errors
    ///
    /// When the document is not one, or none of its keys can be used.
    pub fn from_json(json: &[u8]) -> Result<Self, JwkError> {
        let document: Document = serde_json::from_slice(json).map_err(|error| JwkError::Json(error.to_string()))?;
        let keys: Vec<_> = document.keys.into_iter().filter_map(|key| VerificationKey::from_json(key, "sig")).collect();
        if keys.is_empty() { Err(JwkError::NoKey) } else { Ok(Self { keys }) }
    }

    /// The keys that a token may mean: those of its `kid`, or all if it names none.
    pub(super) fn named(&self, kid: Option<&str>) -> impl Iterator<Item = &VerificationKey> {
        self.keys.iter().filter(move |key| kid.is_none_or(|kid| key.id.as_deref() == Some(kid)))
    }
}

/// A signature algorithm of RFC 7518 or RFC 8037. There is none without a signature and none with a shared secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Algorithm {
    Es256,
    Es384,
    EdDsa,
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
}

impl Algorithm {
    /// From the value of `alg`, which is case-sensitive.
    pub(super) fn from_name(name: &str) -> Option<Self> {
        match name {
            "ES256" => Some(Self::Es256),
            "ES384" => Some(Self::Es384),
            "EdDSA" => Some(Self::EdDsa),
            "RS256" => Some(Self::Rs256),
            "RS384" => Some(Self::Rs384),
            "RS512" => Some(Self::Rs512),
            "PS256" => Some(Self::Ps256),
            "PS384" => Some(Self::Ps384),
            "PS512" => Some(Self::Ps512),
            _ => None,
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct VerificationKey {
    id: Option<String>,
    /// The JWK's own `alg`: the key is then for nothing else.
    pinned: Option<Algorithm>,
    material: Material,
}

#[derive(Clone, Debug)]
enum Material {
    /// Uncompressed point.
    P256(Vec<u8>),
    /// Uncompressed point.
    P384(Vec<u8>),
    Ed25519(Vec<u8>),
    /// Modulus and exponent, big-endian without leading zeros.
    Rsa(RsaPublicKeyComponents<Vec<u8>>),
}

impl VerificationKey {
    /// `None` for a key that can't be used, which includes one that does not parse and one with another `use` than this: the
    /// set may hold kinds of key that this program has never heard of.
    pub(super) fn from_json(json: serde_json::Value, expected_use: &str) -> Option<Self> {
        let jwk = Jwk::for_verifying(json, expected_use)?;
        let pinned = match jwk.alg {
            Some(name) => Some(Algorithm::from_name(&name)?),
            None => None,
        };
        let material = Material::from_parts(&jwk.kty, jwk.crv.as_deref(), &jwk.numbers)?;
        Some(Self { id: jwk.kid, pinned, material })
    }

    /// Whether JWT-SVIDs may be signed by such a key: `EdDSA` is not among their algorithms (JWT-SVID 2.1).
    pub(super) const fn may_sign_svids(&self) -> bool {
        !matches!(self.material, Material::Ed25519(_))
    }

    pub(super) fn kind(&self) -> KeyAlgorithm {
        match &self.material {
            Material::P256(_) => KeyAlgorithm::EcdsaP256,
            Material::P384(_) => KeyAlgorithm::EcdsaP384,
            Material::Ed25519(_) => KeyAlgorithm::Ed25519,
            Material::Rsa(key) => KeyAlgorithm::Rsa(bits(&key.n)),
        }
    }

    /// Whether a token with this `alg` may be verified by this key.
    pub(super) fn accepts(&self, algorithm: Algorithm) -> bool {
        self.pinned.is_none_or(|pinned| pinned == algorithm) && self.material.accepts(algorithm)
    }

    /// Whether this key made the signature by this algorithm. Never for an algorithm of another kind of key.
    pub(super) fn verifies(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        self.accepts(algorithm) && self.material.verifies(algorithm, message, signature)
    }
}

/// Whether this is a key of P-521, with this `use` or none: there is no cryptography for it here.
pub(super) fn is_p521(json: serde_json::Value, expected_use: &str) -> bool {
    Jwk::for_verifying(json, expected_use).is_some_and(|jwk| {
        let is_of_curve = jwk.kty == "EC" && jwk.crv.as_deref() == Some("P-521") && jwk.numbers.point(66).is_some();
        is_of_curve && jwk.alg.is_none_or(|name| name == "ES512")
    })
}

impl Material {
    fn from_parts(kty: &str, crv: Option<&str>, numbers: &Numbers) -> Option<Self> {
        match (kty, crv) {
            ("EC", Some("P-256")) => Some(Self::P256(numbers.point(32)?)),
            ("EC", Some("P-384")) => Some(Self::P384(numbers.point(48)?)),
            ("OKP", Some("Ed25519")) => Some(Self::Ed25519(octets(numbers.x.as_deref()?, 32)?)),
            ("RSA", _) => Some(Self::Rsa(numbers.rsa()?)),
            _ => None,
        }
    }

    const fn accepts(&self, algorithm: Algorithm) -> bool {
        match algorithm {
            Algorithm::Es256 => matches!(self, Self::P256(_)),
            Algorithm::Es384 => matches!(self, Self::P384(_)),
            Algorithm::EdDsa => matches!(self, Self::Ed25519(_)),
            Algorithm::Rs256
            | Algorithm::Rs384
            | Algorithm::Rs512
            | Algorithm::Ps256
            | Algorithm::Ps384
            | Algorithm::Ps512 => matches!(self, Self::Rsa(_)),
        }
    }

    fn verifies(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        let verdict = match self {
            Self::P256(point) => {
                UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, point).verify(message, signature)
            }
            Self::P384(point) => {
                UnparsedPublicKey::new(&signature::ECDSA_P384_SHA384_FIXED, point).verify(message, signature)
            }
            Self::Ed25519(key) => UnparsedPublicKey::new(&signature::ED25519, key).verify(message, signature),
            Self::Rsa(key) => {
                let parameters = match algorithm {
                    Algorithm::Rs256 => &signature::RSA_PKCS1_2048_8192_SHA256,
                    Algorithm::Rs384 => &signature::RSA_PKCS1_2048_8192_SHA384,
                    Algorithm::Rs512 => &signature::RSA_PKCS1_2048_8192_SHA512,
                    Algorithm::Ps256 => &signature::RSA_PSS_2048_8192_SHA256,
                    Algorithm::Ps384 => &signature::RSA_PSS_2048_8192_SHA384,
                    Algorithm::Ps512 => &signature::RSA_PSS_2048_8192_SHA512,
                    Algorithm::Es256 | Algorithm::Es384 | Algorithm::EdDsa => return false,
                };
                key.verify(parameters, message, signature)
            }
        };
        verdict.is_ok()
    }
}

#[derive(Deserialize)]
struct Document {
    keys: Vec<serde_json::Value>,
}

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    r#use: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    kid: Option<String>,
    crv: Option<String>,
    #[serde(flatten)]
    numbers: Numbers,
}

impl Jwk {
    /// `None` if it does not parse, or is for something else than this use and verifying.
    fn for_verifying(json: serde_json::Value, expected_use: &str) -> Option<Self> {
        let jwk: Self = serde_json::from_value(json).ok()?;
        let for_signatures = jwk.r#use.as_ref().is_none_or(|r#use| r#use == expected_use);
        let operations = jwk.key_ops.as_ref();
        let for_verifying = operations.is_none_or(|operations| operations.iter().any(|name| name == "verify"));
        (for_signatures && for_verifying).then_some(jwk)
    }
}

/// The members that hold key material (RFC 7518 6.2 and 6.3, RFC 8037 2).
#[derive(Deserialize)]
struct Numbers {
    x: Option<String>,
    y: Option<String>,
    n: Option<String>,
    e: Option<String>,
}

impl Numbers {
    fn point(&self, coordinate: usize) -> Option<Vec<u8>> {
        let mut point = vec![4];
        point.extend(octets(self.x.as_deref()?, coordinate)?);
        point.extend(octets(self.y.as_deref()?, coordinate)?);
        Some(point)
    }

    /// 2048 to 8192 bits with an odd exponent of 3 to 2^33: what ring verifies with.
    fn rsa(&self) -> Option<RsaPublicKeyComponents<Vec<u8>>> {
        let (n, e) = (unsigned(self.n.as_deref()?)?, unsigned(self.e.as_deref()?)?);
        let exponent = e.iter().try_fold(0u64, |sum, byte| sum.checked_mul(256)?.checked_add(u64::from(*byte)))?;
        let usable = (2048..=8192).contains(&bits(&n)) && (3..1 << 33).contains(&exponent) && exponent % 2 == 1;
        usable.then_some(RsaPublicKeyComponents { n, e })
    }
}

/// Of a number without leading zeros.
fn bits(number: &[u8]) -> u16 {
    let unused = number.first().map_or(0, |top| top.leading_zeros());
    let bits = u32::try_from(number.len()).unwrap_or(u32::MAX).saturating_mul(8).saturating_sub(unused);
    u16::try_from(bits).unwrap_or(u16::MAX)
}

fn octets(text: &str, length: usize) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).ok().filter(|bytes| bytes.len() == length)
}

/// Big-endian without leading zeros, which some issuers write although RFC 7518 2 asks them not to.
fn unsigned(text: &str) -> Option<Vec<u8>> {
    let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
    Some(bytes.into_iter().skip_while(|byte| *byte == 0).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const EC: &str = r#""kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0""#;

    fn parse(keys: &str) -> Result<KeySet, JwkError> {
        KeySet::from_json(format!(r#"{{"keys":[{keys}]}}"#).as_bytes())
    }

    #[test]
    fn skips_what_it_can_not_use_and_keeps_the_rest() {
        let set =
            parse(&format!(r#"{{{EC}}},{{"kty":"oct","k":"AA"}},7,{{"kty":"new","x":[1]}},{{{EC},"use":"enc"}}"#));
        assert_eq!(set.unwrap().keys.len(), 1);
    }

    #[test]
    fn uses_only_keys_that_are_meant_for_signatures() {
        for members in [
            EC.to_owned(),
            format!(r#"{EC},"use":"sig""#),
            format!(r#"{EC},"key_ops":["verify"]"#),
            format!(r#"{EC},"alg":"ES256","x5c":["AA"],"future":{{}}"#),
        ] {
            assert!(parse(&format!("{{{members}}}")).is_ok(), "{members}");
        }
        let rsa = |bytes: usize, e: &str| {
            let n = URL_SAFE_NO_PAD.encode(vec![0xff; bytes]);
            format!(r#""kty":"RSA","n":"{n}","e":"{e}""#)
        };
        assert!(parse(&format!("{{{}}}", rsa(256, "AQAB"))).is_ok());
        for members in [
            format!(r#"{EC},"use":"enc""#),
            format!(r#"{EC},"key_ops":["sign"]"#),
            format!(r#"{EC},"alg":"ECDH-ES""#),
            format!(r#"{EC},"alg":"none""#),
            EC.replace("P-256", "P-384"),
            EC.replace("P-256", "P-521"),
            EC.replace("\"EC\"", "\"OKP\""),
            EC.replace("5a0", "5a0="),
            EC.replace("5a0", "5a"),
            rsa(255, "AQAB"),
            rsa(1025, "AQAB"),
            rsa(256, "AQ"),
            rsa(256, "BA"),
            rsa(256, ""),
            rsa(256, "____________"),
            rsa(0, "AQAB"),
        ] {
            assert_eq!(parse(&format!("{{{members}}}")).err(), Some(JwkError::NoKey), "{members}");
        }
    }

    #[test]
    fn refuses_what_is_no_set() {
        for json in ["", "{}", "[]", "null", r#"{"keys":{}}"#, r#"{"keys":[]"#] {
            assert!(matches!(KeySet::from_json(json.as_bytes()), Err(JwkError::Json(_))), "{json}");
        }
        assert_eq!(parse("").err(), Some(JwkError::NoKey));
    }
}
