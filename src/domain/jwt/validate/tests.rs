use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::domain::jwt::{
    IssuerRules,
    testing::{Keys, b64},
};

const NOW: i64 = 1_800_000_000;
fn issuer_of(keys: &Keys) -> TokenIssuer {
    let rules = IssuerRules {
        issuer: "https://issuer".into(),
        audiences: vec!["istio-ca".into(), "second".into()],
        namespaces: Some(vec!["default".into()]),
    };
    TokenIssuer::new(rules, KeySet::from_json(keys.jwks().to_string().as_bytes()).unwrap())
}

/// Good claims with some members replaced; `null` takes one away.
fn claims(changes: Value) -> String {
    let mut claims = json!({
        "iss": "https://issuer", "aud": "istio-ca", "sub": "system:serviceaccount:default:gateway", "exp": NOW + 60,
    });
    for (name, value) in changes.as_object().unwrap() {
        claims[name] = value.clone();
    }
    claims.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    claims.to_string()
}

fn now() -> Timestamp {
    Timestamp::from_seconds(NOW)
}

#[test]
fn every_algorithm_is_accepted_with_the_key_of_its_kind_alone() {
    let keys = Keys::new();
    let issuer = issuer_of(&keys);
    let kids = [("ES256", "p256"), ("ES384", "p384"), ("EdDSA", "ed")];
    let rsa = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"].map(|alg| (alg, "rsa"));
    for (alg, own) in kids.into_iter().chain(rsa) {
        let claims = claims(json!({}));
        let unnamed = keys.sign(&json!({ "alg": alg }).to_string(), &claims);
        assert_eq!(issuer.validate(&unnamed, now()).unwrap().account.to_string(), "default/gateway", "{alg}");
        for kid in ["p256", "p384", "ed", "rsa"] {
            let token = keys.sign(&json!({ "alg": alg, "kid": kid, "typ": "JWT" }).to_string(), &claims);
            let expected = if kid == own { Ok(()) } else { Err(TokenError::Algorithm(alg.into())) };
            assert_eq!(issuer.validate(&token, now()).map(|_| ()), expected, "{alg} with {kid}");
        }
    }
}

#[test]
fn headers() {
    let keys = Keys::new();
    let issuer = issuer_of(&keys);
    let not_json = TokenError::Malformed("the header is not base64url of a JSON object");
    let crit = TokenError::Malformed("header parameter crit is not supported");
    let typ = TokenError::Malformed("header parameter typ is neither JWT nor JOSE");
    let algorithm = |name: &str| Err(TokenError::Algorithm(name.into()));
    for (header, expected) in [
        (r#"{"alg":"ES256","typ":"jose"}"#, Ok(())),
        (r#"{"alg":"ES256","jku":"https://evil","jwk":{},"x5u":"https://evil","x5c":[]}"#, Ok(())),
        (r#"{"alg":"ES256","kid":null}"#, Ok(())),
        (r#"{"alg":"none"}"#, algorithm("none")),
        (r#"{"alg":"NONE"}"#, algorithm("NONE")),
        (r#"{"alg":""}"#, algorithm("")),
        (r#"{"alg":"es256"}"#, algorithm("es256")),
        (r#"{"alg":"HS256"}"#, algorithm("HS256")),
        (r#"{"alg":"HS256","kid":"rsa"}"#, algorithm("HS256")),
        (r#"{"alg":"ES512"}"#, algorithm("ES512")),
        (r#"{"alg":"RS1-and-a-long-name-behind-it"}"#, algorithm("RS1-and-a-long-n")),
        (r#"{"alg":"ES256","kid":"other"}"#, Err(TokenError::UnknownKey)),
        (r#"{"alg":"ES256","kid":""}"#, Err(TokenError::UnknownKey)),
        (r#"{"alg":"ES256","crit":["exp"]}"#, Err(crit.clone())),
        (r#"{"alg":"ES256","crit":null}"#, Err(crit)),
        (r#"{"alg":"ES256","typ":"at+jwt"}"#, Err(typ.clone())),
        (r#"{"alg":"ES256","typ":""}"#, Err(typ)),
        (r#"{"alg":"ES256","kid":7}"#, Err(not_json.clone())),
        (r#"{"alg":["ES256"]}"#, Err(not_json.clone())),
        (r#"{"alg":"ES256","alg":"ES256"}"#, Err(not_json.clone())),
        (r#"{"alg":"ES256"} x"#, Err(not_json.clone())),
        (r#"["ES256"]"#, Err(not_json.clone())),
        ("{}", Err(not_json.clone())),
        ("", Err(not_json)),
    ] {
        let token = keys.sign(header, &claims(json!({})));
        assert_eq!(issuer.validate(&token, now()).map(|_| ()), expected, "{header}");
    }
}

#[test]
fn claims_table() {
    let keys = Keys::new();
    let issuer = issuer_of(&keys);
    let not_json = TokenError::Malformed("the claims are not base64url of a JSON object");
    let other_issuer = TokenError::Issuer("https://issuer".into());
    for (changes, expected) in [
        (json!({ "aud": ["x", "second"] }), Ok(())),
        (json!({ "exp": NOW as f64 + 0.5 }), Ok(())),
        (json!({ "exp": u64::MAX }), Ok(())),
        (json!({ "exp": 1e300 }), Ok(())),
        (json!({ "nbf": NOW + 60, "iat": NOW + 60 }), Ok(())),
        (json!({ "nbf": -1e300, "iat": -1 }), Ok(())),
        (json!({ "kubernetes.io": { "pod": { "name": "gateway-0" } } }), Ok(())),
        (json!({ "iss": null }), Err(other_issuer.clone())),
        (json!({ "iss": "https://issuer/" }), Err(other_issuer.clone())),
        (json!({ "iss": "HTTPS://issuer" }), Err(other_issuer)),
        (json!({ "iss": ["https://issuer"] }), Err(not_json.clone())),
        (json!({ "aud": null }), Err(TokenError::Audience)),
        (json!({ "aud": [] }), Err(TokenError::Audience)),
        (json!({ "aud": "ISTIO-CA" }), Err(TokenError::Audience)),
        (json!({ "aud": ["istio", "ca"] }), Err(TokenError::Audience)),
        (json!({ "aud": [["istio-ca"]] }), Err(not_json.clone())),
        (json!({ "aud": { "istio-ca": true } }), Err(not_json.clone())),
        (json!({ "exp": null }), Err(TokenError::NoExpiry)),
        (json!({ "exp": NOW }), Err(TokenError::Expired)),
        (json!({ "exp": NOW - 1 }), Err(TokenError::Expired)),
        (json!({ "exp": 0 }), Err(TokenError::Expired)),
        (json!({ "exp": -1 }), Err(TokenError::Expired)),
        (json!({ "exp": i64::MIN }), Err(TokenError::Expired)),
        (json!({ "exp": "1900000000" }), Err(not_json.clone())),
        (json!({ "exp": true }), Err(not_json.clone())),
        (json!({ "nbf": NOW + 61 }), Err(TokenError::NotYetValid)),
        (json!({ "iat": NOW + 61 }), Err(TokenError::NotYetValid)),
        (json!({ "iat": u64::MAX }), Err(TokenError::NotYetValid)),
        (json!({ "sub": null }), Err(TokenError::Subject)),
        (json!({ "sub": "" }), Err(TokenError::Subject)),
        (json!({ "sub": "spiffe://cluster.local/ns/default/sa/gateway" }), Err(TokenError::Subject)),
        (json!({ "sub": "system:serviceaccount:default" }), Err(TokenError::Subject)),
        (json!({ "sub": "system:serviceaccount:default:gateway:x" }), Err(TokenError::Subject)),
        (json!({ "sub": "system:serviceaccount::gateway" }), Err(TokenError::Subject)),
        (json!({ "sub": "system:serviceaccount:default:" }), Err(TokenError::Subject)),
        (json!({ "sub": "system:serviceaccount:default:a/b" }), Err(TokenError::Subject)),
        (json!({ "sub": " system:serviceaccount:default:gateway" }), Err(TokenError::Subject)),
        (json!({ "sub": "System:serviceaccount:default:gateway" }), Err(TokenError::Subject)),
        (json!({ "sub": "system:node:default:gateway" }), Err(TokenError::Subject)),
        (json!({ "sub": "system:serviceaccount:kube-system:a" }), Err(TokenError::Namespace("kube-system".into()))),
    ] {
        let token = keys.sign(r#"{"alg":"ES256"}"#, &claims(changes.clone()));
        assert_eq!(issuer.validate(&token, now()).map(|_| ()), expected, "{changes}");
    }
}

#[test]
fn the_claims_are_read_strictly() {
    let keys = Keys::new();
    let good = claims(json!({}));
    for text in [
        "{} x".to_owned(),
        "[]".into(),
        "null".into(),
        "\u{feff}{}".into(),
        good.replace("\"aud\"", "\"sub\":\"system:serviceaccount:default:admin\",\"aud\""),
        good.replace(&format!("{}", NOW + 60), "1e999"),
    ] {
        let token = keys.sign(r#"{"alg":"ES256"}"#, &text);
        let expected = TokenError::Malformed("the claims are not base64url of a JSON object");
        assert_eq!(issuer_of(&keys).validate(&token, now()), Err(expected), "{text}");
    }
}

#[test]
fn the_issuer_is_found_before_anything_is_verified() {
    let issuer = issuer_of(&Keys::new());
    let token = |claims: &str| format!("x.{}.x", b64(claims));
    for (token, expected) in [
        (token(r#"{"iss":"https://issuer","aud":7}"#), true),
        (token(r#"{"iss":"https://issuer/"}"#), false),
        (token(r#"{"iss":"https://other","iss":"https://issuer"}"#), false),
        (token(r#"{"iss":7}"#), false),
        (token("{}"), false),
        (token(r#"{"iss":"https://issuer"}"#) + &"x".repeat(16 * 1024), false),
        ("x".into(), false),
        (String::new(), false),
    ] {
        assert_eq!(issuer.is_issuer_of(&token), expected, "{token:.60}");
    }
}

#[test]
fn forms() {
    let keys = Keys::new();
    let issuer = issuer_of(&keys);
    let good = keys.sign(r#"{"alg":"ES256"}"#, &claims(json!({})));
    let (message, signature) = good.rsplit_once('.').unwrap();
    let p384 = b64(keys.signature("ES384", message.as_bytes()));
    let (oversized, deep) = (format!("{good}{}", "A".repeat(16 * 1024)), format!("{good}.{signature}"));
    for (token, expected) in [
        ("", TokenError::Malformed("not three parts")),
        ("..", TokenError::Malformed("the header is not base64url of a JSON object")),
        (message, TokenError::Malformed("not three parts")),
        (&deep, TokenError::Malformed("not three parts")),
        (&oversized, TokenError::Malformed("over 16 KiB")),
        (&format!("{good}="), TokenError::Malformed("the signature is not base64url")),
        (&format!("{good} "), TokenError::Malformed("the signature is not base64url")),
        (&format!(" {good}"), TokenError::Malformed("the header is not base64url of a JSON object")),
        (&format!("{message}."), TokenError::Signature),
        (&format!("{message}.{p384}"), TokenError::Signature),
        (&format!("{message}.{}", b64([0; 64])), TokenError::Signature),
        (&good[..good.len() - 2], TokenError::Signature),
    ] {
        assert_eq!(issuer.validate(token, now()), Err(expected), "{token:.80}");
    }
    assert!(issuer.validate(&good, now()).is_ok());
}

#[test]
fn a_key_is_used_only_for_the_algorithm_that_it_names() {
    let keys = Keys::new();
    let mut jwks = keys.jwks();
    jwks["keys"][3]["alg"] = json!("RS384");
    let issuer =
        TokenIssuer::new(issuer_of(&keys).rules().clone(), KeySet::from_json(jwks.to_string().as_bytes()).unwrap());
    let sign = |alg| keys.sign(&json!({ "alg": alg, "kid": "rsa" }).to_string(), &claims(json!({})));
    assert!(issuer.validate(&sign("RS384"), now()).is_ok());
    assert_eq!(issuer.validate(&sign("RS256"), now()), Err(TokenError::Algorithm("RS256".into())));
    assert_eq!(issuer.validate(&sign("PS384"), now()), Err(TokenError::Algorithm("PS384".into())));
}

#[test]
fn one_of_several_keys_without_kid_may_have_signed() {
    let (first, second) = (Keys::new(), Keys::new());
    let mut jwks = first.jwks();
    jwks["keys"].as_array_mut().unwrap().extend(second.jwks()["keys"].as_array().unwrap().clone());
    let issuer =
        TokenIssuer::new(issuer_of(&first).rules().clone(), KeySet::from_json(jwks.to_string().as_bytes()).unwrap());
    for keys in [first, second] {
        for header in [r#"{"alg":"ES256"}"#, r#"{"alg":"ES256","kid":"p256"}"#] {
            assert!(issuer.validate(&keys.sign(header, &claims(json!({}))), now()).is_ok());
        }
    }
}

#[test]
fn no_error_shows_the_token() {
    let keys = Keys::new();
    let token = keys.sign(r#"{"alg":"ES256"}"#, &claims(json!({ "exp": 1 })));
    let error = issuer_of(&keys).validate(&token, now()).unwrap_err();
    for part in token.split('.') {
        assert!(!format!("{error} {error:?}").contains(part));
    }
}

proptest! {
    /// Whatever byte of whatever part is changed to whatever other byte, the token proves nothing any more.
    #[test]
    fn any_changed_byte_is_refused(at in any::<prop::sample::Index>(), byte in 0x20u8..0x7f, alg in 0..4usize) {
        let keys = Keys::new();
        let alg = ["ES256", "ES384", "EdDSA", "RS256"][alg];
        let mut token = keys.sign(&json!({ "alg": alg }).to_string(), &claims(json!({}))).into_bytes();
        let at = at.index(token.len());
        prop_assume!(token[at] != byte);
        token[at] = byte;
        prop_assert!(issuer_of(&keys).validate(std::str::from_utf8(&token).unwrap(), now()).is_err());
    }

    #[test]
    fn any_text_is_refused_without_a_panic(token in ".{0,200}", header in ".{0,60}", claims in ".{0,60}") {
        let keys = Keys::new();
        prop_assert!(issuer_of(&keys).validate(&token, now()).is_err());
        prop_assert!(issuer_of(&keys).validate(&keys.sign(&header, &claims), now()).is_err());
    }
}
