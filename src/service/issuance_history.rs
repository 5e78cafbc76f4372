//! Reading the issuance logs.

use std::{sync::Arc, time::Duration};

use tokio::{sync::mpsc, time::timeout};

use super::ports::BoxFuture;
use crate::domain::issuance::IssuanceEvent;

/// One line of one replica's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuanceEntry {
    /// Whose log: the replica's slot.
    pub log: String,
    /// Position in it, from 1 without gaps.
    pub sequence: u64,
    /// What was recorded, with the proof in words.
    pub event: RecordedEvent,
}

/// An event as a reader sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecordedEvent {
    /// A certificate was signed.
    Issued {
        /// Microseconds since the epoch.
        signed_at: i64,
        /// The signer's term.
        term: u64,
        /// The process that signed.
        replica: String,
        /// The signing authority.
        authority: String,
        /// To whom.
        spiffe_id: String,
        /// Hex.
        serial: String,
        /// Seconds since the epoch.
        not_before: i64,
        /// Seconds since the epoch.
        not_after: i64,
        /// On what proof, in words.
        proof: String,
    },
    /// A certificate that was signed was not sent.
    Withheld {
        /// Hex.
        serial: String,
        /// The term that had ended.
        term: u64,
    },
    /// In the place of a log, or the rest of it, that could not be read.
    Missing {
        /// Why.
        reason: String,
    },
}

/// Why a log, or the rest of it, can't be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct HistoryError(pub String);

/// Entries as they are read, oldest first; a last error if reading had to stop.
pub type Entries = mpsc::Receiver<Result<IssuanceEntry, HistoryError>>;

/// A log, or several, that can be read while it is written.
pub trait IssuanceHistory: Send + Sync {
    /// Everything that is on record now. Reading stops when the receiver is dropped.
    fn entries(&self) -> Entries;
}

/// The logs of the other replicas.
pub trait PeerHistories: Send + Sync {
    /// One for each replica that is known, whether it answers or not.
    fn logs(&self) -> BoxFuture<'_, Vec<PeerLog>>;
}

/// The log of another replica.
pub struct PeerLog {
    /// The replica, or where it should answer.
    pub name: String,
    /// What it holds.
    pub entries: Result<Entries, HistoryError>,
    /// Longest wait for the next entry. None where no other process has to send it.
    pub patience: Option<Duration>,
}

impl PeerLog {
    /// For a replica that may be stopped.
    pub const PATIENCE: Duration = Duration::from_secs(2);
}

/// The logs of all replicas that can be reached, each under its replica's name, and a word on each that can't.
pub struct PairHistories {
    own: Option<(String, Arc<dyn IssuanceHistory>)>,
    peers: Arc<dyn PeerHistories>,
}

impl PairHistories {
    /// The log of this replica and those of its peers.
    pub fn new(own_name: String, own: Arc<dyn IssuanceHistory>, peers: Arc<dyn PeerHistories>) -> Self {
        Self { own: Some((own_name, own)), peers }
    }

    /// The logs of replicas for somebody who is none.
    pub fn of_others(peers: Arc<dyn PeerHistories>) -> Self {
        Self { own: None, peers }
    }
}

impl IssuanceHistory for PairHistories {
    fn entries(&self) -> Entries {
        let (sender, entries) = mpsc::channel(64);
        let own = self.own.as_ref();
        let own = own.map(|(name, log)| PeerLog { name: name.clone(), entries: Ok(log.entries()), patience: None });
        let peers = Arc::clone(&self.peers);
        tokio::spawn(async move {
            if let Some(own) = own
                && !pass_on(own, &sender).await
            {
                return;
            }
            for log in peers.logs().await {
                if !pass_on(log, &sender).await {
                    return;
                }
            }
        });
        entries
    }
}

/// Passes on a log under its replica's name. Whether anybody still listens.
async fn pass_on(log: PeerLog, to: &mpsc::Sender<Result<IssuanceEntry, HistoryError>>) -> bool {
    let PeerLog { name, entries, patience } = log;
    let reason = match entries {
        Err(HistoryError(reason)) => reason,
        Ok(mut entries) => loop {
            let next = tokio::select! {
                () = to.closed() => return false,
                next = within(patience, entries.recv()) => next,
            };
            match next {
                Ok(None) => return true,
                Ok(Some(Ok(entry))) => {
                    if to.send(Ok(IssuanceEntry { log: name.clone(), ..entry })).await.is_err() {
                        return false;
                    }
                }
                Ok(Some(Err(HistoryError(reason)))) => break reason,
                Err(limit) => break format!("it sent nothing within {limit:?}: its process may be stopped"),
            }
        },
    };
    let missing = RecordedEvent::Missing { reason };
    to.send(Ok(IssuanceEntry { log: name, sequence: 0, event: missing })).await.is_ok()
}

async fn within<T>(limit: Option<Duration>, work: impl Future<Output = T>) -> Result<T, Duration> {
    match limit {
        Some(limit) => timeout(limit, work).await.map_err(|_elapsed| limit),
        None => Ok(work.await),
    }
}

impl From<&IssuanceEvent> for RecordedEvent {
    fn from(event: &IssuanceEvent) -> Self {
        match event {
            IssuanceEvent::Issued(issuance) => Self::Issued {
                signed_at: issuance.signed_at.micros(),
                term: issuance.term.number(),
                replica: issuance.replica.clone(),
                authority: issuance.authority.clone(),
                spiffe_id: issuance.id.to_string(),
                serial: issuance.serial.clone(),
                not_before: issuance.not_before.seconds(),
                not_after: issuance.not_after.seconds(),
                proof: issuance.proof.to_string(),
            },
            IssuanceEvent::Withheld { serial, term } => Self::Withheld { serial: serial.clone(), term: term.number() },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tokio::time::Instant;

    use super::*;

    struct Given(Mutex<Vec<PeerLog>>);

    impl PeerHistories for Given {
        fn logs(&self) -> BoxFuture<'_, Vec<PeerLog>> {
            Box::pin(async { std::mem::take(&mut *self.0.lock().unwrap()) })
        }
    }

    fn withheld(sequence: u64) -> IssuanceEntry {
        let event = RecordedEvent::Withheld { serial: "01".into(), term: 1 };
        IssuanceEntry { log: "?".into(), sequence, event }
    }

    #[tokio::test(start_paused = true)]
    async fn a_replica_that_falls_silent_is_named_and_the_others_are_listed() {
        let (stopped, silent) = mpsc::channel(8);
        stopped.send(Ok(withheld(1))).await.unwrap();
        let (dead, rest) = mpsc::channel(8);
        dead.send(Ok(withheld(7))).await.unwrap();
        drop(dead);
        let log = |name: &str, entries, patience| PeerLog { name: name.into(), entries: Ok(entries), patience };
        let logs = vec![log("stopped", silent, Some(PeerLog::PATIENCE)), log("dead", rest, None)];
        let begun = Instant::now();
        let mut entries = PairHistories::of_others(Arc::new(Given(Mutex::new(logs)))).entries();
        let mut heard = Vec::new();
        while let Some(entry) = entries.recv().await {
            let IssuanceEntry { log, sequence, event } = entry.unwrap();
            heard.push((log, sequence, matches!(event, RecordedEvent::Missing { .. })));
        }
        let expected = [("stopped", 1, false), ("stopped", 0, true), ("dead", 7, false)];
        assert_eq!(heard, expected.map(|(log, sequence, missing)| (log.to_owned(), sequence, missing)));
        assert_eq!(begun.elapsed(), PeerLog::PATIENCE);
        drop(stopped);
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_goes_on_when_nobody_listens() {
        let (stopped, silent) = mpsc::channel::<Result<IssuanceEntry, HistoryError>>(8);
        let logs = vec![PeerLog { name: "stopped".into(), entries: Ok(silent), patience: None }];
        drop(PairHistories::of_others(Arc::new(Given(Mutex::new(logs)))).entries());
        timeout(Duration::from_secs(1), stopped.closed()).await.expect("the log is let go");
    }
}
