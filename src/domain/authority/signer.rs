//! The handle through which every certificate is signed. A key in memory today; a remote signer fits the same place.

use super::AuthorityError;
use crate::domain::x509::PrivateKey;

/// Signs with one authority's key.
#[derive(Debug)]
pub struct Signer {}

impl Signer {
    /// Over a key in memory.
    ///
    /// # Errors
    ///
    /// When the key is of a kind that can't sign certificates here.
    pub fn new(_key: &PrivateKey) -> Result<Self, AuthorityError> {
        todo!()
    }
}
