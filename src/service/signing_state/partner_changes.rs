//! Changes of what a term keeps of other trust domains.

use super::{
    federation::{MAX_FILLED_BYTES, Partners, PartnersError},
    json::encoded,
    term_state::TermState,
};
use crate::service::ports::StateError;

impl TermState {
    /// What is kept of other trust domains. Blocks.
    ///
    /// # Errors
    ///
    /// When the state can't be read.
    pub fn partners(&self) -> Result<Partners, StateError> {
        self.stored_trust()?.federation().partners()
    }

    /// Changes it; what is published follows. Blocks. Nothing is written if `change` changes nothing.
    ///
    /// # Errors
    ///
    /// Those of `change`, and when there is no room, or the state can't be written.
    pub fn change_partners<E: From<PartnersError> + From<StateError>>(
        &self,
        change: impl FnOnce(&mut Partners) -> Result<(), E>,
    ) -> Result<(), E> {
        self.change_federation(|trust| {
            let before = trust.federation().partners()?;
            let mut partners = before.clone();
            change(&mut partners)?;
            if partners == before {
                return Ok(false);
            }
            let old_size = encoded(trust)?.len();
            trust.federation_mut().set(&partners, &before)?;
            let size = encoded(trust)?.len();
            if size > MAX_FILLED_BYTES.max(old_size) {
                return Err(PartnersError::Full { size }.into());
            }
            Ok(true)
        })
    }
}
