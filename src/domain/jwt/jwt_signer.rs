//! Signing of JWT-SVIDs.

use std::time::Duration;

use serde_json::{Map, json};
use zeroize::Zeroizing;

use super::{
    JwtAuthority,
    es256::{Es256Key, MintError},
};
use crate::domain::{clock::Timestamp, identity::SpiffeId, x509::PrivateKey};

/// A key that signs JWT-SVIDs, up to its end.
#[derive(Debug)]
pub struct JwtSigner {
    key: Es256Key,
    authority: JwtAuthority,
    not_after: Timestamp,
}

impl JwtSigner {
    /// A new ES256 key.
    ///
    /// # Errors
    ///
    /// When there is no randomness.
    pub fn generate(not_after: Timestamp) -> Result<Self, MintError> {
        Self::new(Es256Key::new(PrivateKey::generate_p256())?, not_after)
    }

    /// From its PEM.
    ///
    /// # Errors
    ///
    /// When it is no such key.
    pub fn from_pem(pem: &[u8], not_after: Timestamp) -> Result<Self, MintError> {
        Self::new(Es256Key::new(PrivateKey::from_pem(pem))?, not_after)
    }

    fn new(key: Es256Key, not_after: Timestamp) -> Result<Self, MintError> {
        let authority = JwtAuthority::from_jwk(&key.jwk());
        Ok(Self { key, authority: authority.map_err(|error| MintError::Key(error.to_string()))?, not_after })
    }

    /// For the store.
    pub fn to_pem(&self) -> Zeroizing<String> {
        self.key.to_pem()
    }

    /// `kid`: the key's thumbprint (RFC 7638).
    pub fn key_id(&self) -> &str {
        self.key.key_id()
    }

    /// The public half, for the bundle.
    pub const fn authority(&self) -> &JwtAuthority {
        &self.authority
    }

    /// Nothing that it signs is valid longer.
    pub const fn not_after(&self) -> Timestamp {
        self.not_after
    }

    /// A JWT-SVID for `id`: header `alg`, `kid` and `typ`; claims `sub`, `aud` (always a list), `iat`, and `exp`, which is
    /// `lifetime` after `now`, or this key's end if that comes first. Which audiences are right is not decided here.
    ///
    /// # Errors
    ///
    /// When the key has ended, or there is no randomness.
    pub fn mint(
        &self,
        id: &SpiffeId,
        audiences: &[String],
        now: Timestamp,
        lifetime: Duration,
    ) -> Result<Zeroizing<String>, MintError> {
        if self.not_after <= now {
            return Err(MintError::Ended(self.not_after));
        }
        let expires = now.plus(lifetime).min(self.not_after);
        let header = Map::from_iter([("typ".to_owned(), "JWT".into())]);
        let claims = json!({ "sub": id.as_str(), "aud": audiences, "iat": now.seconds(), "exp": expires.seconds() });
        self.key.sign(header, &claims)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{
        identity::TrustDomain,
        jwt::{JwtAuthorities, JwtSvid, JwtSvidError},
    };

    const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);
    const MINUTE: Duration = Duration::from_secs(60);
    const ID: &str = "spiffe://td/ns/a/sa/b";

    struct Keys(Vec<JwtAuthority>);

    impl JwtAuthorities for Keys {
        fn of(&self, trust_domain: &TrustDomain) -> Option<&[JwtAuthority]> {
            (trust_domain.as_str() == "td").then_some(&self.0)
        }
    }

    fn signer() -> JwtSigner {
        JwtSigner::generate(NOW.plus(MINUTE * 60)).unwrap()
    }

    fn mint(signer: &JwtSigner, lifetime: Duration) -> Zeroizing<String> {
        signer.mint(&ID.parse().unwrap(), &["a".into(), "b".into()], NOW, lifetime).unwrap()
    }

    #[test]
    fn what_it_mints_is_a_jwt_svid_by_its_public_half_and_no_other() {
        let signer = signer();
        let token = mint(&signer, MINUTE);
        let keys = Keys(vec![self::signer().authority().clone(), signer.authority().clone()]);
        for audience in ["a", "b"] {
            let svid = JwtSvid::validate(&token, audience, &keys, NOW).unwrap();
            assert_eq!((svid.spiffe_id.as_str(), svid.expires), (ID, NOW.plus(MINUTE)));
            assert_eq!(svid.audiences, ["a", "b"]);
            let mut claims: Vec<_> = svid.claims.keys().map(String::as_str).collect();
            claims.sort_unstable();
            assert_eq!(claims, ["aud", "exp", "iat", "sub"]);
        }
        assert!(matches!(JwtSvid::validate(&token, "c", &keys, NOW), Err(JwtSvidError::Audience { .. })));
        assert_eq!(JwtSvid::validate(&token, "a", &keys, NOW.plus(MINUTE)), Err(JwtSvidError::Expired));
        let others = Keys(vec![self::signer().authority().clone()]);
        assert!(matches!(JwtSvid::validate(&token, "a", &others, NOW), Err(JwtSvidError::NoAuthority { .. })));
    }

    #[test]
    fn nothing_lives_longer_than_the_key() {
        let signer = signer();
        let svid = JwtSvid::unverified(&mint(&signer, MINUTE * 600)).unwrap();
        assert_eq!(svid.expires, signer.not_after());
        let late = signer.mint(&ID.parse().unwrap(), &["a".into()], signer.not_after(), MINUTE);
        assert_eq!(late.err(), Some(MintError::Ended(signer.not_after())));
    }

    #[test]
    fn a_key_read_again_is_the_same_key_and_shows_nothing_of_itself() {
        let signer = signer();
        let again = JwtSigner::from_pem(signer.to_pem().as_bytes(), signer.not_after()).unwrap();
        assert_eq!(again.authority(), signer.authority());
        assert_eq!(again.key_id(), signer.authority().key_id());
        assert!(!format!("{signer:?}").contains(signer.to_pem().lines().nth(1).unwrap()));
        assert!(matches!(JwtSigner::from_pem(b"x", NOW), Err(MintError::Key(_))));
    }
}
