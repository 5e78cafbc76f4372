//! The issuance logs as a history: a reader's records, fed to whoever lists them.

use std::sync::Arc;

use tokio::{sync::mpsc, task::spawn_blocking};

use super::{
    data_dir::DataDir, issuance_log::EmbeddedIssuanceLog, log_reader::LogReader, replica_slot::SlotLock, slot::Slot,
};
use crate::service::issuance_history::{Entries, HistoryError, IssuanceEntry, IssuanceHistory};

/// Records read in one go.
const CHUNK: usize = 256;

/// The log that this process writes.
pub struct OwnHistory {
    log: Arc<EmbeddedIssuanceLog>,
    slot: Slot,
}

impl OwnHistory {
    /// Of `log`, which stands in `slot`.
    pub const fn new(log: Arc<EmbeddedIssuanceLog>, slot: Slot) -> Self {
        Self { log, slot }
    }
}

impl IssuanceHistory for OwnHistory {
    fn entries(&self) -> Entries {
        let (sender, entries) = mpsc::channel(CHUNK);
        let (slot, reader) = (self.slot, self.log.reader());
        if let Some(reader) = reader {
            spawn_blocking(move || send_all(&reader, slot, &sender));
        }
        entries
    }
}

/// The log of a replica that is not running: its slot is taken while it is read. Nothing if it never wrote one.
pub fn entries_of_dead(data_dir: DataDir, lock: SlotLock) -> Entries {
    let (sender, entries) = mpsc::channel(CHUNK);
    spawn_blocking(move || match LogReader::open(&data_dir, &lock) {
        Ok(Some(reader)) => send_all(&reader, lock.slot(), &sender),
        Ok(None) => {}
        Err(error) => drop(sender.blocking_send(Err(HistoryError(error.to_string())))),
    });
    entries
}

fn send_all(reader: &LogReader, slot: Slot, sender: &mpsc::Sender<Result<IssuanceEntry, HistoryError>>) {
    let mut from = 0;
    loop {
        let records = match reader.read(from, CHUNK) {
            Ok(records) if records.is_empty() => return,
            Ok(records) => records,
            Err(error) => return drop(sender.blocking_send(Err(HistoryError(error.to_string())))),
        };
        for record in records {
            from = record.sequence.saturating_add(1);
            let entry =
                IssuanceEntry { log: slot.to_string(), sequence: record.sequence, event: (&record.event).into() };
            if sender.blocking_send(Ok(entry)).is_err() {
                return;
            }
        }
    }
}
