//! A certificate's public key as the members of a JWK (RFC 7518 6, RFC 8037 2).

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Map, Value, json};
use x509_parser::{
    oid_registry::{OID_EC_P256, OID_NIST_EC_P384, OID_NIST_EC_P521, OID_SIG_ED25519},
    prelude::FromDer,
    public_key::PublicKey as ParsedKey,
    x509::SubjectPublicKeyInfo,
};

use super::public_key;

/// `kty` and what belongs to it; `None` for a kind of key that no JWK can tell.
pub(super) fn members(public_key_info: &[u8]) -> Option<Map<String, Value>> {
    let (_, info) = SubjectPublicKeyInfo::from_der(public_key_info).ok()?;
    let parsed = info.parsed().ok()?;
    let members = if let ParsedKey::RSA(key) = parsed {
        json!({ "kty": "RSA", "n": unsigned(key.modulus), "e": unsigned(key.exponent) })
    } else if let ParsedKey::EC(point) = parsed {
        let coordinates = point.data().strip_prefix(&[4])?;
        let named = [(OID_EC_P256, "P-256"), (OID_NIST_EC_P384, "P-384"), (OID_NIST_EC_P521, "P-521")];
        let curve = public_key::curve(&info)?;
        let curve = named.into_iter().find_map(|(known, name)| (known == curve).then_some(name))?;
        let (x, y) = coordinates.split_at(coordinates.len() / 2);
        json!({ "kty": "EC", "crv": curve, "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y) })
    } else if info.algorithm.algorithm == OID_SIG_ED25519 {
        json!({ "kty": "OKP", "crv": "Ed25519", "x": URL_SAFE_NO_PAD.encode(&info.subject_public_key.data) })
    } else {
        return None;
    };
    if let Value::Object(members) = members { Some(members) } else { None }
}

/// Without the zero that DER puts before a number whose first bit is set.
fn unsigned(number: &[u8]) -> String {
    let start = number.iter().position(|byte| *byte != 0).unwrap_or(number.len());
    URL_SAFE_NO_PAD.encode(number.get(start..).unwrap_or_default())
}
