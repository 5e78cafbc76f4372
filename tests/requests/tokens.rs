//! Issuers of tokens, and what a forger would make.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::{
    hmac,
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm,
        RSA_PKCS1_SHA256, RsaKeyPair, RsaPublicKeyComponents,
    },
};
use serde_json::{Value, json};

/// What signs: the name that goes into `alg`, and the key.
pub(crate) enum Key {
    /// PKCS#8 of a P-256 key.
    Es256(Vec<u8>),
    Rs256(Box<RsaKeyPair>),
}

/// An issuer whose key the test holds.
pub(crate) struct Issuer {
    pub(crate) name: String,
    pub(crate) audience: String,
    pub(crate) kid: String,
    pub(crate) key: Key,
}

impl Issuer {
    /// The issuer's own way: header and claims are right.
    pub(crate) fn token(&self, account: &str) -> String {
        self.token_with(account, json!({}))
    }

    /// With some claims replaced; `null` takes one away.
    pub(crate) fn token_with(&self, account: &str, changes: Value) -> String {
        self.sign(&self.header(json!({})), &self.claims(account, changes).to_string())
    }

    /// With some header parameters replaced.
    pub(crate) fn token_headed(&self, account: &str, changes: Value) -> String {
        self.sign(&self.header(changes), &self.claims(account, json!({})).to_string())
    }

    pub(crate) fn header(&self, changes: Value) -> String {
        let alg = if matches!(self.key, Key::Es256(_)) { "ES256" } else { "RS256" };
        changed(json!({ "alg": alg, "kid": self.kid }), changes).to_string()
    }

    pub(crate) fn claims(&self, account: &str, changes: Value) -> Value {
        let (namespace, name) = account.split_once('/').unwrap();
        let claims = json!({
            "iss": self.name,
            "sub": format!("system:serviceaccount:{namespace}:{name}"),
            "aud": [self.audience],
            "iat": now(),
            "exp": now() + 600,
        });
        changed(claims, changes)
    }

    /// Both parts as they are, signed by this issuer's key.
    pub(crate) fn sign(&self, header: &str, claims: &str) -> String {
        let message = message(header, claims);
        let signature = match &self.key {
            Key::Es256(pkcs8) => ecdsa(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8, &message),
            Key::Rs256(key) => {
                let mut signature = vec![0; key.public().modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message.as_bytes(), &mut signature).unwrap();
                signature
            }
        };
        format!("{message}.{}", encode(signature))
    }

    /// A right token whose ECDSA signature is written in DER, as X.509 does and JWS does not.
    pub(crate) fn token_in_der(&self, account: &str) -> String {
        let Key::Es256(pkcs8) = &self.key else { panic!("an ECDSA issuer") };
        let message = message(&self.header(json!({})), &self.claims(account, json!({})).to_string());
        format!("{message}.{}", encode(ecdsa(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8, &message)))
    }

    /// The JWK Set of an RSA issuer.
    pub(crate) fn jwks(&self) -> String {
        let Key::Rs256(key) = &self.key else { panic!("an RSA issuer") };
        let public = RsaPublicKeyComponents::<Vec<u8>>::from(key.public());
        json!({ "keys": [{ "kty": "RSA", "kid": self.kid, "n": encode(public.n), "e": encode(public.e) }] }).to_string()
    }
}

/// HMAC with a public value as its secret: what a verifier accepts that lets the token choose the algorithm.
pub(crate) fn hmac_token(header: &str, claims: &str, secret: &[u8]) -> String {
    let message = message(header, claims);
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), message.as_bytes());
    format!("{message}.{}", encode(tag))
}

/// Header and claims, and this for a signature.
pub(crate) fn unsigned(header: &str, claims: &str, signature: &str) -> String {
    format!("{}.{signature}", message(header, claims))
}

pub(crate) fn message(header: &str, claims: &str) -> String {
    format!("{}.{}", encode(header), encode(claims))
}

pub(crate) fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The header of a token, as JSON.
pub(crate) fn header_of(token: &str) -> Value {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token.split('.').next().unwrap()).unwrap()).unwrap()
}

pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn ecdsa(algorithm: &'static EcdsaSigningAlgorithm, pkcs8: &[u8], message: &str) -> Vec<u8> {
    let random = SystemRandom::new();
    let key = EcdsaKeyPair::from_pkcs8(algorithm, pkcs8, &random).unwrap();
    key.sign(&random, message.as_bytes()).unwrap().as_ref().to_vec()
}

fn changed(mut object: Value, changes: Value) -> Value {
    let members = object.as_object_mut().unwrap();
    members.extend(changes.as_object().unwrap().clone());
    members.retain(|_, value| !value.is_null());
    object
}
