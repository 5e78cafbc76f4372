//! Whom the pair believes in a cluster: tokens that the API server reviews, and certificates that are renewed while their
//! service account has a pod. The use case and its edge to Kubernetes in one process, with the shipped rights; in [`wire`]
//! the real replicas.

mod away;
mod certificate_rows;
mod flood;
pub(crate) mod forged;
mod kept;
mod row;
mod stranger;
mod table;
mod token_rows;
mod wire;
mod world;
