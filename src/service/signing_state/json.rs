//! How what is stored is written: as JSON, wiped once it was.

use serde::Serialize;
use zeroize::Zeroizing;

use crate::service::ports::StateError;

pub(super) fn encoded(content: &impl Serialize) -> Result<Zeroizing<Vec<u8>>, StateError> {
    serde_json::to_vec(content).map(Zeroizing::new).map_err(|error| StateError::Io(error.to_string()))
}
