//! The real binary against real peers: Envoy, go-spiffe, pilot-agent's CA client, OpenSSL.
//!
//! `python3 tests/run.py` fetches and builds the peers and then runs these tests; docs/testing.md says how to run one.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "test code: it stops at the first surprise, blocks, and has no runtime to pause"
)]

#[path = "../support/mod.rs"]
mod support;

mod all_trust_domains;
#[allow(dead_code, reason = "shared with tests/kubernetes, which uses all of it")]
mod envoy;
#[allow(dead_code, reason = "shared with tests/kubernetes, which uses all of it")]
mod envoy_config;
mod federation;
mod gateway;
mod go_spiffe;
mod load;
#[allow(dead_code, reason = "shared with tests/rotation, which uses all of it")]
#[path = "../rotation/pair.rs"]
mod pair;
mod pilot_agent;
mod root_rotation;
mod sidecar;
mod traffic;
