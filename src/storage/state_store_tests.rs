use super::*;

fn root_of(content: &[u8]) -> Option<String> {
    Some(String::from_utf8_lossy(content).into_owned())
}

fn open(data_dir: &DataDir) -> Result<EmbeddedStateStore, StateError> {
    let lock = ActiveLock::try_take(data_dir).unwrap().unwrap();
    EmbeddedStateStore::open(data_dir.clone(), lock, root_of)
}

fn fresh() -> (tempfile::TempDir, DataDir) {
    let base = tempfile::tempdir().unwrap();
    let data_dir = DataDir::open(&base.path().join("data")).unwrap();
    (base, data_dir)
}

#[test]
fn keeps_what_was_written_with_version_and_term() {
    let (_base, data_dir) = fresh();
    let store = open(&data_dir).unwrap();
    assert!(store.load(StateObject::Trust).unwrap().is_none());
    store.claim(Term::new(2)).unwrap();
    assert_eq!(store.compare_and_swap(StateObject::Trust, 0, Term::new(2), b"one"), Ok(1));
    assert_eq!(store.compare_and_swap(StateObject::Trust, 1, Term::new(2), b"two"), Ok(2));
    store.close().unwrap();
    let store = open(&data_dir).unwrap();
    let found = store.load(StateObject::Trust).unwrap().unwrap();
    assert_eq!((found.version, found.term, found.content.as_slice()), (2, Term::new(2), &b"two"[..]));
    assert!(store.load(StateObject::Authority).unwrap().is_none());
    assert_eq!(store.highest_term(), Ok(Term::new(2)));
}

#[test]
fn refuses_other_versions_and_lower_terms() {
    let (_base, data_dir) = fresh();
    let store = open(&data_dir).unwrap();
    let object = StateObject::Authority;
    store.claim(Term::new(5)).unwrap();
    for term in [Term::new(4), Term::new(5)] {
        assert_eq!(store.claim(term), Err(StateError::Fenced { own: term, found: Term::new(5) }));
    }
    let (own, found) = (Term::new(4), Term::new(5));
    assert_eq!(store.compare_and_swap(object, 0, own, b"x"), Err(StateError::Fenced { own, found }));
    store.compare_and_swap(object, 0, found, b"x").unwrap();
    let conflict = StateError::Conflict { object, expected: 0, found: 1 };
    assert_eq!(store.compare_and_swap(object, 0, found, b"y"), Err(conflict));
    assert_eq!(store.load(object).unwrap().unwrap().content.as_slice(), b"x");
    let long = vec![0; MAX_VALUE_BYTES + 1];
    assert!(matches!(store.compare_and_swap(object, 1, found, &long), Err(StateError::Io(_))));
    assert_eq!(store.compare_and_swap(object, 1, found, &long[1..]), Ok(2));
}

#[test]
fn lets_go_of_the_lock_when_closed() {
    let (_base, data_dir) = fresh();
    let store = open(&data_dir).unwrap();
    assert!(ActiveLock::try_take(&data_dir).unwrap().is_none());
    store.close().unwrap();
    assert!(matches!(store.load(StateObject::Trust), Err(StateError::Io(_))));
    assert!(ActiveLock::try_take(&data_dir).unwrap().is_some());
}

#[test]
fn a_manifest_of_another_root_or_a_later_version_or_format_is_damage() {
    let (_base, data_dir) = fresh();
    let store = open(&data_dir).unwrap();
    store.compare_and_swap(StateObject::Authority, 0, Term::new(1), b"root-a").unwrap();
    store.close().unwrap();
    let manifest = std::fs::read_to_string(data_dir.manifest()).unwrap();
    for (from, to, text) in [
        ("root-a", "root-b", "the state is of root-a, the manifest names root-b"),
        (r#""version":1"#, r#""version":2"#, "is behind the manifest: version 1 of term 1, not 2 of term 1"),
        (r#""format":1"#, r#""format":2"#, "written by a newer version"),
        ("{", "", "the manifest can't be used"),
    ] {
        std::fs::write(data_dir.manifest(), manifest.replacen(from, to, 1)).unwrap();
        let Err(StateError::Damaged(found)) = open(&data_dir) else { panic!("{to} was not noticed") };
        assert!(found.contains(text) && found.ends_with(&data_dir.advice()), "{found}");
    }
}

#[test]
fn a_first_start_that_broke_off_is_a_first_start() {
    let (_base, data_dir) = fresh();
    std::fs::create_dir(data_dir.state().with_extension("new")).unwrap();
    open(&data_dir).unwrap().close().unwrap();
    std::fs::remove_file(data_dir.manifest()).unwrap();
    let store = open(&data_dir).unwrap();
    assert_eq!(store.highest_term(), Ok(Term::NONE));
}
