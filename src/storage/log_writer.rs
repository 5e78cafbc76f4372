//! The thread that writes an issuance log: it takes what waits, makes it durable as one group, then answers all of it.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};

use super::{
    engine::{Batch, Engine},
    log_head::{HeadFile, LogHead},
    log_reader::Bounds,
    record::{self, LoggedEvent},
    retention::Retention,
};
use crate::{
    domain::{
        clock::{Clock, Timestamp},
        issuance::IssuanceEvent,
    },
    service::ports::LogError,
};

/// The most events in one group, so that the first of them doesn't wait for long.
const GROUP: usize = 256;
/// The most records removed between two groups.
const REMOVED_AT_ONCE: u64 = 512;

/// An event that waits to be written.
pub(super) struct Append {
    pub(super) event: IssuanceEvent,
    pub(super) done: oneshot::Sender<Result<(), LogError>>,
}

pub(super) struct LogWriter {
    pub(super) engine: Arc<Engine>,
    pub(super) head: HeadFile,
    pub(super) bounds: Arc<Bounds>,
    pub(super) retention: Retention,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) writable: watch::Sender<bool>,
}

impl LogWriter {
    /// Writes until nobody can append any more. After a failure nothing is written again: what is on disk then is known
    /// only after opening anew.
    pub(super) fn run(self, mut queue: mpsc::Receiver<Append>) {
        let mut state = Ok(());
        while let Some(first) = queue.blocking_recv() {
            let mut group = vec![first];
            while group.len() < GROUP
                && let Ok(next) = queue.try_recv()
            {
                group.push(next);
            }
            if state.is_ok() {
                state = self.write(&group).map_err(LogError);
            }
            if state.is_err() {
                // Before anybody learns of it, so that nobody is told to try here again.
                self.writable.send_replace(false);
            }
            for Append { done, .. } in group {
                // A caller that gave up needs no answer; the event is on record all the same.
                drop(done.send(state.clone()));
            }
            if state.is_ok() {
                state = self.remove_old().map_err(LogError);
            }
        }
    }

    fn write(&self, group: &[Append]) -> Result<(), String> {
        let LogHead { first, mut last } = self.bounds.get();
        let recorded_at = self.clock.now();
        let mut batch = Batch::default();
        for Append { event, .. } in group {
            last += 1;
            let record = LoggedEvent { sequence: last, recorded_at, event: event.clone() };
            let bytes = record::encode(&record).map_err(|error| error.to_string())?;
            batch.insert(&last.to_be_bytes(), bytes);
        }
        self.engine.commit(batch).map_err(|error| error.to_string())?;
        self.move_head(LogHead { first, last })
    }

    /// First the head, then the records: a crash between leaves records that opening removes.
    fn remove_old(&self) -> Result<(), String> {
        let head = self.bounds.get();
        let surplus = (head.last + 1).saturating_sub(head.first).saturating_sub(self.retention.max_records);
        let limit = self.clock.now().minus(self.retention.max_age);
        let mut first = head.first;
        while first <= head.last
            && first < head.first + REMOVED_AT_ONCE
            && (first < head.first + surplus || self.recorded_at(first)? < limit)
        {
            first += 1;
        }
        if first == head.first {
            return Ok(());
        }
        self.move_head(LogHead { first, ..head })?;
        remove(&self.engine, head.first..first).map_err(|error| error.to_string())
    }

    fn recorded_at(&self, sequence: u64) -> Result<Timestamp, String> {
        let value = self.engine.get(&sequence.to_be_bytes()).map_err(|error| error.to_string())?;
        let value = value.ok_or_else(|| format!("record {sequence} is missing"))?;
        record::decode(sequence, &value)
            .map(|record| record.recorded_at)
            .map_err(|error| format!("record {sequence}: {error}"))
    }

    fn move_head(&self, head: LogHead) -> Result<(), String> {
        self.head.write(head).map_err(|error| format!("the head: {error}"))?;
        self.bounds.set(head);
        Ok(())
    }
}

impl Drop for LogWriter {
    /// However the writer ends: nothing is written from here on.
    fn drop(&mut self) {
        self.writable.send_replace(false);
    }
}

/// Removes records that the head no longer names.
pub(super) fn remove(engine: &Engine, records: std::ops::Range<u64>) -> Result<(), super::engine::EngineError> {
    let mut batch = Batch::default();
    for sequence in records {
        batch.remove(&sequence.to_be_bytes());
    }
    engine.commit(batch)
}
