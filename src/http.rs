//! HTTP: health and metrics on the admin port.

pub mod admin;
mod connections;
