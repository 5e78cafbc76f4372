//! A replica's issuance log on disk. One writer, many waiting appends: the cost of making a group durable is shared by
//! all that came in while the group before it was written.

use std::{
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
};

use tokio::sync::{mpsc, oneshot, watch};

use super::{
    data_dir::DataDir,
    engine::Engine,
    files,
    log_head::{HeadFile, LogHead},
    log_reader::{Bounds, LogPlace, LogReadError, LogReader},
    log_writer::{Append, LogWriter, remove},
    replica_slot::SlotLock,
    retention::Retention,
};
use crate::{
    domain::{clock::Clock, issuance::IssuanceEvent},
    service::ports::{BoxFuture, IssuanceLog, LogError},
};

/// Appends that may wait; more than that wait to be let in.
const QUEUE: usize = 4096;
/// The newest records, all of which are checked when a log is opened. Older ones are checked when they are read, and by
/// `countersign recover`: opening must not take longer the longer a log has been kept.
const CHECKED_AT_OPEN: u64 = 4096;

/// The log of the replica that holds its slot.
pub struct EmbeddedIssuanceLog {
    reader: Mutex<Option<LogReader>>,
    writer: Mutex<Option<RunningWriter>>,
    writable: watch::Receiver<bool>,
}

struct RunningWriter {
    queue: mpsc::Sender<Append>,
    thread: JoinHandle<()>,
}

impl EmbeddedIssuanceLog {
    /// Opens the log of a slot, or starts one. The slot must stay locked until the log is closed.
    ///
    /// # Errors
    ///
    /// When records are missing or changed, or the file system refuses.
    pub fn open(
        data_dir: &DataDir,
        lock: &SlotLock,
        retention: Retention,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, LogReadError> {
        let place = LogPlace { data_dir: data_dir.clone(), slot: lock.slot() };
        let (engine, head) = open_files(&place)?;
        let io = |error: std::io::Error| LogReadError::Io(error.to_string());
        let head_file = match head {
            Some(_) => HeadFile::open(data_dir, lock.slot()),
            None => HeadFile::create(data_dir, lock.slot()),
        };
        let head_file = head_file.map_err(io)?;
        let head = head.unwrap_or(LogHead::EMPTY);
        let last = place.last_record(&engine, head)?;
        let bounds = Arc::new(Bounds::new(LogHead { last, ..head }));
        let reader = LogReader { engine: Arc::new(engine), bounds: Arc::clone(&bounds), place };
        reader.verify(head.first.max((last + 1).saturating_sub(CHECKED_AT_OPEN)))?;
        reader.read(head.first, 1)?;
        remove_leftovers(&reader, head.first)?;
        head_file.write(LogHead { last, ..head }).map_err(io)?;

        let (sender, queue) = mpsc::channel(QUEUE);
        let (writable, health) = watch::channel(true);
        let engine = Arc::clone(&reader.engine);
        let writer = LogWriter { engine, head: head_file, bounds, retention, clock, writable };
        let thread = thread::Builder::new().name("issuance-log".into()).spawn(move || writer.run(queue)).map_err(io)?;
        Ok(Self {
            reader: Mutex::new(Some(reader)),
            writer: Mutex::new(Some(RunningWriter { queue: sender, thread })),
            writable: health,
        })
    }

    /// Whether the log can be written: becomes false with the first write that fails, and when the writer ends, and stays
    /// so. Issuing and readiness depend on it.
    pub fn writable(&self) -> watch::Receiver<bool> {
        self.writable.clone()
    }

    /// Reads the log while it is written; `None` when it is closed.
    pub fn reader(&self) -> Option<LogReader> {
        self.reader.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes no more appends, finishes those that wait, and closes the files. Blocks: call it off the runtime.
    pub fn close(&self) {
        let running = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(RunningWriter { queue, thread }) = running {
            drop(queue);
            // A panic of the writer shows in `writable`; nothing is left to be done about it here.
            drop(thread.join());
        }
        let reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(engine) = reader.and_then(|reader| Arc::into_inner(reader.engine)) {
            // What was acknowledged is durable already.
            drop(engine.close());
        }
    }
}

impl IssuanceLog for EmbeddedIssuanceLog {
    fn append(&self, event: IssuanceEvent) -> BoxFuture<'_, Result<(), LogError>> {
        let running = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let queue = running.as_ref().map(|running| running.queue.clone());
        Box::pin(async move {
            let closed = || LogError("it is closed".into());
            let (done, answer) = oneshot::channel();
            queue.ok_or_else(closed)?.send(Append { event, done }).await.map_err(|_unsent| closed())?;
            answer.await.map_err(|_dropped| LogError("its writer has ended".into()))?
        })
    }
}

/// The database and the head, which is missing only while a log is being made.
fn open_files(place: &LogPlace) -> Result<(Engine, Option<LogHead>), LogReadError> {
    let io = |error: std::io::Error| LogReadError::Io(error.to_string());
    let records = place.records();
    let head = place.read_head()?;
    if !records.try_exists().map_err(io)? {
        if let Some(LogHead { first, last }) = head {
            return Err(place.damaged(&format!("its records are gone, {first} to {last} should be there")));
        }
        files::create_private_directory(&place.data_dir.issuance_of(place.slot)).map_err(io)?;
        Engine::create(&records).map_err(|error| place.engine_error(error))?;
    }
    let engine = Engine::open(&records).map_err(|error| place.engine_error(error))?;
    let any = engine.first_key().map_err(|error| place.engine_error(error))?;
    if head.is_none() && any.is_some() {
        return Err(place.damaged("its head is gone"));
    }
    Ok((engine, head))
}

/// Records that were to be removed for their age when a writer died.
fn remove_leftovers(reader: &LogReader, first: u64) -> Result<(), LogReadError> {
    let oldest = reader.engine.first_key().map_err(|error| reader.place.engine_error(error))?;
    let oldest = oldest.and_then(|key| key.as_ref().try_into().ok()).map(u64::from_be_bytes);
    match oldest.filter(|oldest| *oldest < first) {
        Some(oldest) => remove(&reader.engine, oldest..first).map_err(|error| reader.place.engine_error(error)),
        None => Ok(()),
    }
}

#[cfg(test)]
#[path = "issuance_log_tests.rs"]
mod tests;
