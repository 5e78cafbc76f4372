//! One key of each kind for tests, and tokens that they sign.

use std::sync::LazyLock;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::{
    rand::SystemRandom,
    signature::{
        self, ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair,
        RsaEncoding, RsaKeyPair,
    },
};
use rsa::{
    RsaPrivateKey,
    pkcs8::{EncodePrivateKey, SecretDocument},
    rand_core::OsRng,
};
use serde_json::{Value, json};

/// Slow to make, so made once; ring can't.
static RSA_KEY: LazyLock<SecretDocument> =
    LazyLock::new(|| RsaPrivateKey::new(&mut OsRng, 2048).unwrap().to_pkcs8_der().unwrap());

/// One key of each kind, and the issuer that publishes them under the kids p256, p384, ed, rsa.
pub(in crate::domain) struct Keys {
    pub(in crate::domain) p256: EcdsaKeyPair,
    p384: EcdsaKeyPair,
    ed: Ed25519KeyPair,
    rsa: RsaKeyPair,
    pub(in crate::domain) random: SystemRandom,
}

/// A key that nothing here verifies by: of a point only the length counts.
pub(in crate::domain) fn p521_jwk(kid: &str) -> Value {
    json!({ "kty": "EC", "kid": kid, "crv": "P-521", "x": b64([1; 66]), "y": b64([2; 66]) })
}

impl Keys {
    #[expect(clippy::disallowed_methods, reason = "test keys")]
    pub(in crate::domain) fn new() -> Self {
        let random = SystemRandom::new();
        let ecdsa = |algorithm| {
            let key = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
            EcdsaKeyPair::from_pkcs8(algorithm, key.as_ref(), &random).unwrap()
        };
        Self {
            p256: ecdsa(&ECDSA_P256_SHA256_FIXED_SIGNING),
            p384: ecdsa(&ECDSA_P384_SHA384_FIXED_SIGNING),
            ed: Ed25519KeyPair::from_pkcs8(Ed25519KeyPair::generate_pkcs8(&random).unwrap().as_ref()).unwrap(),
            rsa: RsaKeyPair::from_pkcs8(RSA_KEY.as_bytes()).unwrap(),
            random,
        }
    }

    pub(in crate::domain) fn jwks(&self) -> Value {
        let ec = |kid, crv, key: &EcdsaKeyPair| {
            let point = &key.public_key().as_ref()[1..];
            let (x, y) = point.split_at(point.len() / 2);
            json!({ "kty": "EC", "kid": kid, "crv": crv, "x": b64(x), "y": b64(y) })
        };
        let rsa = signature::RsaPublicKeyComponents::<Vec<u8>>::from(self.rsa.public());
        json!({ "keys": [
            ec("p256", "P-256", &self.p256),
            ec("p384", "P-384", &self.p384),
            { "kty": "OKP", "kid": "ed", "crv": "Ed25519", "x": b64(self.ed.public_key().as_ref()) },
            { "kty": "RSA", "kid": "rsa", "n": b64(rsa.n), "e": b64(rsa.e), "use": "sig" },
        ]})
    }

    pub(in crate::domain) fn sign(&self, header: &str, claims: &str) -> String {
        let alg =
            serde_json::from_str::<Value>(header).ok().and_then(|header| header["alg"].as_str().map(str::to_owned));
        let message = format!("{}.{}", b64(header), b64(claims));
        let signature = self.signature(alg.as_deref().unwrap_or_default(), message.as_bytes());
        format!("{message}.{}", b64(signature))
    }

    /// By the key of the algorithm's kind; P-256 for what is no algorithm.
    pub(in crate::domain) fn signature(&self, alg: &str, message: &[u8]) -> Vec<u8> {
        let rsa = |encoding: &'static dyn RsaEncoding| {
            let mut signature = vec![0; self.rsa.public().modulus_len()];
            self.rsa.sign(encoding, &self.random, message, &mut signature).unwrap();
            signature
        };
        match alg {
            "ES384" => self.p384.sign(&self.random, message).unwrap().as_ref().to_vec(),
            "EdDSA" => self.ed.sign(message).as_ref().to_vec(),
            "RS256" => rsa(&signature::RSA_PKCS1_SHA256),
            "RS384" => rsa(&signature::RSA_PKCS1_SHA384),
            "RS512" => rsa(&signature::RSA_PKCS1_SHA512),
            "PS256" => rsa(&signature::RSA_PSS_SHA256),
            "PS384" => rsa(&signature::RSA_PSS_SHA384),
            "PS512" => rsa(&signature::RSA_PSS_SHA512),
            _ => self.p256.sign(&self.random, message).unwrap().as_ref().to_vec(),
        }
    }
}

pub(in crate::domain) fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}
