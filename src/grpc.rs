//! gRPC: the signing API, the workload socket, and what replicas say to each other. Protobuf types stop here.

mod phase;
mod secret_discovery;
pub mod unix_listener;
mod workload_api;
pub mod workload_server;
