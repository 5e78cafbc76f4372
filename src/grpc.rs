//! gRPC: the signing API, the workload socket, and what replicas say to each other. Protobuf types stop here.

mod authentication;
pub mod authority_service;
mod begun;
pub mod ca_client;
pub mod ca_server;
mod certificate_service;
mod denial_messages;
mod issuance_messages;
pub mod istiod_client;
pub mod known_peers;
pub mod operator_client;
mod operator_service;
pub mod own_at_istiod;
mod pair_channels;
pub mod pair_client;
pub mod pair_server;
mod pair_service;
pub mod pair_tls;
mod pass_on_service;
mod phase;
pub mod policy_client;
mod policy_messages;
mod policy_service;
mod raw_message;
mod reflection;
mod rustls_parts;
mod secret_discovery;
pub mod self_handshake;
pub mod server_tls;
mod status;
#[cfg(test)]
mod testing;
mod tls_listener;
pub mod unix_listener;
mod workload_api;
pub mod workload_server;
