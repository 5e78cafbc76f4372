//! The edge to Kubernetes: what the pair needs from an API server, over one client. `kube` is named here alone.

pub mod client;
pub mod istio_ca_secret;
pub mod lease_store;
pub mod pods;
pub mod state_recovery;
pub mod state_store;
pub mod token_review;
