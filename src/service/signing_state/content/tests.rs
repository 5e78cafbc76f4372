use super::*;

const OLD: &str = r#"{"format":1,"sequence":1,"bundle":"PEM"}"#;

#[test]
fn content_without_the_field_denies_nobody_and_stays_as_it_was() {
    let trust = TrustContent::decode(OLD.as_bytes()).unwrap();
    assert!(trust.denied().unwrap().is_empty());
    assert_eq!(encoded(&trust).unwrap().as_slice(), OLD.as_bytes());
}

#[test]
fn denials_come_back_as_they_were_put_in() {
    let denial =
        Denial { reason: r#"a "node" lost"#.parse().unwrap(), since: Timestamp::from_seconds(5), actor_uid: 1000 };
    let denied = Denied::from_iter([
        (DeniedSubject::Identity("spiffe://td/ns/a/sa/b".parse().unwrap()), denial.clone()),
        (DeniedSubject::Serial("0ab1".parse().unwrap()), denial),
    ]);
    let mut trust = TrustContent::decode(OLD.as_bytes()).unwrap();
    trust.set_denied(&denied).unwrap();
    let bytes = encoded(&trust).unwrap();
    assert_eq!(TrustContent::decode(&bytes).unwrap().denied().unwrap(), denied);
    trust.set_denied(&Denied::default()).unwrap();
    assert_eq!(encoded(&trust).unwrap().as_slice(), OLD.as_bytes());
}

/// Each object as a later version might write it, with something new at every level.
#[test]
fn what_a_later_version_added_is_still_there_after_a_rewrite() {
    let keep = |id: &str| format!(r#"{{"reason":"x","since":1,"by":0,"ticket":"{id}"}}"#);
    let text = format!(
        r#"{{"format":1,"sequence":7,"bundle":"PEM","federated":{{"td":[1]}},"denied":{{"patterns":["*"],
           "identities":{{"spiffe://td/ns/a/sa/b":{}}},"serials":{{"01":{},"02":{}}}}}}}"#,
        keep("A"),
        keep("B"),
        keep("C")
    );
    let mut trust = TrustContent::decode(text.as_bytes()).unwrap();
    let mut denied = trust.denied().unwrap();
    denied.allow(&DeniedSubject::Serial("02".parse().unwrap()));
    let again = Denial { reason: "y".parse().unwrap(), since: Timestamp::from_seconds(1), actor_uid: 0 };
    denied.deny(DeniedSubject::Serial("01".parse().unwrap()), again.clone());
    denied.deny(DeniedSubject::Serial("03".parse().unwrap()), again);
    trust.set_denied(&denied).unwrap();
    let written: Value = serde_json::from_slice(&encoded(&trust).unwrap()).unwrap();
    let mut expected: Value = serde_json::from_str(&text).unwrap();
    let other = serde_json::json!({"reason": "y", "since": 1, "by": 0});
    expected["denied"]["serials"] = serde_json::json!({"01": other, "03": other});
    assert_eq!(written, expected);

    for text in [
        r#"{"format":1,"trust_domain":"td","certificate":"C","key":"K","chain":[],"pair":{"certificate":"P","key":"Q"},"next":[{"a":"b"}]}"#,
        r#"{"format":2,"trust_domain":"td","seal":"x"}"#,
    ] {
        let written = match StoredAuthority::decode(text.as_bytes()).unwrap() {
            StoredAuthority::Own(own) => encoded(&own),
            StoredAuthority::PluggedIn(plugged_in) => encoded(&plugged_in),
        };
        let expected: Value = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::from_slice::<Value>(&written.unwrap()).unwrap(), expected);
    }
}

#[test]
fn an_entry_that_can_not_be_read_is_an_error_that_names_it() {
    for (denied, named) in [
        (r#"{"identities":{"gateway":{"reason":"x","since":1,"by":0}}}"#, "gateway"),
        (r#"{"serials":{"xyz":{"reason":"x","since":1,"by":0}}}"#, "xyz"),
        (r#"{"serials":{"01":{"reason":"","since":1,"by":0}}}"#, "01"),
    ] {
        let text = format!(r#"{{"format":1,"sequence":1,"bundle":"PEM","denied":{denied}}}"#);
        let Err(StateError::Unusable(error)) = TrustContent::decode(text.as_bytes()).unwrap().denied() else {
            panic!("{text} was read")
        };
        assert!(error.contains(named), "{error}");
    }
}
