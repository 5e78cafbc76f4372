//! What an attested caller may hold.

use super::Caller;
use crate::domain::identity::SpiffeId;

/// Why an identity is not given. The first maps to istiod's refusal of impersonation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EntitlementError {
    /// A node proxy asks for another's identity. Ambient is out of scope, so there is nobody who may.
    #[error("{caller} may not impersonate {requested:?}: node proxies are not served")]
    Impersonation {
        /// Who asked.
        caller: SpiffeId,
        /// For what.
        requested: String,
    },
    /// An identity of the control plane, which is issued to nobody through this API.
    #[error("{0} is reserved for the control plane and is not issued on request")]
    Reserved(SpiffeId),
}

/// The one ID that `caller` may hold: its own, unless it is reserved. `impersonated` is the request's
/// `ImpersonatedIdentity`, empty if there is none; `reserved` are the IDs of this CA and of istiod.
///
/// # Errors
///
/// When another identity is asked for, or the caller's own is reserved.
pub fn entitled_id(caller: &Caller, impersonated: &str, reserved: &[SpiffeId]) -> Result<SpiffeId, EntitlementError> {
    if !impersonated.is_empty() {
        return Err(EntitlementError::Impersonation { caller: caller.id.clone(), requested: impersonated.to_owned() });
    }
    if reserved.contains(&caller.id) {
        return Err(EntitlementError::Reserved(caller.id.clone()));
    }
    Ok(caller.id.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::attestation::Proof;

    fn caller(id: &str) -> Caller {
        Caller { id: id.parse().unwrap(), proof: Proof::OwnSocket }
    }

    #[test]
    fn gives_the_callers_own_id() {
        let caller = caller("spiffe://td/ns/a/sa/b");
        assert_eq!(entitled_id(&caller, "", &[]).unwrap(), caller.id);
    }

    #[test]
    fn refuses_impersonation_even_of_oneself() {
        let caller = caller("spiffe://td/ns/a/sa/b");
        for wanted in ["spiffe://td/ns/a/sa/b", "spiffe://td/ns/a/sa/c", "x"] {
            assert!(matches!(entitled_id(&caller, wanted, &[]), Err(EntitlementError::Impersonation { .. })));
        }
    }

    #[test]
    fn refuses_reserved_ids() {
        let caller = caller("spiffe://td/ns/istio-system/sa/istiod");
        let reserved = [caller.id.clone()];
        assert_eq!(entitled_id(&caller, "", &reserved), Err(EntitlementError::Reserved(caller.id.clone())));
    }
}
