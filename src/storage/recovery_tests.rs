use super::*;
use crate::service::ports::{StateObject, StateStore};

fn root_of(content: &[u8]) -> Option<String> {
    Some(String::from_utf8_lossy(content).into_owned())
}

fn open(data_dir: &DataDir) -> Result<EmbeddedStateStore, StateError> {
    let lock = ActiveLock::try_take(data_dir).unwrap().unwrap();
    EmbeddedStateStore::open(data_dir.clone(), lock, root_of)
}

fn with_root() -> (tempfile::TempDir, DataDir) {
    let base = tempfile::tempdir().unwrap();
    let data_dir = DataDir::open(&base.path().join("data")).unwrap();
    let store = open(&data_dir).unwrap();
    store.compare_and_swap(StateObject::Authority, 0, Term::new(7), b"root-a").unwrap();
    store.close().unwrap();
    fs::write(data_dir.root_cert(), "root-a").unwrap();
    (base, data_dir)
}

#[test]
fn a_sound_directory_is_left_as_it_is() {
    let (_base, data_dir) = with_root();
    let findings = Recovery::begin(data_dir.clone(), root_of).unwrap().examine();
    assert_eq!(findings.state, Condition::Sound("root root-a".into()));
    assert!(findings.is_sound());
    assert!(open(&data_dir).unwrap().load(StateObject::Authority).unwrap().is_some());
}

#[test]
fn nothing_is_touched_while_a_replica_lives() {
    let (_base, data_dir) = with_root();
    let slot = SlotLock::try_take(&data_dir, Slot::new(1)).unwrap();
    assert!(matches!(Recovery::begin(data_dir.clone(), root_of), Err(RecoveryError::Running(_))));
    drop(slot);
    let lock = ActiveLock::try_take(&data_dir).unwrap();
    assert!(matches!(Recovery::begin(data_dir.clone(), root_of), Err(RecoveryError::Running(_))));
    drop(lock);
    assert!(Recovery::begin(data_dir, root_of).is_ok());
}

#[test]
fn makes_way_for_a_new_root_whose_terms_go_on() {
    let (_base, data_dir) = with_root();
    fs::remove_dir_all(data_dir.state()).unwrap();
    let findings = Recovery::begin(data_dir.clone(), root_of).unwrap().examine();
    assert!(matches!(findings.state, Condition::Damaged(_)));
    let now = Timestamp::from_seconds(1_795_000_000);
    let quarantine = Recovery::begin(data_dir.clone(), root_of).unwrap().make_way_for_new_root(now).unwrap();
    assert_eq!(quarantine.path, data_dir.path().join("quarantine-1795000000"));
    assert_eq!(quarantine.moved, [data_dir.manifest(), data_dir.root_cert()]);
    let store = open(&data_dir).unwrap();
    assert!(store.load(StateObject::Authority).unwrap().is_none());
    assert_eq!(store.highest_term(), Ok(Term::new(7)));
}

#[test]
fn a_damaged_log_alone_is_put_aside_and_the_root_stays() {
    let (_base, data_dir) = with_root();
    let now = Timestamp::from_seconds(1_795_000_000);
    for slot in [Slot::new(0), Slot::new(1)] {
        fs::create_dir(data_dir.issuance_of(slot)).unwrap();
    }
    let begin = || Recovery::begin(data_dir.clone(), root_of).unwrap();
    assert_eq!(begin().set_logs_aside(now).unwrap(), None);
    fs::write(data_dir.issuance_of(Slot::new(0)).join("head"), "junk").unwrap();
    let findings = begin().examine();
    assert!(matches!(findings.state, Condition::Sound(_)), "{findings:?}");
    let Condition::Damaged(found) = &findings.logs[0].1 else { panic!("{findings:?}") };
    assert!(found.contains("--set-logs-aside"), "{found}");

    let quarantine = begin().set_logs_aside(now).unwrap().unwrap();
    assert_eq!(quarantine.moved, [data_dir.issuance_of(Slot::new(0))]);
    assert_eq!(fs::read(quarantine.path.join("replica-0/head")).unwrap(), b"junk");
    assert!(data_dir.issuance_of(Slot::new(1)).is_dir());
    let findings = begin().examine();
    assert!(findings.is_sound(), "{findings:?}");
    assert_eq!(findings.state, Condition::Sound("root root-a".into()));
}

#[test]
fn a_quarantine_shows_that_there_was_a_root() {
    let (_base, data_dir) = with_root();
    fs::write(data_dir.path().join("quarantine-1"), "").unwrap();
    assert!(open(&data_dir).unwrap().load(StateObject::Authority).unwrap().is_some());
    fs::remove_dir_all(data_dir.state()).unwrap();
    for file in [data_dir.manifest(), data_dir.root_cert()] {
        fs::remove_file(file).unwrap();
    }
    assert!(matches!(open(&data_dir), Err(StateError::Damaged(found)) if found.contains("quarantine")));
}
