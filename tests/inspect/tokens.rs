//! Tokens: what is shown of them, what they are verified by, and that none can be used by who reads the output.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use serde_json::{Value, json};

use crate::{authority, file, inspect, json, stderr, stdout};

const SUBJECT: &str = "spiffe://cluster.local/ns/default/sa/gateway";
/// Of the year 2100.
const FAR: i64 = 4_102_444_800;

/// A signer of JWT-SVIDs.
pub(crate) struct Signer {
    key: EcdsaKeyPair,
    random: SystemRandom,
}

impl Signer {
    #[expect(clippy::disallowed_methods, reason = "test keys")]
    pub(crate) fn new() -> Self {
        let random = SystemRandom::new();
        let key = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key.as_ref(), &random).unwrap();
        Self { key, random }
    }

    pub(crate) fn jwk(&self, id: &str) -> Value {
        let (x, y) = self.key.public_key().as_ref().get(1..).unwrap().split_at(32);
        json!({ "kty": "EC", "use": "jwt-svid", "kid": id, "crv": "P-256", "x": b64(x), "y": b64(y) })
    }

    fn sign(&self, header: &Value, claims: &Value) -> String {
        let message = format!("{}.{}", b64(header.to_string()), b64(claims.to_string()));
        let signature = self.key.sign(&self.random, message.as_bytes()).unwrap();
        format!("{message}.{}", b64(signature))
    }
}

fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn header() -> Value {
    json!({ "alg": "ES256", "kid": "one", "typ": "JWT" })
}

fn claims() -> Value {
    json!({ "sub": SUBJECT, "aud": ["billing", "audit"], "iat": FAR - 300, "exp": FAR, "tenant": { "id": 7 } })
}

fn with(mut object: Value, member: &str, value: Value) -> Value {
    object.as_object_mut().unwrap().insert(member.to_owned(), value);
    object
}

#[test]
fn a_token_is_shown_and_verified_by_a_bundle_document_without_its_signature() {
    let (dir, signer) = (tempfile::tempdir().unwrap(), Signer::new());
    let token = signer.sign(&header(), &claims());
    let path = file(dir.path(), "svid.token", format!("{token}\n"));
    let bundle = file(dir.path(), "bundle.json", json!({ "keys": [signer.jwk("one")] }).to_string());

    let output = inspect(&[&path, "--bundle", &bundle], b"");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let text = stdout(&output);
    for expected in [
        "spiffe://cluster.local/ns/default/sa/gateway (JWT-SVID)\n",
        "audiences   billing, audit\n",
        "2099-12-31T23:55:00Z to 2100-01-01T00:00:00Z\n",
        "algorithm   ES256\n",
        "key ID      one\n",
        "claim       tenant: {\"id\":7}\n",
        &format!("verifies to the bundle of {bundle}\n"),
    ] {
        assert!(text.contains(expected), "{expected} is not in\n{text}");
    }
    assert!(!text.contains("claim       exp") && !text.contains("claim       sub"), "{text}");

    let document = json(&inspect(&["-", "--bundle", &bundle, "-o", "json"], token.as_bytes()));
    let shown = &document["token"];
    assert_eq!(shown["verification"]["state"], "verified", "{document}");
    assert_eq!((&shown["spiffeId"], &shown["keyId"]), (&SUBJECT.into(), &"one".into()), "{document}");
    assert_eq!((&shown["validity"], &shown["secondsTotal"]), (&"valid".into(), &300.into()), "{document}");
    assert_eq!((&shown["header"], &shown["claims"]), (&header(), &claims()));
    assert_eq!((&document["chains"], &document["bundle"]), (&json!([]), &Value::Null));

    let (_message, signature) = token.rsplit_once('.').unwrap();
    for format in ["table", "json", "yaml", "pem"] {
        let output = inspect(&["-", "-o", format], token.as_bytes());
        assert_eq!(output.status.code(), Some(if format == "pem" { 1 } else { 0 }), "{output:?}");
        assert!(!stdout(&output).contains(signature) && !stderr(&output).contains(signature), "{output:?}");
    }
}

#[test]
fn a_token_that_is_not_sound_ends_with_two() {
    let (dir, signer) = (tempfile::tempdir().unwrap(), Signer::new());
    let jwks = |key| file(dir.path(), "bundle.json", json!({ "keys": [key] }).to_string());
    let own = jwks(signer.jwk("one"));
    let inspected = |header: &Value, claims: &Value, bundle: &str| {
        let token = signer.sign(header, claims);
        let output = inspect(&["-", "--bundle", bundle], token.as_bytes());
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        stdout(&output).to_owned()
    };
    for (member, value, expected) in [
        ("exp", json!(1_000_000_000), "░ expired "),
        ("nbf", json!(FAR - 1), "█ valid only in "),
        ("exp", Value::Null, "finding     jwt-svid-times: token missing exp claim"),
        ("exp", json!("soon"), "claim       exp: \"soon\""),
        ("aud", json!([]), "finding     jwt-svid-audience: token missing audience claim"),
        ("sub", json!("system:serviceaccount:default:gateway"), "system:serviceaccount:default:gateway (token)\n"),
    ] {
        let text = inspected(&header(), &with(claims(), member, value.clone()), &own);
        assert!(text.contains(expected), "{member} {value}: {expected} is not in\n{text}");
    }
    for (member, value, expected) in [
        ("kid", json!("two"), "no JWT authority \"two\" found for trust domain \"cluster.local\""),
        ("kid", Value::Null, "finding     jwt-svid-key-id: "),
        ("alg", json!("none"), "finding     jwt-svid-algorithm: "),
        ("jku", json!("https://a"), "finding     jwt-svid-header: "),
    ] {
        let text = inspected(&with(header(), member, value.clone()), &claims(), &own);
        assert!(text.contains(expected), "{member} {value}: {expected} is not in\n{text}");
    }

    let text = inspected(&header(), &claims(), &jwks(Signer::new().jwk("one")));
    assert!(
        text.contains("does not verify to the bundle of ") && text.contains("signature verification failed"),
        "{text}"
    );
    let text = inspected(&header(), &claims(), &file(dir.path(), "root.pem", &authority("a").pem));
    assert!(text.contains("it holds no key of JWT-SVIDs"), "{text}");
}

#[test]
fn a_token_that_can_not_be_read_or_stands_on_the_command_line_is_not_repeated() {
    let token = Signer::new().sign(&header(), &claims());
    let (message, signature) = token.rsplit_once('.').unwrap();
    for (arguments, stdin, complaint) in [
        ([token.as_str()].as_slice(), "", "can be seen by others"),
        (&["-", "--bundle", &token], &token, "can be seen by others"),
        (&["-"], message, "no token: not three parts"),
        (&["-"], &format!("{token}="), "no token: the signature is not base64url"),
        (&["-"], &format!("{token}{}", "A".repeat(16 * 1024)), "no token: over 16 KiB"),
    ] {
        let output = inspect(arguments, stdin.as_bytes());
        assert_eq!((output.status.code(), stdout(&output)), (Some(1), ""), "{output:?}");
        assert!(stderr(&output).contains(complaint), "{output:?}");
        assert!(!stderr(&output).contains(signature) && !stderr(&output).contains(message), "{output:?}");
    }
}

#[test]
fn claims_can_not_steer_the_terminal() {
    let token = Signer::new().sign(&header(), &with(claims(), "evil\u{1b}[2J", json!("\u{202e}x")));
    let output = inspect(&["-"], token.as_bytes());
    assert!(!stdout(&output).contains(['\x1b', '\u{202e}']), "{output:?}");
    assert!(stdout(&output).contains("evil"), "{output:?}");
}
