//! Proving who (attestation) and what that one may hold (entitlement): two steps, kept apart.

mod attest;
mod caller;
mod denied;
mod entitlement;
mod evidence;

pub use attest::{AttestationError, Verifiers, attest};
pub use caller::{Caller, Proof};
pub use denied::{Denial, Denied, Reason, ReasonError, Subject as DeniedSubject};
pub use entitlement::{EntitlementError, entitled_id};
pub use evidence::{Evidence, OwnIdentity};
