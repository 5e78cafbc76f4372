//! The embedded token issuer: its own key and `iss`, only for running without Kubernetes.

use std::time::Duration;

use serde_json::{Map, json};
use zeroize::Zeroizing;

use super::{
    JwkError, KeySet,
    es256::{Es256Key, MintError},
};
use crate::domain::{clock::Timestamp, identity::ServiceAccount, x509::PrivateKey};

/// An ES256 key that signs service account tokens.
#[derive(Debug)]
pub struct TokenIssuerKey(Es256Key);

impl TokenIssuerKey {
    /// A new key.
    ///
    /// # Errors
    ///
    /// When there is no randomness.
    pub fn generate() -> Result<Self, MintError> {
        Es256Key::new(PrivateKey::generate_p256()).map(Self)
    }

    /// From its PEM file.
    ///
    /// # Errors
    ///
    /// When the file holds no such key.
    pub fn from_pem(pem: &[u8]) -> Result<Self, MintError> {
        Es256Key::new(PrivateKey::from_pem(pem)).map(Self)
    }

    /// For its file.
    pub fn to_pem(&self) -> Zeroizing<String> {
        self.0.to_pem()
    }

    /// The public half.
    ///
    /// # Errors
    ///
    /// Never for a key that was made or read here; the parser is asked all the same.
    pub fn key_set(&self) -> Result<KeySet, JwkError> {
        let mut key = self.0.jwk();
        key.insert("use".into(), "sig".into());
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
        let claims = json!({
            "iss": issuer,
            "sub": format!("system:serviceaccount:{}:{}", account.namespace(), account.name()),
            "aud": [audience],
            "iat": now.seconds(),
            "exp": now.plus(lifetime).seconds(),
        });
        self.0.sign(Map::new(), &claims)
    }
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
        assert_eq!(again.0.key_id(), key.0.key_id());
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
