//! The use cases, and the ports that the edges implement for them. Asynchronous, but without sockets, files or a
//! foreign protocol.

pub mod ports;
pub mod svid_publisher;
