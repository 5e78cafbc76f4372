use std::{sync::Arc, time::Duration};

use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use serde_json::Value;

use super::*;
use crate::{
    domain::{authority::testing::NOW, leadership::Term},
    service::signing_state::{
        LONGEST_JWT_TTL, Origin,
        testing::{HandClock, Memory, claim, state},
    },
};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// A backup of a state that was changed by `edit`.
fn backup(edit: impl Fn(&mut Value)) -> Backup {
    let (store, clock) = (Arc::new(Memory::default()), Arc::new(HandClock::default()));
    claim(&state(&store, Origin::SelfSigned, &clock), 1);
    for object in [StateObject::Authority, StateObject::Trust] {
        let mut json = store.json(object);
        edit(&mut json);
        store.set_text(object, &json.to_string());
    }
    Backup::of(store.as_ref(), Term::new(1)).unwrap()
}

/// The authority object after the first claim of what was imported.
fn claimed(imported: &ImportedState) -> Value {
    let (store, clock) = (Arc::new(Memory::default()), Arc::new(HandClock::default()));
    claim(&state(&store, Origin::SelfSigned, &clock), 1);
    store.set_text(StateObject::Authority, std::str::from_utf8(imported.authority()).unwrap());
    store.set_text(StateObject::Trust, std::str::from_utf8(&imported.trust().unwrap().unwrap()).unwrap());
    claim(&state(&store, Origin::SelfSigned, &clock), 2);
    store.json(StateObject::Authority)
}

#[test]
fn all_of_a_backup_is_published_anew_above_what_was_told_since() {
    let old = backup(|json| {
        if json.get("sequence").is_some() {
            json["sequence"] = 3.into();
        }
    });
    let mut imported = ImportedState::from_backup(&old, NOW).unwrap();
    let first = first_sequence(NOW);
    let published = |imported: &ImportedState| {
        let json: Value = serde_json::from_slice(imported.authority()).unwrap();
        let rotation = json["rotation"].clone();
        [rotation["active"]["published_in"].as_u64(), rotation["jwt"][0]["published_in"].as_u64()]
    };
    assert_eq!(published(&imported), [Some(first); 2]);
    let above = format!(r#"{{"format":1,"sequence":{},"bundle":"PEM"}}"#, first + 7);
    imported.supersede(above.as_bytes()).unwrap();
    assert_eq!(published(&imported), [Some(first + 8); 2]);
}

#[test]
fn a_sequence_of_a_time_to_come_is_told_of() {
    let with_sequence = |sequence: u64| {
        let backup = backup(|json| {
            if json.get("sequence").is_some() {
                json["sequence"] = sequence.into();
            }
        });
        ImportedState::from_backup(&backup, NOW).unwrap().sequence_ahead(NOW)
    };
    let now = first_sequence(NOW);
    let rows = [(3, false), (now, false), (now + 60, false), (now + 61, true), (u64::MAX, true)];
    for (sequence, is_told) in rows {
        assert_eq!(with_sequence(sequence), is_told.then_some(sequence));
    }
}

/// What was signed since the backup was saved is on nobody's record.
#[test]
fn whatever_was_signed_since_a_backup_was_saved_is_waited_for_once() {
    let imported = ImportedState::from_backup(&backup(|_| {}), NOW).unwrap();
    let rotation = claimed(&imported)["rotation"].clone();
    let marks = rotation["handed_out"].clone();
    let longest = NOW.plus(90 * DAY).seconds();
    let by_authority: Vec<_> = marks["by_authority"].as_object().unwrap().values().filter_map(Value::as_i64).collect();
    assert!(!by_authority.is_empty() && by_authority.iter().all(|end| *end >= longest), "{marks}");
    let first = first_sequence(NOW);
    let by_sequence = marks["by_sequence"].as_array().unwrap();
    assert!(
        by_sequence.iter().any(|mark| mark[0].as_u64() < Some(first) && mark[1].as_i64() >= Some(longest)),
        "{marks}"
    );
    assert!(rotation.get("restored").is_none(), "only the first claim marks that");
}

/// It may have been activated since, or again.
#[test]
fn a_key_of_jwt_svids_that_does_not_sign_may_have_done_so_since_a_backup_was_saved() {
    for phase in ["prepared", "old"] {
        let other = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap().serialize_pem();
        let backup = backup(|json| {
            if let Some(keys) = json["rotation"]["jwt"].as_array_mut() {
                let mut key = keys[0].clone();
                (key["key"], key["phase"]) = (other.as_str().into(), phase.into());
                keys.push(key);
            }
        });
        let keys = claimed(&ImportedState::from_backup(&backup, NOW).unwrap())["rotation"]["jwt"].clone();
        let key = keys.as_array().unwrap().iter().find(|key| key["phase"] == phase).expect(phase);
        assert!(key["last_end"].as_i64() >= Some(NOW.plus(LONGEST_JWT_TTL).seconds()), "{phase}");
    }
}

/// Else `revoke` would not wait for what was signed before, as istiod's certificates of 90 days.
#[test]
fn where_nothing_is_on_record_the_longest_life_counts() {
    let old =
        backup(|json| json.as_object_mut().unwrap().retain(|name, _| !["rotation", "jwt"].contains(&name.as_str())));
    let mut imported = ImportedState::from_backup(&old, NOW).unwrap();
    imported.supersede(br#"{"format":1,"sequence":9,"bundle":"PEM"}"#).unwrap();
    let json = claimed(&imported);
    let marks = json["rotation"]["handed_out"]["by_authority"].as_object().unwrap();
    let ends: Vec<_> = marks.values().filter_map(Value::as_i64).collect();
    assert!(!ends.is_empty() && ends.iter().all(|end| *end >= NOW.plus(90 * DAY).seconds()), "{marks:?}");
}
