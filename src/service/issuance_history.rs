//! Reading the issuance logs.

use std::{sync::Arc, time::Duration};

use tokio::{sync::mpsc, time::timeout};

use super::ports::{BoxFuture, LogError};
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

/// Entries as they are read, oldest first; a last error if reading had to stop.
pub type Entries = mpsc::Receiver<Result<IssuanceEntry, LogError>>;

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
    pub entries: Result<Entries, LogError>,
}

/// The logs of all replicas that can be reached, each under its replica's name, and a word on each that can't.
pub struct PairHistories {
    own_name: String,
    own: Arc<dyn IssuanceHistory>,
    peers: Arc<dyn PeerHistories>,
}

/// Longest wait for the next entry of another replica, which may have stopped.
const ENTRY_LIMIT: Duration = Duration::from_secs(2);

impl PairHistories {
    /// The log of this replica and those of its peers.
    pub fn new(own_name: String, own: Arc<dyn IssuanceHistory>, peers: Arc<dyn PeerHistories>) -> Self {
        Self { own_name, own, peers }
    }
}

impl IssuanceHistory for PairHistories {
    fn entries(&self) -> Entries {
        let (sender, entries) = mpsc::channel(64);
        let own = PeerLog { name: self.own_name.clone(), entries: Ok(self.own.entries()) };
        let peers = Arc::clone(&self.peers);
        tokio::spawn(async move {
            if pass_on(own, &sender).await {
                for log in peers.logs().await {
                    if !pass_on(log, &sender).await {
                        return;
                    }
                }
            }
        });
        entries
    }
}

/// Passes on a log under its replica's name. Whether anybody still listens.
async fn pass_on(log: PeerLog, to: &mpsc::Sender<Result<IssuanceEntry, LogError>>) -> bool {
    let PeerLog { name, entries } = log;
    let reason = match entries {
        Err(LogError(reason)) => reason,
        Ok(mut entries) => loop {
            match timeout(ENTRY_LIMIT, entries.recv()).await {
                Ok(None) => return true,
                Ok(Some(Ok(entry))) => {
                    if to.send(Ok(IssuanceEntry { log: name.clone(), ..entry })).await.is_err() {
                        return false;
                    }
                }
                Ok(Some(Err(LogError(reason)))) => break reason,
                Err(_elapsed) => break format!("no further entry came within {ENTRY_LIMIT:?}"),
            }
        },
    };
    let missing = RecordedEvent::Missing { reason };
    to.send(Ok(IssuanceEntry { log: name, sequence: 0, event: missing })).await.is_ok()
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
