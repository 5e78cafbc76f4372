//! Who a workload is: trust domains, SPIFFE IDs, and the Kubernetes service accounts that Istio maps onto them. And who a
//! replica of the pair is.

mod hint;
mod replica_id;
mod service_account;
mod spiffe_id;
mod trust_domain;

pub use hint::{Hint, HintError};
pub use replica_id::{ReplicaId, ReplicaIdError};
pub use service_account::{ServiceAccount, ServiceAccountError};
pub use spiffe_id::{SpiffeId, SpiffeIdError};
pub use trust_domain::{TrustDomain, TrustDomainError};
