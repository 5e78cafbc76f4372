//! The embedded token issuer: its own key and `iss`, only for running without Kubernetes.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::{
    digest,
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
};
use serde_json::json;
use zeroize::Zeroizing;

use super::{JwkError, KeySet};
use crate::domain::{
    clock::Timestamp,
    identity::ServiceAccount,
    x509::{PrivateKey, PrivateKeyError},
};

/// An ES256 key that signs service account tokens.
#[derive(Debug)]
pub struct TokenIssuerKey {
    key: PrivateKey,
    signer: EcdsaKeyPair,
    random: SystemRandom,
}

/// Why no token was made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MintError {
    /// Not a P-256 key in PKCS#8 PEM.
    #[error("not a token issuer's key: {0}")]
    Key(String),
    /// No randomness.
    #[error("the token could not be signed")]
    Sign,
}

impl TokenIssuerKey {
    /// A new key.
    ///
    /// # Errors
    ///
    /// When there is no randomness.
    pub fn generate() -> Result<Self, MintError> {
        Self::new(PrivateKey::generate_p256())
    }

    /// From its PEM file.
    ///
    /// # Errors
    ///
    /// When the file holds no such key.
    pub fn from_pem(pem: &[u8]) -> Result<Self, MintError> {
        Self::new(PrivateKey::from_pem(pem))
    }

    #[expect(clippy::disallowed_methods, reason = "signing draws its nonces from ring's own source")]
    fn new(key: Result<PrivateKey, PrivateKeyError>) -> Result<Self, MintError> {
        let key = key.map_err(|error| MintError::Key(error.to_string()))?;
        let random = SystemRandom::new();
        let signer = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key.pkcs8(), &random)
            .map_err(|rejected| MintError::Key(format!("use ECDSA P-256 in PKCS#8 ({rejected})")))?;
        Ok(Self { key, signer, random })
    }

    /// For its file.
    pub fn to_pem(&self) -> Zeroizing<String> {
        self.key.to_pem()
    }

    /// The public half.
    ///
    /// # Errors
    ///
    /// Never for a key that was made or read here; the parser is asked all the same.
    pub fn key_set(&self) -> Result<KeySet, JwkError> {
        let (x, y) = self.coordinates();
        let key = json!({
            "kty": "EC", "crv": "P-256", "x": x, "y": y, "kid": self.key_id(), "alg": "ES256", "use": "sig",
        });
        KeySet::from_json(json!({ "keys": [key] }).to_string().as_bytes())
    }

    /// A token for `account`: `iss`, `sub` of four parts, `aud`, `iat`, `exp`; header `alg` ES256 and `kid`.
    ///
    /// # Errors
    ///
    /// When there is no randomness.
    pub fn mint(
        &self,
        issuer: &str,
        account: &ServiceAccount,
        audience: &str,
        now: Timestamp,
        lifetime: Duration,
    ) -> Result<Zeroizing<String>, MintError> {
        let header = json!({ "alg": "ES256", "kid": self.key_id() });
        let claims = json!({
            "iss": issuer,
            "sub": format!("system:serviceaccount:{}:{}", account.namespace(), account.name()),
            "aud": [audience],
            "iat": now.seconds(),
            "exp": now.plus(lifetime).seconds(),
        });
        let message = format!("{}.{}", encode(header.to_string()), encode(claims.to_string()));
        let signature = self.signer.sign(&self.random, message.as_bytes()).map_err(|_unspecified| MintError::Sign)?;
        Ok(Zeroizing::new(format!("{message}.{}", encode(signature))))
    }

    /// The key's thumbprint (RFC 7638): the members in this order and without spaces.
    fn key_id(&self) -> String {
        let (x, y) = self.coordinates();
        let members = format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#);
        encode(digest::digest(&digest::SHA256, members.as_bytes()))
    }

    /// Both of the public point, which ring gives uncompressed: a 4, then 32 octets each.
    fn coordinates(&self) -> (String, String) {
        let point = self.signer.public_key().as_ref().get(1..).unwrap_or_default();
        let (x, y) = point.split_at(point.len() / 2);
        (encode(x), encode(y))
    }
}

fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::jwt::{IssuerRules, TokenError, TokenIssuer};

    const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);
    const LIFETIME: Duration = Duration::from_secs(600);

    fn mint(key: &TokenIssuerKey) -> Zeroizing<String> {
        key.mint("https://issuer", &"default/gateway".parse().unwrap(), "istio-ca", NOW, LIFETIME).unwrap()
    }

    fn issuer(key: &TokenIssuerKey, issuer: &str) -> TokenIssuer {
        let rules = IssuerRules { issuer: issuer.into(), audiences: vec!["istio-ca".into()], namespaces: None };
        TokenIssuer::new(rules, key.key_set().unwrap())
    }

    #[test]
    fn its_own_rules_accept_what_it_mints() {
        let key = TokenIssuerKey::generate().unwrap();
        let claims = issuer(&key, "https://issuer").validate(&mint(&key), NOW).unwrap();
        assert_eq!(claims.account.to_string(), "default/gateway");
        assert_eq!(claims.expires, NOW.plus(LIFETIME));
        let other = issuer(&TokenIssuerKey::generate().unwrap(), "https://issuer");
        assert_eq!(other.validate(&mint(&key), NOW), Err(TokenError::UnknownKey));
        assert!(matches!(issuer(&key, "https://other").validate(&mint(&key), NOW), Err(TokenError::Issuer(_))));
    }

    #[test]
    fn a_key_read_again_is_the_same_key() {
        let key = TokenIssuerKey::generate().unwrap();
        let again = TokenIssuerKey::from_pem(key.to_pem().as_bytes()).unwrap();
        assert_eq!(again.key_id(), key.key_id());
        assert!(issuer(&key, "https://issuer").validate(&mint(&again), NOW).is_ok());
        assert!(!format!("{key:?}").contains(key.to_pem().lines().nth(1).unwrap()));
    }

    #[test]
    fn what_is_no_such_key_is_refused() {
        for pem in ["", "x", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"] {
            assert!(matches!(TokenIssuerKey::from_pem(pem.as_bytes()), Err(MintError::Key(_))), "{pem:?}");
        }
    }
}
