//! Issuance logs as they are sent between replicas, and to the command line.

use std::pin::Pin;

use tokio::sync::mpsc;
use tokio_stream::{Stream, StreamExt, wrappers::ReceiverStream};
use tonic::Status;

use super::status::said_by;
use crate::{
    proto::countersign::v1::{IssuanceRecord, Issued, Missing, Withheld, issuance_record::Event},
    service::issuance_history::{Entries, HistoryError, IssuanceEntry, IssuanceHistory, RecordedEvent},
};

/// The records of a log as they are read.
pub(super) type RecordStream = Pin<Box<dyn Stream<Item = Result<IssuanceRecord, Status>> + Send>>;

/// Everything that `history` holds now.
pub(super) fn records_of(history: &dyn IssuanceHistory) -> RecordStream {
    let entries = ReceiverStream::new(history.entries());
    Box::pin(entries.map(|entry| match entry {
        Ok(entry) => Ok(record_of(entry)),
        Err(error) => Err(Status::data_loss(error.to_string())),
    }))
}

/// Passes on what the stream that is opened by `open` brings, until nobody listens.
pub(super) fn relay(
    open: impl Future<Output = Result<tonic::Streaming<IssuanceRecord>, HistoryError>> + Send + 'static,
) -> Entries {
    let (sender, entries) = mpsc::channel(64);
    tokio::spawn(async move {
        tokio::select! {
            // whoever is asked may be stopped and never answer
            () = sender.closed() => {}
            () = pass_on(open, &sender) => {}
        }
    });
    entries
}

async fn pass_on(
    open: impl Future<Output = Result<tonic::Streaming<IssuanceRecord>, HistoryError>>,
    to: &mpsc::Sender<Result<IssuanceEntry, HistoryError>>,
) {
    let mut records = match open.await {
        Ok(records) => records,
        Err(error) => return drop(to.send(Err(error)).await),
    };
    loop {
        let entry = match records.message().await {
            Ok(Some(record)) => entry_of(record),
            Ok(None) => return,
            Err(status) => Err(HistoryError(said_by(&status))),
        };
        let failed = entry.is_err();
        if to.send(entry).await.is_err() || failed {
            return;
        }
    }
}

fn record_of(entry: IssuanceEntry) -> IssuanceRecord {
    let event = match entry.event {
        RecordedEvent::Withheld { serial, term } => Event::Withheld(Withheld { serial, term }),
        RecordedEvent::Missing { reason } => Event::Missing(Missing { reason }),
        RecordedEvent::Issued {
            signed_at,
            term,
            replica,
            authority,
            spiffe_id,
            serial,
            not_before,
            not_after,
            proof,
        } => Event::Issued(Issued {
            signed_at,
            term,
            replica,
            authority,
            spiffe_id,
            serial,
            not_before,
            not_after,
            proof,
        }),
    };
    IssuanceRecord { log: entry.log, sequence: entry.sequence, event: Some(event) }
}

fn entry_of(record: IssuanceRecord) -> Result<IssuanceEntry, HistoryError> {
    let event = match record.event {
        Some(Event::Issued(issued)) => RecordedEvent::Issued {
            signed_at: issued.signed_at,
            term: issued.term,
            replica: issued.replica,
            authority: issued.authority,
            spiffe_id: issued.spiffe_id,
            serial: issued.serial,
            not_before: issued.not_before,
            not_after: issued.not_after,
            proof: issued.proof,
        },
        Some(Event::Withheld(withheld)) => RecordedEvent::Withheld { serial: withheld.serial, term: withheld.term },
        Some(Event::Missing(missing)) => RecordedEvent::Missing { reason: missing.reason },
        None => {
            return Err(HistoryError(format!("record {} of {} is of an unknown kind", record.sequence, record.log)));
        }
    };
    Ok(IssuanceEntry { log: record.log, sequence: record.sequence, event })
}
