//! SPIFFE bundle documents, as what is looked at and as what is verified to.

use base64::{Engine, engine::general_purpose::STANDARD};
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, KeyUsagePurpose, SanType, date_time_ymd};
use serde_json::{Value, json};

use crate::{authority, file, inspect, json, stderr, stdout, tokens::Signer};

fn x509(der: &[u8]) -> Value {
    json!({ "kty": "EC", "use": "x509-svid", "x5c": [STANDARD.encode(der)] })
}

/// A root that names its trust domain.
fn root_of(trust_domain: &str, until: i32) -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.subject_alt_names = vec![SanType::URI(format!("spiffe://{trust_domain}").try_into().unwrap())];
    (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(until, 1, 1));
    params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
}

#[test]
fn a_document_says_whose_it_is_how_old_and_what_is_in_it() {
    let keys = [x509(&root_of("td.example", 2120)), x509(&authority("two").der), Signer::new().jwk("one"), json!({})];
    let document = json!({ "keys": keys, "spiffe_sequence": 7, "spiffe_refresh_hint": 300 }).to_string();

    let output = inspect(&["-"], document.as_bytes());
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let text = stdout(&output);
    for expected in [
        "SPIFFE bundle of td.example\n",
        "sequence    7\n",
        "fetch every 5 minutes\n",
        "JWT key     one (ECDSA P-256)\n",
        "O=two (authority)\n",
    ] {
        assert!(text.contains(expected), "{expected} is not in\n{text}");
    }
    assert_eq!(text.matches("(authority)").count(), 2, "{text}");
    assert!(stderr(&output).contains("stdin: skipped 1 of 4 keys"), "{output:?}");

    let shown = json(&inspect(&["-", "-o", "json"], document.as_bytes()));
    let bundle = json!({
        "trustDomain": "td.example", "sequence": 7, "refreshHint": 300,
        "jwtAuthorities": [{ "keyId": "one", "key": "ECDSA P-256" }],
    });
    assert_eq!(shown["bundle"], bundle);
    assert_eq!(shown["chains"][1]["certificates"][0]["validity"], "valid", "{shown}");
    let pem = inspect(&["-", "-o", "pem"], document.as_bytes());
    assert_eq!(stdout(&pem).matches("BEGIN CERTIFICATE").count(), 2);

    let plain = inspect(&["-"], br#"{"keys":[]}"#);
    assert_eq!(plain.status.code(), Some(0), "{plain:?}");
    assert!(stdout(&plain).contains("SPIFFE bundle of no named trust domain\n"), "{plain:?}");
}

#[test]
fn a_document_with_an_expired_root_ends_with_two_and_a_wrong_one_with_one() {
    let document = json!({ "keys": [x509(&root_of("td", 2021))] }).to_string();
    assert_eq!(inspect(&["-"], document.as_bytes()).status.code(), Some(2));
    for (document, complaint) in [
        (json!({}), "not a SPIFFE bundle: missing field `keys`"),
        (json!({ "keys": [x509(b"x")] }), "keys[0]: "),
        (
            json!({ "keys": [x509(&root_of("a", 2120)), x509(&root_of("b", 2120))] }),
            "keys[1]: the CA is of trust domain",
        ),
    ] {
        let output = inspect(&["-"], document.to_string().as_bytes());
        assert_eq!((output.status.code(), stdout(&output)), (Some(1), ""), "{output:?}");
        assert!(stderr(&output).contains(complaint), "{output:?}");
    }
}

#[test]
fn chains_verify_to_a_document_of_their_own_trust_domain() {
    let (dir, root) = (tempfile::tempdir().unwrap(), authority("cluster.local"));
    let leaf = root.leaf(2120);
    let bundle = |keys: Value| file(dir.path(), "bundle.json", json!({ "keys": keys }).to_string());
    for (keys, code, expected) in [
        (json!([x509(&root.der)]), 0, "verifies to the bundle of "),
        (json!([x509(&root.der), x509(&root_of("cluster.local", 2120))]), 0, "verifies to the bundle of "),
        (json!([x509(&authority("other").der)]), 2, "does not verify to the bundle of "),
        (
            json!([x509(&root.der), x509(&root_of("other", 2120))]),
            2,
            "no bundle found for trust domain \"cluster.local\"",
        ),
    ] {
        let output = inspect(&["-", "--bundle", &bundle(keys)], leaf.pem.as_bytes());
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        assert!(stdout(&output).contains(expected), "{output:?}");
    }
}
