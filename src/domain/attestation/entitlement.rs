//! What an attested caller may hold.

use super::{Caller, Denied, Proof, Reason};
use crate::domain::identity::SpiffeId;

/// Why an identity is not given. A denied one gets the answer of a caller that nobody knows, the others istiod's refusal
/// of impersonation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EntitlementError {
    /// A node proxy asks for another's identity. Ambient is out of scope, so there is nobody who may.
    #[error("{caller} may not impersonate {requested:?}: node proxies are not served")]
    Impersonation {
        /// Who asked.
        caller: SpiffeId,
        /// For what; its beginning.
        requested: String,
    },
    /// An identity of the control plane, which is issued to nobody through this API.
    #[error("{0} is reserved for the control plane and is not issued on request")]
    Reserved(SpiffeId),
    /// An operator has denied the identity.
    #[error("{id} is denied: {reason}")]
    Denied {
        /// The caller's ID.
        id: SpiffeId,
        /// The operator's words.
        reason: Reason,
    },
}

/// The one ID that `caller` may hold: its own, unless it is reserved or denied. `impersonated` is the request's
/// `ImpersonatedIdentity`, empty if there is none; `reserved` are the IDs of this CA and of istiod, which are given only
/// when a replica itself asks for istiod's certificate.
///
/// # Errors
///
/// When another identity is asked for, or the caller's own is reserved or denied.
pub fn entitled_id(
    caller: &Caller,
    impersonated: &str,
    reserved: &[SpiffeId],
    denied: &Denied,
) -> Result<SpiffeId, EntitlementError> {
    if !impersonated.is_empty() {
        return Err(EntitlementError::Impersonation { caller: caller.id.clone(), requested: shown(impersonated) });
    }
    if reserved.contains(&caller.id) && !matches!(caller.proof, Proof::Istiod { .. }) {
        return Err(EntitlementError::Reserved(caller.id.clone()));
    }
    if let Some(denial) = denied.identity(&caller.id) {
        return Err(EntitlementError::Denied { id: caller.id.clone(), reason: denial.reason.clone() });
    }
    Ok(caller.id.clone())
}

/// Bounded: the text is the sender's, and ends in a log.
fn shown(requested: &str) -> String {
    requested.chars().take(256).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{
        attestation::{Denial, DeniedSubject},
        clock::Timestamp,
    };

    fn caller(id: &str) -> Caller {
        Caller { id: id.parse().unwrap(), proof: Proof::OwnSocket { replica: String::new() } }
    }

    #[test]
    fn gives_the_callers_own_id() {
        let caller = caller("spiffe://td/ns/a/sa/b");
        assert_eq!(entitled_id(&caller, "", &[], &Denied::default()).unwrap(), caller.id);
    }

    #[test]
    fn refuses_impersonation_even_of_oneself() {
        let caller = caller("spiffe://td/ns/a/sa/b");
        for wanted in ["spiffe://td/ns/a/sa/b", "spiffe://td/ns/a/sa/c", "x"] {
            let answer = entitled_id(&caller, wanted, &[], &Denied::default());
            assert!(matches!(answer, Err(EntitlementError::Impersonation { .. })));
        }
    }

    #[test]
    fn a_caller_does_not_decide_the_length_of_what_is_said_of_it() {
        let caller = caller("spiffe://td/ns/a/sa/b");
        for letter in ["x", "ß", "\u{1}"] {
            let refused = entitled_id(&caller, &letter.repeat(3 << 20), &[], &Denied::default()).unwrap_err();
            assert!(refused.to_string().len() < 2048, "{letter:?}");
        }
    }

    #[test]
    fn refuses_reserved_ids() {
        let caller = caller("spiffe://td/ns/istio-system/sa/istiod");
        let reserved = [caller.id.clone()];
        let answer = entitled_id(&caller, "", &reserved, &Denied::default());
        assert_eq!(answer, Err(EntitlementError::Reserved(caller.id.clone())));
        let own = Caller { proof: Proof::Istiod { replica: String::new() }, ..caller };
        assert_eq!(entitled_id(&own, "", &reserved, &Denied::default()), Ok(own.id.clone()));
    }

    #[test]
    fn refuses_denied_ids_with_the_operators_reason_whatever_the_proof() {
        let reason: Reason = "node lost".parse().unwrap();
        let denial = Denial { reason: reason.clone(), since: Timestamp::from_seconds(0), actor_uid: 0 };
        let mut caller = caller("spiffe://td/ns/a/sa/b");
        let denied = Denied::from_iter([(DeniedSubject::Identity(caller.id.clone()), denial)]);
        for proof in [
            Proof::OwnSocket { replica: String::new() },
            Proof::Token { issuer: "i".into() },
            Proof::Certificate { serial: "01".into() },
            Proof::AssertedCertificate { serial: "01".into(), replica: "r".into() },
        ] {
            caller.proof = proof;
            let refusal = EntitlementError::Denied { id: caller.id.clone(), reason: reason.clone() };
            assert_eq!(entitled_id(&caller, "", &[], &denied), Err(refusal));
        }
        caller.id = "spiffe://td/ns/a/sa/c".parse().unwrap();
        assert_eq!(entitled_id(&caller, "", &[], &denied), Ok(caller.id.clone()));
    }
}
