use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, SanType};

use super::*;
use crate::domain::{
    jwt::testing::{Keys, p521_jwk},
    x509::testing::{ed25519_key, p384_key, rsa_key},
};

/// A root with any kind of key, which names this or nothing as its own.
fn root(pkcs8: Option<&[u8]>, name: Option<&str>, is_ca: bool) -> Certificate {
    let key = pkcs8.map_or_else(|| KeyPair::generate().unwrap(), |der| KeyPair::try_from(der).unwrap());
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::OrganizationName, "root");
    params.subject_alt_names = name.map(|name| SanType::URI(name.try_into().unwrap())).into_iter().collect();
    params.is_ca = if is_ca { IsCa::Ca(BasicConstraints::Unconstrained) } else { IsCa::NoCa };
    Certificate::from_der(params.self_signed(&key).unwrap().der()).unwrap()
}

fn x509(certificate: &Certificate) -> Value {
    json!({ "kty": "EC", "use": "x509-svid", "x5c": [STANDARD.encode(certificate.der())] })
}

fn jwt(kid: &str) -> Value {
    let mut key = Keys::new().jwks()["keys"][0].clone();
    key["use"] = "jwt-svid".into();
    key["kid"] = kid.into();
    key
}

fn p521() -> Value {
    with(p521_jwk("a"), "use", json!("jwt-svid"))
}

fn with(mut key: Value, member: &str, value: Value) -> Value {
    key[member] = value;
    key
}

fn without(mut key: Value, member: &str) -> Value {
    key.as_object_mut().unwrap().remove(member);
    key
}

fn read(document: &str) -> Result<SpiffeBundle, SpiffeBundleError> {
    SpiffeBundle::from_json("td".parse().unwrap(), document.as_bytes())
}

/// What a document comes to: how many authorities of each kind, or the error.
type Read = Result<(usize, usize), SpiffeBundleError>;

#[expect(clippy::too_many_lines, reason = "a table")]
#[test]
fn documents_are_read_as_the_standard_says() {
    let ca = root(None, Some("spiffe://td"), true);
    let bad = |error: CertificateError| Err(SpiffeBundleError::Certificate { position: 0, error });
    let not_base64 = || bad(CertificateError::Der("x5c is not base64".into()));
    let other = |found: &str| {
        let found = found.to_owned();
        Err(SpiffeBundleError::OtherTrustDomain { position: 0, found, expected: "td".into() })
    };
    let url_safe = ["-", "_"].concat();
    let rows: Vec<(&str, Vec<Value>, Read)> = vec![
        ("nothing is trusted any more", vec![], Ok((0, 0))),
        ("one root", vec![x509(&ca)], Ok((1, 0))),
        ("the same root twice", vec![x509(&ca), x509(&ca)], Ok((1, 0))),
        ("two roots", vec![x509(&ca), x509(&root(None, None, true))], Ok((2, 0))),
        ("one key", vec![jwt("a")], Ok((0, 1))),
        ("both kinds", vec![jwt("a"), x509(&ca), jwt("b")], Ok((1, 2))),
        ("a root with an identifier", vec![with(x509(&ca), "kid", json!("a"))], Ok((1, 0))),
        ("an identifier of both kinds", vec![with(x509(&ca), "kid", json!("a")), jwt("a")], Ok((1, 1))),
        (
            "more than one certificate",
            vec![json!({ "kty": "EC", "use": "x509-svid",
            "x5c": [STANDARD.encode(ca.der()), "nothing"] })],
            Ok((1, 0)),
        ),
        ("a root without a certificate", vec![without(x509(&ca), "x5c")], Ok((0, 0))),
        ("a root with an empty list", vec![with(x509(&ca), "x5c", json!([]))], Ok((0, 0))),
        ("a root with something else there", vec![with(x509(&ca), "x5c", json!("x"))], Ok((0, 0))),
        ("an unknown use", vec![with(x509(&ca), "use", json!("x509-svid-2")), jwt("a")], Ok((0, 1))),
        ("a use of another form", vec![with(x509(&ca), "use", json!(["x509-svid"]))], Ok((0, 0))),
        ("another case of use", vec![with(x509(&ca), "use", json!("X509-SVID"))], Ok((0, 0))),
        ("no use", vec![without(x509(&ca), "use")], Ok((0, 0))),
        ("a key of workload identity tokens", vec![with(jwt("a"), "use", json!("wit-svid"))], Ok((0, 0))),
        ("a key of an unknown kind", vec![with(jwt("a"), "kty", json!("PQ"))], Ok((0, 0))),
        ("a key of an unknown curve", vec![with(jwt("a"), "crv", json!("secp256k1"))], Ok((0, 0))),
        ("a key of P-521", vec![p521()], Ok((0, 1))),
        ("one for its algorithm", vec![with(p521(), "alg", json!("ES512"))], Ok((0, 1))),
        ("one for another algorithm", vec![with(p521(), "alg", json!("ES256"))], Ok((0, 0))),
        ("one that only signs", vec![with(p521(), "key_ops", json!(["sign"]))], Ok((0, 0))),
        ("one with a point of another curve", vec![with(jwt("a"), "crv", json!("P-521"))], Ok((0, 0))),
        ("one without half of its point", vec![without(p521(), "y")], Ok((0, 0))),
        ("one of another kind", vec![with(p521(), "kty", json!("OKP"))], Ok((0, 0))),
        ("one by the name of another key", vec![jwt("a"), p521()], Err(SpiffeBundleError::KeyIdTwice(1))),
        (
            "a key for Ed25519",
            vec![json!({ "kty": "OKP", "use": "jwt-svid", "kid": "a", "crv": "Ed25519",
            "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo" })],
            Ok((0, 0)),
        ),
        ("a shared secret", vec![json!({ "kty": "oct", "use": "jwt-svid", "kid": "a", "k": "AAAA" })], Ok((0, 0))),
        ("a root of an unknown kind", vec![with(x509(&ca), "kty", json!("PQ"))], Ok((1, 0))),
        ("no base64", vec![with(x509(&ca), "x5c", json!(["%"]))], not_base64()),
        ("base64 of addresses", vec![with(x509(&ca), "x5c", json!([url_safe]))], not_base64()),
        ("a number for a certificate", vec![with(x509(&ca), "x5c", json!([1]))], not_base64()),
        ("a leaf", vec![x509(&root(None, Some("spiffe://td/a"), false))], Err(SpiffeBundleError::NotCa(0))),
        ("a root of another trust domain", vec![x509(&root(None, Some("spiffe://other"), true))], other("other")),
        (
            "one of a domain with the same beginning",
            vec![x509(&root(None, Some("spiffe://td.x/a"), true))],
            other("td.x"),
        ),
        (
            "a root with a name that is none of SPIFFE's",
            vec![x509(&root(None, Some("https://other"), true))],
            Ok((1, 0)),
        ),
        ("a root that names its domain in capitals", vec![x509(&root(None, Some("spiffe://TD"), true))], Ok((1, 0))),
        ("a key without an identifier", vec![without(jwt("a"), "kid")], Err(SpiffeBundleError::NoKeyId(0))),
        ("a key with an empty identifier", vec![jwt("")], Err(SpiffeBundleError::NoKeyId(0))),
        ("a key with a number", vec![with(jwt("a"), "kid", json!(1))], Err(SpiffeBundleError::NoKeyId(0))),
        ("two keys by one identifier", vec![jwt("a"), jwt("a")], Err(SpiffeBundleError::KeyIdTwice(1))),
    ];
    assert!(rows.len() >= 30);
    for (what, keys, expected) in rows {
        let found = read(&json!({ "keys": keys }).to_string());
        let counted = found.map(|bundle| (bundle.x509_authorities.len(), bundle.jwt_authorities.len()));
        assert_eq!(counted, expected, "{what}");
    }
    let broken = read(&json!({ "keys": [with(x509(&ca), "x5c", json!(["AAAA"]))] }).to_string());
    assert!(matches!(broken, Err(SpiffeBundleError::Certificate { position: 0, .. })), "{broken:?}");
}

#[test]
fn the_rest_of_a_document_has_its_form() {
    for (document, expected) in [
        (r#"{"keys":[]}"#, Some((None, None))),
        (r#"{"keys":[],"spiffe_sequence":7,"spiffe_refresh_hint":300}"#, Some((Some(7), Some(300)))),
        (r#"{"keys":[],"spiffe_sequence":18446744073709551615}"#, Some((Some(u64::MAX), None))),
        (r#"{"keys":[],"spiffe_sequence":null,"spiffe_refresh_hint":0}"#, Some((None, Some(0)))),
        (r#"{"keys":[],"another":{"a":[1]}}"#, Some((None, None))),
        (r#"{"keys":[],"keys":[]}"#, None),
        (r#"{"keys":[],"spiffe_sequence":-1}"#, None),
        (r#"{"keys":[],"spiffe_sequence":"7"}"#, None),
        (r#"{"keys":[],"spiffe_sequence":1.5}"#, None),
        (r#"{"keys":[],"spiffe_sequence":18446744073709551616}"#, None),
        (r#"{"keys":[],"spiffe_refresh_hint":-1}"#, None),
        (r#"{"keys":[],"spiffe_refresh_hint":[]}"#, None),
        (r#"{"keys":{}}"#, None),
        (r#"{"keys":[7]}"#, None),
        (r#"{"keys":null}"#, None),
        ("{}", None),
        ("[]", None),
        ("", None),
        (r#"{"keys":[]} x"#, None),
        ("<html>", None),
    ] {
        let found = read(document);
        let seen = found.as_ref().ok().map(|bundle| (bundle.sequence, bundle.refresh_hint.map(|hint| hint.as_secs())));
        assert_eq!(seen, expected, "{document}: {found:?}");
        assert!(expected.is_some() || matches!(found, Err(SpiffeBundleError::Json(_))), "{document}: {found:?}");
    }
    let long = format!(r#"{{"keys":[],"more":"{}"}}"#, "x".repeat(MAX_BYTES));
    assert_eq!(read(&long), Err(SpiffeBundleError::TooLarge));
}

#[test]
fn a_document_says_whose_it_is_by_its_cas_alone() {
    let named = |keys: Vec<Value>| {
        SpiffeBundle::trust_domain_named_in(json!({ "keys": keys }).to_string().as_bytes()).map(|name| name.to_string())
    };
    let ca = |name| x509(&root(None, name, true));
    for (keys, expected) in [
        (vec![ca(Some("spiffe://td"))], Some("td")),
        (vec![ca(Some("spiffe://TD/a"))], Some("td")),
        (vec![jwt("a"), ca(None), ca(Some("https://a")), ca(Some("spiffe://td"))], Some("td")),
        (vec![with(ca(None), "x5c", json!(["%"])), ca(Some("spiffe://td"))], Some("td")),
        (vec![ca(Some("spiffe:///a"))], None),
        (vec![ca(None), jwt("a")], None),
        (vec![], None),
    ] {
        assert_eq!(named(keys).as_deref(), expected);
    }
    assert_eq!(SpiffeBundle::trust_domain_named_in(b"{}"), None);
}

#[test]
fn what_is_written_is_read_as_the_same_by_the_strictest_reader_s_rules() {
    let keys = [None, Some(rsa_key()), Some(p384_key()), Some(ed25519_key())];
    let roots: Vec<Certificate> = keys.iter().map(|key| root(key.as_deref().map(Vec::as_slice), None, true)).collect();
    let keys = Keys::new().jwks();
    let jwt = [&keys["keys"][0], &without(keys["keys"][3].clone(), "use"), &p521_jwk("p521")]
        .map(|key| JwtAuthority::from_jwk(key.as_object().unwrap()));
    let bundle = SpiffeBundle {
        trust_domain: "td".parse().unwrap(),
        x509_authorities: roots,
        jwt_authorities: jwt.into_iter().map(Result::unwrap).collect(),
        sequence: Some(u64::MAX),
        refresh_hint: Some(Duration::from_secs(300)),
    };
    let written = bundle.to_json();
    assert_eq!(read(&written), Ok(bundle));
    let document: Value = serde_json::from_str(&written).unwrap();
    assert_eq!(document["spiffe_refresh_hint"], 300);
    let kinds: Vec<_> = document["keys"].as_array().unwrap().iter().map(|key| (&key["use"], &key["kty"])).collect();
    assert_eq!(
        json!(kinds),
        json!([
            ["x509-svid", "EC"],
            ["x509-svid", "RSA"],
            ["x509-svid", "EC"],
            ["x509-svid", "OKP"],
            ["jwt-svid", "EC"],
            ["jwt-svid", "RSA"],
            ["jwt-svid", "EC"],
        ])
    );
    for key in document["keys"].as_array().unwrap() {
        let is_x509 = key["use"] == "x509-svid";
        assert_eq!(
            (key["kid"].is_null(), key["x5c"].as_array().is_some_and(|chain| chain.len() == 1)),
            (is_x509, is_x509)
        );
        let material = if key["kty"] == "RSA" { &key["n"] } else { &key["x"] };
        assert!(material.as_str().is_some_and(|text| !text.is_empty() && !text.contains('=')), "{key}");
    }
}
