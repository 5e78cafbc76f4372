//! What is written, of which nobody need remember more than its number, and what must be found of it again.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
};

use countersign::{
    domain::{
        attestation::Proof,
        clock::{BootInstant, Clock, Timestamp},
        issuance::{Issuance, IssuanceEvent},
        leadership::Term,
        random::{RandomUnavailable, SecureRandom},
    },
    service::ports::{StateError, StateObject, StateStore},
    storage::{
        active_lock::ActiveLock,
        data_dir::DataDir,
        issuance_log::EmbeddedIssuanceLog,
        log_reader::{LogReadError, LoggedEvent},
        replica_slot::SlotLock,
        retention::Retention,
        slot::Slot,
        state_store::EmbeddedStateStore,
    },
};

pub(crate) const OBJECTS: [(&str, StateObject); 2] =
    [("authority", StateObject::Authority), ("trust", StateObject::Trust)];

pub(crate) struct Still;

impl Clock for Still {
    fn now(&self) -> Timestamp {
        Timestamp::from_seconds(1_795_000_000)
    }

    fn boot(&self) -> BootInstant {
        BootInstant::from_nanos(0)
    }
}

pub(crate) struct NotRandom;

impl SecureRandom for NotRandom {
    fn fill(&self, bytes: &mut [u8]) -> Result<(), RandomUnavailable> {
        bytes.fill(7);
        Ok(())
    }
}

/// The one content that a version of an object can have here.
pub(crate) fn content(object: &str, version: u64) -> Vec<u8> {
    let size = usize::try_from(version * 997 % 6000).unwrap();
    let mut content = format!("r-{object}\n{version}\n").into_bytes();
    content.extend((0..size).map(|at| u8::try_from((at + usize::try_from(version).unwrap()) % 251).unwrap()));
    content
}

pub(crate) fn root_of(content: &[u8]) -> Option<String> {
    Some(String::from_utf8_lossy(content).lines().next()?.to_owned())
}

/// The one event that a serial can have here.
pub(crate) fn event(serial: &str) -> IssuanceEvent {
    IssuanceEvent::Issued(Issuance {
        signed_at: Timestamp::from_seconds(1_795_000_000),
        term: Term::new(1),
        replica: format!("replica of {serial}"),
        authority: "a1".into(),
        id: format!("spiffe://cluster.local/ns/{serial}/sa/gateway").parse().unwrap(),
        serial: serial.to_owned(),
        not_before: Timestamp::from_seconds(1_795_000_000),
        not_after: Timestamp::from_seconds(1_795_003_600),
        proof: Proof::Token { issuer: format!("https://{serial}") },
    })
}

pub(crate) fn serial_of(record: &LoggedEvent) -> String {
    match &record.event {
        IssuanceEvent::Issued(issuance) => issuance.serial.clone(),
        IssuanceEvent::Withheld { .. } => panic!("never written here: {record:?}"),
    }
}

pub(crate) fn open_state(path: &Path) -> Result<EmbeddedStateStore, StateError> {
    let data_dir = DataDir::open(path).unwrap();
    let lock = ActiveLock::try_take(&data_dir).unwrap().expect("nobody else holds the directory");
    EmbeddedStateStore::open(data_dir, lock, root_of)
}

pub(crate) fn open_log(path: &Path) -> Result<(EmbeddedIssuanceLog, SlotLock), LogReadError> {
    let data_dir = DataDir::open(path).unwrap();
    let lock = SlotLock::try_take(&data_dir, Slot::new(0)).unwrap().expect("nobody else holds the slot");
    Ok((EmbeddedIssuanceLog::open(&data_dir, &lock, Retention::default(), Arc::new(Still))?, lock))
}

/// What a child was told to be durable, or a test knows to be.
#[derive(Clone, Default)]
pub(crate) struct Acknowledged {
    pub(crate) versions: BTreeMap<String, u64>,
    pub(crate) term: u64,
    pub(crate) serials: BTreeSet<String>,
    /// Since the log was last read.
    pub(crate) new_serials: BTreeSet<String>,
}

impl Acknowledged {
    pub(crate) fn note(&mut self, line: &str) {
        match line.split(' ').collect::<Vec<_>>()[..] {
            ["state", object, version] => drop(self.versions.insert(object.to_owned(), version.parse().unwrap())),
            ["term", term] => self.term = term.parse().unwrap(),
            ["log", serial] => drop(self.new_serials.insert(serial.to_owned())),
            _ => {}
        }
    }
}

/// Everything acknowledged is there, at most one step more, and nothing reads differently from what was written.
pub(crate) fn check_state(store: &EmbeddedStateStore, known: &mut Acknowledged) {
    let term = store.highest_term().unwrap().number();
    assert!(term == known.term || term == known.term + 1, "term {term}, {} was acknowledged", known.term);
    known.term = term;
    for (name, object) in OBJECTS {
        let acknowledged = known.versions.get(name).copied().unwrap_or(0);
        let found = store.load(object).unwrap();
        let version = found.as_ref().map_or(0, |found| found.version);
        assert!(version == acknowledged || version == acknowledged + 1, "{name}: {version}, not {acknowledged}");
        if let Some(found) = found {
            assert_eq!(found.content.as_slice(), content(name, version), "{name} {version}");
            known.versions.insert(name.to_owned(), version);
        }
    }
}

/// Opens what a child left and checks it: the log from record `from` on, where everything acknowledged since the last
/// time must stand. Returns the number of the record that comes next.
pub(crate) fn reopen(path: &Path, known: &mut Acknowledged, from: u64) -> u64 {
    let store = open_state(path).unwrap();
    check_state(&store, known);
    store.close().unwrap();
    let (log, _slot) = open_log(path).unwrap();
    let records = read_log(&log, from).unwrap();
    check_records(&records, from, &known.new_serials);
    log.close();
    known.serials.append(&mut known.new_serials);
    from + u64::try_from(records.len()).unwrap()
}

pub(crate) fn read_log(log: &EmbeddedIssuanceLog, from: u64) -> Result<Vec<LoggedEvent>, LogReadError> {
    let reader = log.reader().unwrap();
    let mut records: Vec<LoggedEvent> = Vec::new();
    loop {
        let chunk = reader.read(records.last().map_or(from, |last| last.sequence + 1), 100)?;
        if chunk.is_empty() {
            return Ok(records);
        }
        records.extend(chunk);
    }
}

pub(crate) fn check_records(records: &[LoggedEvent], from: u64, acknowledged: &BTreeSet<String>) {
    let mut serials = BTreeSet::new();
    for (record, sequence) in records.iter().zip(from..) {
        let serial = serial_of(record);
        assert_eq!((record.sequence, &record.event), (sequence, &event(&serial)));
        assert!(serials.insert(serial), "{record:?} is there twice");
    }
    let missing: Vec<_> = acknowledged.difference(&serials).collect();
    assert!(missing.is_empty(), "acknowledged but not there: {missing:?}");
}
