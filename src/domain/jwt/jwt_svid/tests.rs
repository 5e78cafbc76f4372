use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::domain::jwt::{
    testing::{Keys, b64, p521_jwk},
    validate::MAX_TOKEN_BYTES,
};

const NOW: i64 = 1_800_000_000;
const OWN: &str = "spiffe://own.example/ns/default/sa/gateway";

/// Keys of `own.example` (all that are of use) and of `foreign.example` (another P-256 key, of the same identifier).
struct Known {
    own: Vec<JwtAuthority>,
    foreign: Vec<JwtAuthority>,
}

impl JwtAuthorities for Known {
    fn of(&self, trust_domain: &TrustDomain) -> Option<&[JwtAuthority]> {
        match trust_domain.as_str() {
            "own.example" => Some(&self.own),
            "foreign.example" => Some(&self.foreign),
            _ => None,
        }
    }
}

fn authorities(keys: &Keys) -> Vec<JwtAuthority> {
    let jwks = keys.jwks();
    let jwks = jwks["keys"].as_array().unwrap().iter().cloned().chain([p521_jwk("p521")]);
    jwks.map(|key| key.as_object().unwrap().clone())
        .map(|mut key| {
            key.insert("use".into(), JwtAuthority::USE.into());
            JwtAuthority::from_jwk(&key)
        })
        .filter_map(Result::ok)
        .collect()
}

/// Good claims with some members replaced; `null` takes one away.
fn claims(changes: Value) -> Value {
    let mut claims = json!({ "sub": OWN, "aud": ["me"], "exp": NOW + 60, "iat": NOW });
    for (name, value) in changes.as_object().unwrap() {
        claims[name] = value.clone();
    }
    claims.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    claims
}

fn validate(token: &str, known: &Known) -> Result<JwtSvid, JwtSvidError> {
    JwtSvid::validate(token, "me", known, Timestamp::from_seconds(NOW))
}

#[expect(clippy::too_many_lines, reason = "a table")]
#[test]
fn a_token_is_believed_or_refused_as_the_standard_says() {
    let (keys, other) = (Keys::new(), Keys::new());
    let known = Known { own: authorities(&keys), foreign: authorities(&other) };
    assert_eq!(known.own.len(), 4, "P-256, P-384, RSA, and P-521 for others");
    let good = json!({ "alg": "ES256", "kid": "p256" });
    let malformed = |what| Err(JwtSvidError::Malformed(what));
    let parameter = |name: &str| Err(JwtSvidError::HeaderParameter(name.into()));
    let algorithm = |name: &str| Err(JwtSvidError::Algorithm(name.into()));
    let subject = |error: &str| Err(JwtSvidError::Subject(error.into()));
    let audience = |found: &[&str]| {
        let found = found.iter().map(|&name| name.to_owned()).collect();
        Err(JwtSvidError::Audience { expected: vec!["me".into()], found })
    };
    let no_authority = |key_id: &str, domain: &str| {
        Err(JwtSvidError::NoAuthority { key_id: key_id.into(), trust_domain: domain.into() })
    };
    let text_of_header = "a header parameter is no text";
    let rows: Vec<(Value, Value, Result<(), JwtSvidError>)> = vec![
        // algorithms
        (good.clone(), json!({}), Ok(())),
        (json!({ "alg": "ES384", "kid": "p384" }), json!({}), Ok(())),
        (json!({ "alg": "RS256", "kid": "rsa" }), json!({}), Ok(())),
        (json!({ "alg": "RS384", "kid": "rsa" }), json!({}), Ok(())),
        (json!({ "alg": "RS512", "kid": "rsa" }), json!({}), Ok(())),
        (json!({ "alg": "PS256", "kid": "rsa" }), json!({}), Ok(())),
        (json!({ "alg": "PS384", "kid": "rsa" }), json!({}), Ok(())),
        (json!({ "alg": "PS512", "kid": "rsa" }), json!({}), Ok(())),
        (json!({ "alg": "EdDSA", "kid": "ed" }), json!({}), algorithm("EdDSA")),
        (json!({ "alg": "none", "kid": "p256" }), json!({}), algorithm("none")),
        (json!({ "alg": "HS256", "kid": "p256" }), json!({}), algorithm("HS256")),
        (json!({ "alg": "ES512", "kid": "p256" }), json!({}), algorithm("ES512")),
        (json!({ "alg": "ES512", "kid": "p521" }), json!({}), algorithm("ES512")),
        (json!({ "alg": "ES256", "kid": "p521" }), json!({}), Err(JwtSvidError::Signature)),
        (json!({ "alg": "es256", "kid": "p256" }), json!({}), algorithm("es256")),
        (json!({ "alg": "", "kid": "p256" }), json!({}), algorithm("")),
        (json!({ "kid": "p256" }), json!({}), algorithm("")),
        (json!({ "alg": 1, "kid": "p256" }), json!({}), malformed(text_of_header)),
        (json!({ "alg": "RS256", "kid": "p256" }), json!({}), Err(JwtSvidError::Signature)),
        (json!({ "alg": "ES384", "kid": "p256" }), json!({}), Err(JwtSvidError::Signature)),
        (json!({ "alg": "ES256", "kid": "p384" }), json!({}), Err(JwtSvidError::Signature)),
        // header
        (json!({ "alg": "ES256", "kid": "p256", "typ": "JWT" }), json!({}), Ok(())),
        (json!({ "alg": "ES256", "kid": "p256", "typ": "JOSE" }), json!({}), Ok(())),
        (json!({ "alg": "ES256", "kid": "p256", "typ": "jwt" }), json!({}), Err(JwtSvidError::Type)),
        (json!({ "alg": "ES256", "kid": "p256", "typ": "wit+jwt" }), json!({}), Err(JwtSvidError::Type)),
        (json!({ "alg": "ES256", "kid": "p256", "typ": "" }), json!({}), Err(JwtSvidError::Type)),
        (json!({ "alg": "ES256", "kid": "p256", "typ": 7 }), json!({}), malformed(text_of_header)),
        (json!({ "alg": "ES256", "kid": "p256", "cty": "JWT" }), json!({}), parameter("cty")),
        (json!({ "alg": "ES256", "kid": "p256", "jku": "https://own.example" }), json!({}), parameter("jku")),
        (json!({ "alg": "ES256", "kid": "p256", "jwk": {} }), json!({}), parameter("jwk")),
        (json!({ "alg": "ES256", "kid": "p256", "x5c": [] }), json!({}), parameter("x5c")),
        (json!({ "alg": "ES256", "kid": "p256", "crit": ["exp"] }), json!({}), parameter("crit")),
        (json!({ "alg": "ES256", "kid": "p256", "x": null }), json!({}), parameter("x")),
        (json!({ "alg": "ES256" }), json!({}), Err(JwtSvidError::NoKeyId)),
        (json!({ "alg": "ES256", "kid": "" }), json!({}), Err(JwtSvidError::NoKeyId)),
        (json!({ "alg": "ES256", "kid": null }), json!({}), Err(JwtSvidError::NoKeyId)),
        (json!({ "alg": "ES256", "kid": "P256" }), json!({}), no_authority("P256", "own.example")),
        (json!({ "alg": "ES256", "kid": "ed" }), json!({}), no_authority("ed", "own.example")),
        (json!({ "alg": "ES256", "kid": "x".repeat(70) }), json!({}), no_authority(&"x".repeat(64), "own.example")),
        // audiences
        (good.clone(), json!({ "aud": "me" }), Ok(())),
        (good.clone(), json!({ "aud": ["other", "me"] }), Ok(())),
        (good.clone(), json!({ "aud": null }), Err(JwtSvidError::NoAudience)),
        (good.clone(), json!({ "aud": [] }), Err(JwtSvidError::NoAudience)),
        (good.clone(), json!({ "aud": "" }), audience(&[""])),
        (good.clone(), json!({ "aud": ["other", "third"] }), audience(&["other", "third"])),
        (good.clone(), json!({ "aud": "Me" }), audience(&["Me"])),
        (good.clone(), json!({ "aud": 1 }), Err(JwtSvidError::Claim("aud"))),
        (good.clone(), json!({ "aud": ["me", 1] }), Err(JwtSvidError::Claim("aud"))),
        // times, at the second
        (good.clone(), json!({ "exp": NOW + 1 }), Ok(())),
        (good.clone(), json!({ "exp": NOW }), Err(JwtSvidError::Expired)),
        (good.clone(), json!({ "exp": NOW - 1 }), Err(JwtSvidError::Expired)),
        (good.clone(), json!({ "exp": NOW as f64 + 0.5 }), Ok(())),
        (good.clone(), json!({ "exp": 1e300 }), Ok(())),
        (good.clone(), json!({ "exp": -1 }), Err(JwtSvidError::Expired)),
        (good.clone(), json!({ "exp": null }), Err(JwtSvidError::NoExpiry)),
        (good.clone(), json!({ "exp": "soon" }), Err(JwtSvidError::Claim("exp"))),
        (good.clone(), json!({ "nbf": NOW + 60 }), Ok(())),
        (good.clone(), json!({ "nbf": NOW + 61 }), Err(JwtSvidError::NotYetValid)),
        (good.clone(), json!({ "nbf": [] }), Err(JwtSvidError::Claim("nbf"))),
        (good.clone(), json!({ "iat": "never", "jti": 7, "nested": { "a": [1] } }), Ok(())),
        // subjects
        (good.clone(), json!({ "sub": null }), Err(JwtSvidError::NoSubject)),
        (good.clone(), json!({ "sub": "" }), Err(JwtSvidError::NoSubject)),
        (good.clone(), json!({ "sub": 1 }), Err(JwtSvidError::Claim("sub"))),
        (good.clone(), json!({ "sub": "spiffe://own.example" }), subject("the SPIFFE ID of a workload has a path")),
        (good.clone(), json!({ "sub": "https://own.example/a" }), subject("a SPIFFE ID begins with spiffe://")),
        (
            good.clone(),
            json!({ "sub": "spiffe://own.example/a%20" }),
            subject("a path holds only letters, digits, '.', '-' and '_' between its slashes, not '%'"),
        ),
        (
            good.clone(),
            json!({ "sub": "spiffe://third.example/a" }),
            Err(JwtSvidError::NoBundle("third.example".into())),
        ),
        // the same identifier there is another key
        (good.clone(), json!({ "sub": "spiffe://foreign.example/a" }), Err(JwtSvidError::Signature)),
    ];
    assert!(rows.len() >= 60);
    for (header, changes, expected) in rows {
        let token = keys.sign(&header.to_string(), &claims(changes.clone()).to_string());
        assert_eq!(validate(&token, &known).map(|_| ()), expected, "{header} {changes}");
    }
    let foreign = other.sign(&good.to_string(), &claims(json!({ "sub": "spiffe://foreign.example/a" })).to_string());
    assert_eq!(validate(&foreign, &known).unwrap().spiffe_id.as_str(), "spiffe://foreign.example/a");
    let ours_by_theirs = other.sign(&good.to_string(), &claims(json!({})).to_string());
    assert_eq!(
        validate(&ours_by_theirs, &known),
        Err(JwtSvidError::Signature),
        "keys of one domain vouch for that alone"
    );
}

#[test]
fn what_has_not_the_form_is_refused() {
    let keys = Keys::new();
    let known = Known { own: authorities(&keys), foreign: Vec::new() };
    let header = r#"{"alg":"ES256","kid":"p256"}"#;
    let good = keys.sign(header, &claims(json!({})).to_string());
    let parts: Vec<&str> = good.split('.').collect();
    let not_three = "not three parts";
    let not_header = "the header is not base64url of a JSON object";
    let not_claims = "the claims are not base64url of a JSON object";
    let twice = r#"{"sub":"spiffe://own.example/a","sub":"spiffe://own.example/b","aud":"me","exp":1900000000}"#;
    for (token, complaint) in [
        (String::new(), not_three),
        ("a.b".into(), not_three),
        (format!("{good}.x"), not_three),
        ("x".repeat(MAX_TOKEN_BYTES + 1), "over 16 KiB"),
        (format!("{}=.{}.{}", parts[0], parts[1], parts[2]), not_header),
        (format!("{}.{}.{}", b64("[]"), parts[1], parts[2]), not_header),
        (keys.sign(r#"{"alg":"ES256","alg":"ES256","kid":"p256"}"#, "{}"), not_header),
        (format!("{}.{}.{}", parts[0], b64("7"), parts[2]), not_claims),
        (keys.sign(header, twice), not_claims),
        (keys.sign(header, "{} "), "token missing subject claim"),
        (format!("{}.{}.!", parts[0], parts[1]), "the signature is not base64url"),
    ] {
        let error = validate(&token, &known).unwrap_err().to_string();
        assert!(error.ends_with(complaint), "{token}: {error}");
    }
}

#[test]
fn a_signature_is_verified_whatever_time_and_audience_are() {
    let (keys, other) = (Keys::new(), Keys::new());
    let known = Known { own: authorities(&keys), foreign: authorities(&other) };
    let header = r#"{"alg":"ES256","kid":"p256"}"#;
    let verify = |signer: &Keys, changes: Value| {
        let token = CompactJws::read(&signer.sign(header, &claims(changes).to_string())).unwrap();
        assert!(!format!("{token:?}").contains("signature"), "{token:?}");
        JwtSvid::verify_signature(&token, &known).map(|svid| svid.key_id)
    };
    for changes in [json!({}), json!({ "exp": 1 }), json!({ "nbf": NOW * 2 }), json!({ "aud": "another" })] {
        assert_eq!(verify(&keys, changes.clone()).as_deref(), Ok("p256"), "{changes}");
        assert_eq!(verify(&other, changes.clone()), Err(JwtSvidError::Signature), "{changes}");
    }
    assert_eq!(verify(&keys, json!({ "exp": null })), Err(JwtSvidError::NoExpiry));
    let third = verify(&keys, json!({ "sub": "spiffe://third.example/a" }));
    assert_eq!(third, Err(JwtSvidError::NoBundle("third.example".into())));
}

#[test]
fn the_claims_are_given_back_and_audiences_always_as_a_list() {
    let keys = Keys::new();
    let known = Known { own: authorities(&keys), foreign: Vec::new() };
    let token =
        keys.sign(r#"{"alg":"ES256","kid":"p256"}"#, &claims(json!({ "aud": "me", "more": { "a": 1 } })).to_string());
    let svid = validate(&token, &known).unwrap();
    assert_eq!(svid.spiffe_id.as_str(), OWN);
    assert_eq!(svid.expires, Timestamp::from_seconds(NOW + 60));
    assert_eq!(svid.claims["aud"], json!(["me"]));
    assert_eq!(svid.claims["more"], json!({ "a": 1 }));
    assert_eq!(JwtSvid::unverified(&token).unwrap(), svid);
}

proptest! {
    #[test]
    fn one_changed_octet_makes_a_token_worthless(index in any::<prop::sample::Index>(), to in "[A-Za-z0-9_.-]") {
        let keys = Keys::new();
        let known = Known { own: authorities(&keys), foreign: Vec::new() };
        let good = keys.sign(r#"{"alg":"ES256","kid":"p256"}"#, &claims(json!({})).to_string());
        let at = index.index(good.len());
        let mut changed = good.clone();
        changed.replace_range(at..=at, &to);
        prop_assume!(changed != good);
        prop_assert!(validate(&changed, &known).is_err());
    }
}
