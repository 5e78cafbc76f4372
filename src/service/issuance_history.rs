//! Reading the issuance logs.

use tokio::sync::mpsc;

use super::ports::LogError;
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
}

/// Entries as they are read, oldest first; a last error if reading had to stop.
pub type Entries = mpsc::Receiver<Result<IssuanceEntry, LogError>>;

/// A log, or several, that can be read while it is written.
pub trait IssuanceHistory: Send + Sync {
    /// Everything that is on record now. Reading stops when the receiver is dropped.
    fn entries(&self) -> Entries;
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
