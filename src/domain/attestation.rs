//! Proving who (attestation) and what that one may hold (entitlement): two steps, kept apart.

mod attest;
mod caller;
mod denied;
mod entitlement;
mod evidence;
mod review;

pub use attest::{AttestationError, ClusterWord, UnfinishedPods, Verifiers, attest};
pub use caller::{Caller, Pod, Proof};
pub use denied::{Denial, Denied, Reason, ReasonError, Subject as DeniedSubject};
pub use entitlement::{EntitlementError, entitled_id};
pub use evidence::{Evidence, OwnIdentity};
pub use review::{ReviewError, ReviewRules, ReviewStatus, ReviewedAccount};
