//! One record of the issuance log as bytes: JSON in a frame, whose place is the record's number.

use serde::{Deserialize, Serialize};

use super::frame::{self, FrameError};
use crate::domain::{
    attestation::{Pod, Proof},
    clock::Timestamp,
    issuance::{Issuance, IssuanceEvent},
    leadership::Term,
};

const FORMAT: u16 = 1;

/// An event as it stands in a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoggedEvent {
    /// Its number in its log: from 1 without gaps.
    pub sequence: u64,
    /// When it was written.
    pub recorded_at: Timestamp,
    /// What happened.
    pub event: IssuanceEvent,
}

pub(super) fn encode(record: &LoggedEvent) -> Result<Vec<u8>, FrameError> {
    let stored = Stored { recorded_at: record.recorded_at.micros(), event: StoredEvent::from(&record.event) };
    let json = serde_json::to_vec(&stored).map_err(content)?;
    Ok(frame::seal(FORMAT, &record.sequence.to_be_bytes(), &json).to_vec())
}

pub(super) fn decode(sequence: u64, bytes: &[u8]) -> Result<LoggedEvent, FrameError> {
    let json = frame::open(FORMAT, &sequence.to_be_bytes(), bytes)?;
    let stored: Stored = serde_json::from_slice(json).map_err(content)?;
    let event = stored.event.try_into()?;
    Ok(LoggedEvent { sequence, recorded_at: Timestamp::from_micros(stored.recorded_at), event })
}

fn content(error: impl ToString) -> FrameError {
    FrameError::Content(error.to_string())
}

/// Times are microseconds since the epoch. A change of these types is a new format.
#[derive(Serialize, Deserialize)]
struct Stored {
    recorded_at: i64,
    #[serde(flatten)]
    event: StoredEvent,
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum StoredEvent {
    Issued {
        signed_at: i64,
        term: u64,
        replica: String,
        authority: String,
        id: String,
        serial: String,
        not_before: i64,
        not_after: i64,
        proof: StoredProof,
    },
    Withheld {
        serial: String,
        term: u64,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum StoredProof {
    Token { issuer: String },
    ReviewedToken { cluster: String, pod: Option<StoredPod> },
    Certificate { serial: String },
    AssertedCertificate { serial: String, replica: String },
    OwnSocket { replica: String },
    Serving { replica: String },
    Istiod { replica: String },
    GatewaySecret { replica: String },
}

#[derive(Serialize, Deserialize)]
struct StoredPod {
    name: String,
    uid: String,
}

impl From<&IssuanceEvent> for StoredEvent {
    fn from(event: &IssuanceEvent) -> Self {
        match event.clone() {
            IssuanceEvent::Withheld { serial, term } => Self::Withheld { serial, term: term.number() },
            IssuanceEvent::Issued(issuance) => Self::Issued {
                signed_at: issuance.signed_at.micros(),
                term: issuance.term.number(),
                replica: issuance.replica,
                authority: issuance.authority,
                id: issuance.id.to_string(),
                serial: issuance.serial,
                not_before: issuance.not_before.micros(),
                not_after: issuance.not_after.micros(),
                proof: issuance.proof.into(),
            },
        }
    }
}

impl TryFrom<StoredEvent> for IssuanceEvent {
    type Error = FrameError;

    fn try_from(event: StoredEvent) -> Result<Self, FrameError> {
        Ok(match event {
            StoredEvent::Withheld { serial, term } => Self::Withheld { serial, term: Term::new(term) },
            StoredEvent::Issued { signed_at, term, replica, authority, id, serial, not_before, not_after, proof } => {
                Self::Issued(Issuance {
                    signed_at: Timestamp::from_micros(signed_at),
                    term: Term::new(term),
                    replica,
                    authority,
                    id: id.parse().map_err(content)?,
                    serial,
                    not_before: Timestamp::from_micros(not_before),
                    not_after: Timestamp::from_micros(not_after),
                    proof: proof.into(),
                })
            }
        })
    }
}

impl From<Proof> for StoredProof {
    fn from(proof: Proof) -> Self {
        match proof {
            Proof::Token { issuer } => Self::Token { issuer },
            Proof::ReviewedToken { cluster, pod } => {
                Self::ReviewedToken { cluster, pod: pod.map(|Pod { name, uid }| StoredPod { name, uid }) }
            }
            Proof::Certificate { serial } => Self::Certificate { serial },
            Proof::AssertedCertificate { serial, replica } => Self::AssertedCertificate { serial, replica },
            Proof::OwnSocket { replica } => Self::OwnSocket { replica },
            Proof::Serving { replica } => Self::Serving { replica },
            Proof::Istiod { replica } => Self::Istiod { replica },
            Proof::GatewaySecret { replica } => Self::GatewaySecret { replica },
        }
    }
}

impl From<StoredProof> for Proof {
    fn from(proof: StoredProof) -> Self {
        match proof {
            StoredProof::Token { issuer } => Self::Token { issuer },
            StoredProof::ReviewedToken { cluster, pod } => {
                Self::ReviewedToken { cluster, pod: pod.map(|StoredPod { name, uid }| Pod { name, uid }) }
            }
            StoredProof::Certificate { serial } => Self::Certificate { serial },
            StoredProof::AssertedCertificate { serial, replica } => Self::AssertedCertificate { serial, replica },
            StoredProof::OwnSocket { replica } => Self::OwnSocket { replica },
            StoredProof::Serving { replica } => Self::Serving { replica },
            StoredProof::Istiod { replica } => Self::Istiod { replica },
            StoredProof::GatewaySecret { replica } => Self::GatewaySecret { replica },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn issued(proof: Proof) -> IssuanceEvent {
        IssuanceEvent::Issued(Issuance {
            signed_at: Timestamp::from_micros(1_795_000_000_123_456),
            term: Term::new(3),
            replica: "replica-0-0a0b0c0d".into(),
            authority: "6f1e".into(),
            id: "spiffe://cluster.local/ns/default/sa/gateway".parse().unwrap(),
            serial: "4a5b".into(),
            not_before: Timestamp::from_seconds(1_795_000_000),
            not_after: Timestamp::from_seconds(1_795_003_600),
            proof,
        })
    }

    #[test]
    fn every_event_comes_back_as_it_went() {
        let events = [
            issued(Proof::Token { issuer: "https://issuer".into() }),
            issued(Proof::ReviewedToken { cluster: "Kubernetes".into(), pod: None }),
            issued(Proof::ReviewedToken { cluster: "Kubernetes".into(), pod: Some(pod()) }),
            issued(Proof::Certificate { serial: "1".into() }),
            issued(Proof::AssertedCertificate { serial: "1".into(), replica: "replica-1-0".into() }),
            issued(Proof::OwnSocket { replica: "replica-0-1".into() }),
            issued(Proof::Serving { replica: "replica-0-1".into() }),
            issued(Proof::Istiod { replica: "replica-0-1".into() }),
            issued(Proof::GatewaySecret { replica: "replica-0-1".into() }),
            IssuanceEvent::Withheld { serial: "4a5b".into(), term: Term::new(3) },
        ];
        for event in events {
            let record = LoggedEvent { sequence: 9, recorded_at: Timestamp::from_micros(-1), event };
            let bytes = encode(&record).unwrap();
            assert_eq!(decode(9, &bytes).unwrap(), record);
            assert_eq!(decode(8, &bytes), Err(FrameError::Checksum));
        }
    }

    fn pod() -> Pod {
        Pod { name: "gateway-0".into(), uid: "5a1c".into() }
    }

    #[test]
    fn the_pod_of_a_reviewed_token_stands_there() {
        let event = issued(Proof::ReviewedToken { cluster: "Kubernetes".into(), pod: Some(pod()) });
        let bytes = encode(&LoggedEvent { sequence: 1, recorded_at: Timestamp::from_micros(5), event }).unwrap();
        let proof =
            r#""proof":{"kind":"reviewed_token","cluster":"Kubernetes","pod":{"name":"gateway-0","uid":"5a1c"}}}"#;
        assert!(std::str::from_utf8(&bytes[34..]).unwrap().ends_with(proof));
    }

    /// What stands in logs must stay readable.
    #[test]
    fn the_format_is_fixed() {
        let record = LoggedEvent {
            sequence: 1,
            recorded_at: Timestamp::from_micros(5),
            event: issued(Proof::Token { issuer: "i".into() }),
        };
        let bytes = encode(&record).unwrap();
        let json = concat!(
            r#"{"recorded_at":5,"event":"issued","signed_at":1795000000123456,"term":3,"replica":"replica-0-0a0b0c0d","#,
            r#""authority":"6f1e","id":"spiffe://cluster.local/ns/default/sa/gateway","serial":"4a5b","#,
            r#""not_before":1795000000000000,"not_after":1795003600000000,"proof":{"kind":"token","issuer":"i"}}"#
        );
        assert_eq!(std::str::from_utf8(&bytes[34..]).unwrap(), json);
    }
}
