use std::time::Duration;

use super::*;
use crate::domain::{
    clock::{BootInstant, Timestamp},
    leadership::Term,
};
use crate::storage::slot::Slot;

struct Settable(Mutex<i64>);

impl Clock for Settable {
    fn now(&self) -> Timestamp {
        Timestamp::from_seconds(*self.0.lock().unwrap())
    }

    fn boot(&self) -> BootInstant {
        BootInstant::from_nanos(0)
    }
}

fn event(n: u64) -> IssuanceEvent {
    IssuanceEvent::Withheld { serial: n.to_string(), term: Term::new(1) }
}

struct Place {
    _base: tempfile::TempDir,
    data_dir: DataDir,
    lock: SlotLock,
    clock: Arc<Settable>,
}

impl Place {
    fn new() -> Self {
        let base = tempfile::tempdir().unwrap();
        let data_dir = DataDir::open(&base.path().join("data")).unwrap();
        let lock = SlotLock::try_take(&data_dir, Slot::new(0)).unwrap().unwrap();
        Self { _base: base, data_dir, lock, clock: Arc::new(Settable(Mutex::new(1000))) }
    }

    fn open(&self, max_records: u64) -> EmbeddedIssuanceLog {
        let retention = Retention { max_age: Duration::from_secs(100), max_records };
        let clock: Arc<dyn Clock> = Arc::<Settable>::clone(&self.clock);
        EmbeddedIssuanceLog::open(&self.data_dir, &self.lock, retention, clock).unwrap()
    }
}

fn sequences(log: &EmbeddedIssuanceLog) -> Vec<u64> {
    log.reader().unwrap().read(1, 10_000).unwrap().iter().map(|record| record.sequence).collect()
}

#[tokio::test]
async fn numbers_go_on_after_reopening_and_readers_see_what_is_durable() {
    let place = Place::new();
    for run in 0..3 {
        let log = place.open(1000);
        for n in 1..=10 {
            log.append(event(run * 10 + n)).await.unwrap();
        }
        let records = log.reader().unwrap().read(run * 10 + 1, 100).unwrap();
        assert_eq!(records.len(), 10);
        assert!(records.iter().all(|record| record.event == event(record.sequence)));
        log.close();
        assert_eq!(log.append(event(0)).await, Err(LogError("it is closed".into())));
        assert!(!*log.writable().borrow());
    }
    let reader = LogReader::open(&place.data_dir, &place.lock).unwrap().unwrap();
    assert_eq!(reader.newest().unwrap().unwrap().sequence, 30);
    reader.verify(0).unwrap();
}

#[tokio::test]
async fn removes_the_oldest_by_number_and_by_age() {
    let place = Place::new();
    let log = place.open(20);
    for n in 1..=50 {
        log.append(event(n)).await.unwrap();
    }
    log.close();
    let log = place.open(20);
    assert_eq!(sequences(&log), (31..=50).collect::<Vec<_>>());
    *place.clock.0.lock().unwrap() += 101;
    log.append(event(51)).await.unwrap();
    log.close();
    let log = place.open(20);
    assert_eq!(sequences(&log), [51]);
    log.append(event(52)).await.unwrap();
    assert_eq!(sequences(&log), [51, 52]);
}

#[tokio::test]
async fn a_record_that_is_gone_is_named() {
    let place = Place::new();
    let log = place.open(1000);
    for n in 1..=20 {
        log.append(event(n)).await.unwrap();
    }
    log.close();
    for (range, text) in [(15..16, "records 15 to 15 are missing"), (18..21, "records 18 to 20 are missing")] {
        let engine =
            Engine::open(&LogPlace { data_dir: place.data_dir.clone(), slot: Slot::new(0) }.records()).unwrap();
        remove(&engine, range).unwrap();
        engine.close().unwrap();
        let clock: Arc<dyn Clock> = Arc::<Settable>::clone(&place.clock);
        let opened = EmbeddedIssuanceLog::open(&place.data_dir, &place.lock, Retention::default(), clock);
        let Err(LogReadError::Damaged(found)) = opened else { panic!("{text} was not noticed") };
        assert!(found.contains(text) && found.ends_with(&place.data_dir.advice_for_logs()), "{found}");
    }
}
