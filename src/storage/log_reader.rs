//! Reading an issuance log: one's own while it is written, or a dead replica's. Every record that is handed out was
//! checked: its checksum, and that none is missing before it.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use super::{
    data_dir::DataDir,
    engine::{Engine, EngineError},
    log_head::{HeadError, LogHead},
    record,
    replica_slot::SlotLock,
    slot::Slot,
};

pub use super::record::LoggedEvent;

/// How many records are looked at in one go.
const CHUNK: usize = 256;

/// Why a log can't be opened or read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogReadError {
    /// Records are missing or changed. Names them and the recovery command.
    #[error("{0}")]
    Damaged(String),
    /// The file system refused.
    #[error("the issuance log can't be read: {0}")]
    Io(String),
}

/// Reads one log. Cheap to clone.
#[derive(Clone)]
pub struct LogReader {
    pub(super) engine: Arc<Engine>,
    pub(super) bounds: Arc<Bounds>,
    pub(super) place: LogPlace,
}

/// The records that are there; moved by the writer.
pub(super) struct Bounds {
    first: AtomicU64,
    last: AtomicU64,
}

/// Which log an error is about.
#[derive(Clone)]
pub(super) struct LogPlace {
    pub(super) data_dir: DataDir,
    pub(super) slot: Slot,
}

impl LogReader {
    /// Opens the log of a replica that has died, whose slot the caller has locked for as long as it reads. `None` if the
    /// slot has no log.
    ///
    /// # Errors
    ///
    /// When the log is damaged or can't be read.
    pub fn open(data_dir: &DataDir, lock: &SlotLock) -> Result<Option<Self>, LogReadError> {
        let place = LogPlace { data_dir: data_dir.clone(), slot: lock.slot() };
        let Some(head) = place.read_head()? else { return Ok(None) };
        let engine = Engine::open(&place.records()).map_err(|error| place.engine_error(error))?;
        let last = place.last_record(&engine, head)?;
        let bounds = Arc::new(Bounds::new(LogHead { last, ..head }));
        Ok(Some(Self { engine: Arc::new(engine), bounds, place }))
    }

    /// Up to `limit` records from number `from` on, oldest first. Empty at the end: go on with the number after the last
    /// until then. Blocks: call it off the runtime.
    ///
    /// # Errors
    ///
    /// When a record is missing or changed, or can't be read.
    pub fn read(&self, from: u64, limit: usize) -> Result<Vec<LoggedEvent>, LogReadError> {
        let LogHead { first, last } = self.bounds.get();
        let from = from.max(first);
        let pairs = self.engine.range(&from.to_be_bytes(), limit).map_err(|error| self.place.engine_error(error))?;
        let mut records = Vec::with_capacity(pairs.len());
        for (sequence, (key, value)) in (from..=last).zip(pairs) {
            if key != sequence.to_be_bytes() {
                if self.bounds.get().first > sequence {
                    // Removed for their age since this began; the next call starts behind them.
                    break;
                }
                return Err(self.place.missing(sequence, number(&key).map_or(last, |found| found.saturating_sub(1))));
            }
            let decoded = record::decode(sequence, &value);
            records.push(decoded.map_err(|error| self.place.damaged(&format!("record {sequence}: {error}")))?);
        }
        if records.is_empty() && limit > 0 && from <= last {
            let first = self.bounds.get().first;
            return if first > from { self.read(first, limit) } else { Err(self.place.missing(from, last)) };
        }
        Ok(records)
    }

    /// Checks every record from number `from` on.
    pub(super) fn verify(&self, from: u64) -> Result<(), LogReadError> {
        let mut next = from;
        while let Some(last) = self.read(next, CHUNK)?.last() {
            next = last.sequence.saturating_add(1);
        }
        Ok(())
    }

    /// The record with the highest number.
    pub(super) fn newest(&self) -> Result<Option<LoggedEvent>, LogReadError> {
        Ok(self.read(self.bounds.get().last, 1)?.pop())
    }
}

impl Bounds {
    pub(super) const fn new(head: LogHead) -> Self {
        Self { first: AtomicU64::new(head.first), last: AtomicU64::new(head.last) }
    }

    pub(super) fn get(&self) -> LogHead {
        LogHead { first: self.first.load(Ordering::Acquire), last: self.last.load(Ordering::Acquire) }
    }

    pub(super) fn set(&self, head: LogHead) {
        self.first.store(head.first, Ordering::Release);
        self.last.store(head.last, Ordering::Release);
    }
}

impl LogPlace {
    pub(super) fn records(&self) -> std::path::PathBuf {
        self.data_dir.issuance_of(self.slot).join("records")
    }

    pub(super) fn read_head(&self) -> Result<Option<LogHead>, LogReadError> {
        LogHead::read(&self.data_dir, self.slot).map_err(|error| match error {
            HeadError::Content(_) => self.damaged(&error.to_string()),
            HeadError::Io(_) => LogReadError::Io(error.to_string()),
        })
    }

    /// The number of the last record: at least what the head says, more if a writer died before it was answered.
    pub(super) fn last_record(&self, engine: &Engine, head: LogHead) -> Result<u64, LogReadError> {
        let key = engine.last_key().map_err(|error| self.engine_error(error))?;
        // Nothing there: the last one that may have been removed for its age.
        let none = head.first.saturating_sub(1);
        let last = match key {
            Some(key) => number(&key).ok_or_else(|| self.damaged("it holds a record without a number"))?.max(none),
            None => none,
        };
        if last < head.last { Err(self.missing(last.saturating_add(1), head.last)) } else { Ok(last) }
    }

    fn missing(&self, first: u64, last: u64) -> LogReadError {
        self.damaged(&format!("records {first} to {last} are missing"))
    }

    pub(super) fn damaged(&self, found: &str) -> LogReadError {
        let Self { data_dir, slot } = self;
        LogReadError::Damaged(format!("the issuance log of {slot} is damaged: {found}; {}", data_dir.advice_for_logs()))
    }

    pub(super) fn engine_error(&self, error: EngineError) -> LogReadError {
        match error {
            EngineError::Damaged(found) => self.damaged(&found),
            EngineError::Io(error) => LogReadError::Io(error),
        }
    }
}

fn number(key: &[u8]) -> Option<u64> {
    key.try_into().ok().map(u64::from_be_bytes)
}
