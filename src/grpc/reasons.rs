//! Why an operator does something, as it was sent.

use tonic::Status;

use crate::domain::attestation::Reason;

pub(super) fn reason_of(text: &str) -> Result<Reason, Status> {
    text.parse().map_err(|error| Status::invalid_argument(format!("reason: {error}")))
}

/// Empty if none was given.
pub(super) fn optional_reason(text: &str) -> Result<Option<Reason>, Status> {
    if text.is_empty() { Ok(None) } else { reason_of(text).map(Some) }
}
