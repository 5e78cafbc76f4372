//! HTTP: health and metrics on the admin port, and the version that istiod says.

pub mod admin;
mod connections;
pub mod istiod_version;
