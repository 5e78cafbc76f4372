//! What is put on record for each certificate, before it leaves.

use super::{attestation::Proof, clock::Timestamp, identity::SpiffeId, leadership::Term};

/// One line of the issuance log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IssuanceEvent {
    /// A certificate was signed.
    Issued(Issuance),
    /// The certificate with this serial, signed before, was not sent: its term had ended when it was on record.
    Withheld {
        /// Hex.
        serial: String,
        /// The term that had ended.
        term: Term,
    },
}

/// A certificate that was signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issuance {
    /// The instant of the signature.
    pub signed_at: Timestamp,
    /// The signer's term.
    pub term: Term,
    /// The signing replica.
    pub replica: String,
    /// The signing authority.
    pub authority: String,
    /// To whom.
    pub id: SpiffeId,
    /// Hex.
    pub serial: String,
    /// NotBefore.
    pub not_before: Timestamp,
    /// NotAfter.
    pub not_after: Timestamp,
    /// On what proof.
    pub proof: Proof,
}
