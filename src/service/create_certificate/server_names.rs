//! Which certificates bear DNS names beside the identity: those that the control plane serves with.

use super::SigningPolicy;
use crate::domain::{
    attestation::{Caller, EntitlementError, Proof},
    identity::SpiffeId,
};

/// What istiod's own certificate is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IstiodServing {
    /// Its identity.
    pub id: SpiffeId,
    /// Its DNS names.
    pub server_names: Vec<String>,
}

impl SigningPolicy {
    /// The names for an attested caller. istiod's certificate is only for the account that is configured as istiod's.
    pub(super) fn names_beside(&self, caller: &Caller) -> Result<&[String], EntitlementError> {
        match (&caller.proof, &self.istiod) {
            (Proof::Serving { .. }, _) => Ok(&self.server_names),
            (Proof::Istiod { .. }, Some(istiod)) if istiod.id == caller.id => Ok(&istiod.server_names),
            (Proof::Istiod { .. }, _) => Err(EntitlementError::Reserved(caller.id.clone())),
            _ => Ok(&[]),
        }
    }
}
