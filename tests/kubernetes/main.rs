//! The real binary and its edge to Kubernetes against a real API server and etcd. No kubelet and no controller runs: pods and
//! their states are written by the tests.
//!
//! `python3 tests/run.py` builds the peers and then runs these tests; docs/testing.md says how to run one.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "test code: it stops at the first surprise, blocks, and has no runtime to pause"
)]
#![allow(dead_code, reason = "what the cluster offers is for tests that come and go")]

#[path = "../support/mod.rs"]
mod support;

mod away;
mod backup;
mod cluster;
mod cluster_works;
mod distribution;
mod disturbed;
#[path = "../peers/envoy.rs"]
mod envoy;
#[path = "../peers/envoy_config.rs"]
mod envoy_config;
mod envoy_gateway;
mod faults;
mod federation;
mod gateway_secret;
mod hands;
mod istio;
mod istiod_agent;
mod istiod_source;
mod lease;
#[path = "../peers/load.rs"]
mod load;
mod many;
mod mesh;
mod network;
mod network_works;
mod pair;
mod pair_authority;
mod policy;
mod policy_objects;
mod rights;
mod root_rotation;
mod rotations;
mod state;
mod tokens;
