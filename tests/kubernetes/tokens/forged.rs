//! Tokens that the API server would never make, signed with its own key or with another one.

use std::{fs, path::Path};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use countersign::domain::x509::PrivateKey;
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair},
};
use serde_json::Value;

/// A key to sign with.
pub(crate) struct Forger(EcdsaKeyPair);

impl Forger {
    /// With the key by which the API server of this folder signs.
    pub(crate) fn with_the_clusters_key(folder: &Path) -> Self {
        let pem = fs::read(folder.join("service-accounts.key")).unwrap();
        Self::with(&PrivateKey::from_pem(&pem).unwrap())
    }

    /// With a key of its own.
    pub(crate) fn with_another_key() -> Self {
        Self::with(&PrivateKey::generate_p256().unwrap())
    }

    fn with(key: &PrivateKey) -> Self {
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key.pkcs8(), &SystemRandom::new());
        Self(key.unwrap())
    }

    /// A real token with some claims replaced; `null` takes one away.
    pub(crate) fn changed(&self, token: &str, changes: &Value) -> String {
        let (header, claims) = (part(token, 0), merged(part(token, 1), changes));
        let message = format!("{}.{}", encode(header.to_string()), encode(claims.to_string()));
        let signature = self.0.sign(&SystemRandom::new(), message.as_bytes()).unwrap();
        format!("{message}.{}", encode(signature))
    }
}

/// A real token's claims without a signature.
pub(crate) fn unsigned(token: &str) -> String {
    format!("{}.{}.", encode(r#"{"alg":"none"}"#), encode(part(token, 1).to_string()))
}

/// With one bit of the signature turned.
pub(crate) fn turned(token: &str) -> String {
    let (message, signature) = token.rsplit_once('.').unwrap();
    let mut signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
    signature[7] ^= 1;
    format!("{message}.{}", encode(signature))
}

fn part(token: &str, index: usize) -> Value {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token.split('.').nth(index).unwrap()).unwrap()).unwrap()
}

fn merged(mut object: Value, changes: &Value) -> Value {
    let members = object.as_object_mut().unwrap();
    members.extend(changes.as_object().unwrap().clone());
    members.retain(|_, value| !value.is_null());
    object
}

fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}
