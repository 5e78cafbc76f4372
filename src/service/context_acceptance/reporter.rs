//! Tells the pair what the proxies hold: everything first, then changes, and every few seconds that it still holds.

use std::{convert::Infallible, sync::Arc, time::Duration};

use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};
use tracing::warn;

use super::AcceptanceBook;
use crate::{
    domain::policy::{Report, ReportChange},
    service::ports::BoxFuture,
};

/// Part of what is told. One without a change says that all of before still holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReportPart {
    /// What changes.
    pub change: ReportChange,
    /// Grows with each change for as long as this process lives.
    pub sequence: u64,
    /// Whether the change ends with this part.
    pub is_last: bool,
}

/// Where it is told.
pub trait ReportSink: Send + Sync {
    /// Opens a stream.
    ///
    /// # Errors
    ///
    /// What each replica said.
    fn open(&self) -> BoxFuture<'_, Result<Box<dyn ReportStream>, String>>;
}

/// To one replica.
pub trait ReportStream: Send {
    /// Tells a part, and waits until it is taken.
    ///
    /// # Errors
    ///
    /// Why it is not.
    fn tell(&mut self, part: ReportPart) -> BoxFuture<'_, Result<(), String>>;
}

/// The task that tells.
pub struct AcceptanceReporter {
    book: Arc<AcceptanceBook>,
    sink: Arc<dyn ReportSink>,
    sequence: u64,
}

/// Changes within this are told together.
const PACE: Duration = Duration::from_millis(100);
/// A replica forgets who says nothing for a little more than twice this.
const CONFIRM_EVERY: Duration = Duration::from_secs(5);
const TAKEN_WITHIN: Duration = Duration::from_secs(5);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// Services of one part: far below what a replica takes.
const CHUNK: usize = 100;

impl AcceptanceReporter {
    /// Of what is in `book`.
    pub fn new(book: Arc<AcceptanceBook>, sink: Arc<dyn ReportSink>) -> Self {
        Self { book, sink, sequence: 0 }
    }

    /// Tells for ever.
    pub async fn run(mut self) -> Infallible {
        let (mut pause, mut said) = (FIRST_PAUSE, String::new());
        loop {
            let begin = Instant::now();
            let why = match self.sink.open().await {
                Ok(mut stream) => {
                    let why = self.tell(stream.as_mut()).await;
                    if begin.elapsed() > CONFIRM_EVERY {
                        (pause, said) = (FIRST_PAUSE, String::new());
                    }
                    why
                }
                Err(why) => why,
            };
            if why != said {
                warn!(event = "policy_report_lost", why, "the pair does not know what is in force here");
                said = why;
            }
            sleep(pause).await;
            pause = LONGEST_PAUSE.min(pause * 2);
        }
    }

    /// Until the stream ends; returns why.
    async fn tell(&mut self, stream: &mut dyn ReportStream) -> String {
        let mut changes = self.book.changes();
        let mut told: Option<Report> = None;
        loop {
            changes.mark_unchanged();
            let (begin, now) = (Instant::now(), self.book.report());
            let parts = match ReportChange::between(told.as_ref(), &now) {
                Some(change) => {
                    self.sequence += 1;
                    ReportPart::parts_of(change, self.sequence)
                }
                None => vec![ReportPart { sequence: self.sequence, ..ReportPart::default() }],
            };
            for part in parts {
                match timeout(TAKEN_WITHIN, stream.tell(part)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(why)) => return why,
                    Err(_elapsed) => return format!("not taken within {} s", TAKEN_WITHIN.as_secs()),
                }
            }
            told = Some(now);
            // whether something has changed or not, it is time to say so then
            _ = timeout_at(begin + CONFIRM_EVERY, changes.changed()).await;
            sleep_until(begin + PACE).await;
        }
    }
}

impl ReportPart {
    /// A whole change.
    pub fn parts_of(change: ReportChange, sequence: u64) -> Vec<Self> {
        let ReportChange { reset, services, gone } = change;
        let mut parts: Vec<Self> = Vec::new();
        let mut add = |change| parts.push(Self { change, sequence, is_last: false });
        services
            .chunks(CHUNK)
            .for_each(|services| add(ReportChange { services: services.to_vec(), ..ReportChange::default() }));
        gone.chunks(CHUNK).for_each(|gone| add(ReportChange { gone: gone.to_vec(), ..ReportChange::default() }));
        if parts.is_empty() {
            parts.push(Self { sequence, ..Self::default() });
        }
        if let Some(first) = parts.first_mut() {
            first.change.reset = reset;
        }
        if let Some(last) = parts.last_mut() {
            last.is_last = true;
        }
        parts
    }
}

#[cfg(test)]
mod tests;
