//! The workload socket from outside: the publisher over a certificate authority that misbehaves on demand, and real
//! clients on a real Unix socket.

#[cfg(test)]
mod accepted;
#[cfg(test)]
mod many_streams;
#[cfg(test)]
mod publisher;
#[cfg(test)]
mod secret_discovery;
#[cfg(test)]
mod support;
#[cfg(test)]
mod trust;
#[cfg(test)]
mod workload_api;
#[allow(dead_code, reason = "its sockets are connected to by their own part")]
#[cfg(test)]
#[path = "../support/workload_api.rs"]
mod workload_api_client;
