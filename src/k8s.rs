//! The edge to Kubernetes: what the pair needs from an API server, over one client. `kube` is named here alone.

pub mod bundle_places;
pub mod client;
pub mod cluster_trust_bundle;
mod following;
pub mod gateway_watch;
pub mod istio_ca_secret;
pub mod lease_store;
mod list_watch;
pub mod mesh_roots;
pub mod peer_authentications;
mod pod_containers;
pub mod pods;
pub mod policy_events;
pub mod policy_objects;
pub mod policy_watch;
pub mod root_cert_config_maps;
pub mod state_recovery;
pub mod state_store;
pub mod tls_secret;
pub mod token_request;
pub mod token_review;
