//! Countersign: a certificate authority and identity sidecar for gateways that stand outside an Istio service mesh.
//!
//! `domain` is pure: synchronous, without I/O, clock or randomness of its own. `service` holds the use cases and the
//! ports they need. The edges (`grpc`, `http`, `k8s`, `storage`, `cli`) implement ports and never name each other. `runtime`
//! wires everything. `tests/architecture.rs` holds the tree to these arrows; `docs/architecture.md` draws them.

pub mod domain;

#[cfg(feature = "server")]
pub mod cli;
#[cfg(feature = "server")]
pub mod grpc;
#[cfg(feature = "server")]
pub mod http;
#[cfg(feature = "kubernetes")]
pub mod k8s;
#[cfg(feature = "server")]
pub mod proto;
#[cfg(feature = "server")]
pub mod runtime;
#[cfg(feature = "server")]
pub mod service;
#[cfg(feature = "server")]
pub mod storage;
