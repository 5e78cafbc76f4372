//! Which certificates bear DNS names beside the identity: those that the control plane serves with.

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

/// The names of certificates that the control plane serves with.
pub(super) struct ServingNames {
    /// Of the signing API's.
    pub(super) own: Vec<String>,
    /// istiod's, where this authority is the mesh's only one.
    pub(super) istiod: Option<IstiodServing>,
}

impl ServingNames {
    /// The names for an attested caller. istiod's identity is only for the certificate that a replica writes for it, and that
    /// certificate only for this identity.
    pub(super) fn names_beside(&self, caller: &Caller) -> Result<&[String], EntitlementError> {
        match (&caller.proof, &self.istiod) {
            (Proof::Istiod { .. }, Some(istiod)) if istiod.id == caller.id => Ok(&istiod.server_names),
            (Proof::Istiod { .. }, _) => Err(EntitlementError::Reserved(caller.id.clone())),
            (_, Some(istiod)) if istiod.id == caller.id => Err(EntitlementError::Reserved(caller.id.clone())),
            (Proof::Serving { .. }, _) => Ok(&self.own),
            _ => Ok(&[]),
        }
    }
}
