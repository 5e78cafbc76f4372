//! The use cases, and the ports that the edges implement for them. Asynchronous, but without sockets, files or a
//! foreign protocol.

pub mod active_search;
pub mod authority_backup;
pub mod authority_export;
pub mod bundle_distribution;
pub mod ca_roots;
pub mod caller_attestation;
pub mod causes;
pub mod context_acceptance;
pub mod create_certificate;
pub mod denial;
pub mod file_output;
mod flights;
pub mod gateway_plans;
pub mod gateway_reaches;
pub mod gateway_secrets;
pub mod issuance_history;
pub mod istio_versions;
pub mod istiod_pass_on;
pub mod leadership;
pub mod lease_term;
pub mod line_limit;
#[cfg(feature = "kubernetes")]
pub(crate) mod mesh_trust;
pub mod metrics;
pub mod own_identity;
pub mod plugged_in_authority;
pub mod policy_enforcement;
pub mod policy_follower;
pub mod policy_objects;
pub mod policy_publisher;
pub mod policy_view;
pub mod ports;
pub mod readiness;
pub mod replica_identity;
mod room;
pub mod signing_session;
pub mod signing_state;
pub mod socket_output;
pub mod state_condition;
pub mod state_manifest;
pub mod svid_publisher;
pub mod token_reviews;
pub mod under_way;
