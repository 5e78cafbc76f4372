//! HTTP: health and metrics on the admin port, the trust bundle for others on a port of its own and theirs from where they have
//! it, and the version that istiod says.

pub mod admin;
pub mod bundle_client;
pub mod bundle_endpoint;
mod connections;
pub mod istiod_version;
mod tls_connections;
