//! An ES256 key: named by its thumbprint, and what it signs in JWS compact form. What stands in a token is not decided here.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::{
    digest,
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
};
use serde_json::{Map, Value, json};
use zeroize::Zeroizing;

use crate::domain::{
    clock::Timestamp,
    x509::{PrivateKey, PrivateKeyError},
};

#[derive(Debug)]
pub(super) struct Es256Key {
    key: PrivateKey,
    signer: EcdsaKeyPair,
    random: SystemRandom,
    key_id: String,
}

/// Why no token was made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MintError {
    /// Not a P-256 key in PKCS#8 PEM.
    #[error("not a key that signs tokens: {0}")]
    Key(String),
    /// Nothing by it would be believed.
    #[error("the key that signs tokens has ended at {0}")]
    Ended(Timestamp),
    /// No randomness.
    #[error("the token could not be signed")]
    Sign,
}

impl Es256Key {
    #[expect(clippy::disallowed_methods, reason = "signing draws its nonces from ring's own source")]
    pub(super) fn new(key: Result<PrivateKey, PrivateKeyError>) -> Result<Self, MintError> {
        let key = key.map_err(|error| MintError::Key(error.to_string()))?;
        let random = SystemRandom::new();
        let signer = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key.pkcs8(), &random)
            .map_err(|rejected| MintError::Key(format!("use ECDSA P-256 in PKCS#8 ({rejected})")))?;
        let (x, y) = coordinates(&signer);
        // RFC 7638: the members in this order and without spaces
        let members = format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#);
        let key_id = encode(digest::digest(&digest::SHA256, members.as_bytes()));
        Ok(Self { key, signer, random, key_id })
    }

    pub(super) fn to_pem(&self) -> Zeroizing<String> {
        self.key.to_pem()
    }

    /// The key's thumbprint.
    pub(super) fn key_id(&self) -> &str {
        &self.key_id
    }

    /// The public half as a JWK, without `use`.
    pub(super) fn jwk(&self) -> Map<String, Value> {
        let (x, y) = coordinates(&self.signer);
        let members = [("kty", "EC".into()), ("crv", "P-256".into()), ("x", x), ("y", y), ("alg", "ES256".into())];
        let members = members.into_iter().chain([("kid", self.key_id.clone())]);
        members.map(|(name, value): (&str, String)| (name.to_owned(), value.into())).collect()
    }

    /// A token with these claims; its header names the algorithm, this key and the members of `header`.
    pub(super) fn sign(&self, header: Map<String, Value>, claims: &Value) -> Result<Zeroizing<String>, MintError> {
        let mut header = header;
        header.insert("alg".into(), "ES256".into());
        header.insert("kid".into(), self.key_id.clone().into());
        let message = format!("{}.{}", encode(json!(header).to_string()), encode(claims.to_string()));
        let signature = self.signer.sign(&self.random, message.as_bytes()).map_err(|_unspecified| MintError::Sign)?;
        Ok(Zeroizing::new(format!("{message}.{}", encode(signature))))
    }
}

/// Both of the public point, which ring gives uncompressed: a 4, then 32 octets each.
fn coordinates(signer: &EcdsaKeyPair) -> (String, String) {
    let point = signer.public_key().as_ref().get(1..).unwrap_or_default();
    let (x, y) = point.split_at(point.len() / 2);
    (encode(x), encode(y))
}

fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}
