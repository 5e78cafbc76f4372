//! What a token says of itself, before anybody has verified it: good for refusing what the API server would refuse too,
//! never for believing anything.

use serde::Deserialize;

use super::{
    TokenError,
    validate::{Audiences, LEEWAY, MAX_TOKEN_BYTES, NumericDate, decode, decode_json, service_account},
};
use crate::domain::{clock::Timestamp, identity::ServiceAccount};

/// The claims of a token that is worth a review, unverified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnverifiedToken {
    /// Who it says has made it, and with which key (`iss`, and `kid` if there is one).
    pub origin: TokenOrigin,
    /// Its `exp`.
    pub expires: Timestamp,
}

/// Issuer and key that a token names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenOrigin {
    /// `iss`.
    pub issuer: String,
    /// `kid`, empty if the header has none.
    pub key: String,
}

impl UnverifiedToken {
    /// Looks at a token without verifying it: three parts, at most 16 KiB, an `aud` that names one of `audiences`, an `exp`
    /// that has not passed by more than the minute that clocks may differ, the `sub` of a service account. A token without
    /// an end is refused also if an API server would still take it.
    ///
    /// # Errors
    ///
    /// The first of these that does not hold.
    pub fn read(token: &str, audiences: &[String], now: Timestamp) -> Result<Self, TokenError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(TokenError::Malformed("over 16 KiB"));
        }
        let mut parts = token.split('.');
        let (Some(header), Some(claims), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(TokenError::Malformed("not three parts"));
        };
        if decode(signature).is_none_or(|signature| signature.is_empty()) {
            return Err(TokenError::Malformed("the signature is not base64url"));
        }
        let header: Header = decode_json(header, "the header is not base64url of a JSON object")?;
        let claims: Claims = decode_json(claims, "the claims are not base64url of a JSON object")?;
        if !claims.aud.is_some_and(|audience| audience.names_one_of(audiences)) {
            return Err(TokenError::Audience);
        }
        let expires = claims.exp.ok_or(TokenError::NoExpiry)?.0;
        if expires.plus(LEEWAY) <= now {
            return Err(TokenError::Expired);
        }
        if claims.sub.as_deref().and_then(service_account).is_none() {
            return Err(TokenError::Subject);
        }
        let origin = TokenOrigin { issuer: claims.iss.unwrap_or_default(), key: header.kid.unwrap_or_default() };
        Ok(Self { origin, expires })
    }
}

/// The service account that a token says it speaks for, if it says that.
pub fn unverified_subject(token: &str) -> Option<ServiceAccount> {
    let claims = token.split('.').nth(1).filter(|_| token.len() <= MAX_TOKEN_BYTES)?;
    let claims: Claims = decode_json(claims, "").ok()?;
    claims.sub.as_deref().and_then(service_account)
}

#[derive(Deserialize)]
struct Header {
    kid: Option<String>,
}

#[derive(Deserialize)]
struct Claims {
    iss: Option<String>,
    aud: Option<Audiences>,
    exp: Option<NumericDate>,
    sub: Option<String>,
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    const NOW: i64 = 1_800_000_000;

    /// A right token, with some claims replaced; `null` takes one away.
    fn token(changes: Value) -> String {
        let mut claims = json!({
            "iss": "https://kubernetes.default.svc",
            "sub": "system:serviceaccount:default:gateway",
            "aud": ["istio-ca"],
            "exp": NOW + 600,
        });
        let members = claims.as_object_mut().unwrap();
        members.extend(changes.as_object().unwrap().clone());
        members.retain(|_, value| !value.is_null());
        let encode = |text: &str| URL_SAFE_NO_PAD.encode(text);
        format!("{}.{}.{}", encode(r#"{"alg":"RS256","kid":"k1"}"#), encode(&claims.to_string()), encode("signature"))
    }

    fn read(token: &str) -> Result<UnverifiedToken, TokenError> {
        let audiences = ["other".to_owned(), "istio-ca".to_owned()];
        UnverifiedToken::read(token, &audiences, Timestamp::from_seconds(NOW))
    }

    #[test]
    fn says_what_stands_there() {
        let expected = UnverifiedToken {
            origin: TokenOrigin { issuer: "https://kubernetes.default.svc".into(), key: "k1".into() },
            expires: Timestamp::from_seconds(NOW + 600),
        };
        assert_eq!(read(&token(json!({}))), Ok(expected));
        assert!(read(&token(json!({ "aud": "istio-ca", "iss": null }))).is_ok());
        assert!(read(&token(json!({ "aud": ["x", "other"] }))).is_ok());
    }

    #[test]
    fn the_subject_is_read_whatever_else_is_wrong() {
        let account = |changes| unverified_subject(&token(changes)).map(|account| account.to_string());
        assert_eq!(account(json!({ "exp": 0, "aud": null })).as_deref(), Some("default/gateway"));
        assert_eq!(account(json!({ "sub": "admin" })), None);
        assert_eq!(unverified_subject("no token"), None);
    }

    #[test]
    fn refuses_what_no_review_could_accept() {
        for (changes, expected) in [
            (json!({ "aud": null }), TokenError::Audience),
            (json!({ "aud": ["istio"] }), TokenError::Audience),
            (json!({ "aud": [] }), TokenError::Audience),
            (json!({ "exp": null }), TokenError::NoExpiry),
            (json!({ "exp": NOW - 60 }), TokenError::Expired),
            (json!({ "sub": null }), TokenError::Subject),
            (json!({ "sub": "admin" }), TokenError::Subject),
            (json!({ "sub": "system:serviceaccount:default" }), TokenError::Subject),
            (json!({ "sub": "system:serviceaccount:default:gateway:x" }), TokenError::Subject),
            (json!({ "sub": "system:node:default:gateway" }), TokenError::Subject),
        ] {
            assert_eq!(read(&token(changes.clone())), Err(expected), "{changes}");
        }
    }

    #[test]
    fn a_clock_that_is_a_little_ahead_refuses_nothing() {
        assert!(read(&token(json!({ "exp": NOW - 59 }))).is_ok());
    }

    #[test]
    fn refuses_what_is_no_token() {
        let good = token(json!({}));
        let (message, _) = good.rsplit_once('.').unwrap();
        let large = format!("{good}{}", "A".repeat(MAX_TOKEN_BYTES));
        let bad = [
            "",
            "x",
            "a.b.c",
            "..",
            message,
            &format!("{message}."),
            &format!("{message}.*"),
            &format!("{good}.x"),
            &large,
            &good.to_uppercase(),
            "eyJhbGciOiJSUzI1NiJ9.W10.c2ln",
        ];
        for text in bad {
            assert!(matches!(read(text), Err(TokenError::Malformed(_))), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_token_that_was_cut_is_refused(at in 0usize..200) {
            let good = token(json!({}));
            prop_assume!(at < good.rfind('.').unwrap());
            prop_assert!(read(&good[..at]).is_err());
        }

        #[test]
        fn no_text_makes_it_panic(text in ".{0,80}") {
            prop_assert!(read(&text).is_err());
        }

        #[test]
        fn what_is_read_has_not_expired(exp in NOW - 1000..NOW + 1000) {
            if let Ok(read) = read(&token(json!({ "exp": exp }))) {
                prop_assert!(read.expires.plus(Duration::from_secs(60)) > Timestamp::from_seconds(NOW));
            }
        }
    }
}
