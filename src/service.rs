//! The use cases, and the ports that the edges implement for them. Asynchronous, but without sockets, files or a
//! foreign protocol.

pub mod metrics;
pub mod ports;
pub mod readiness;
pub mod svid_publisher;
