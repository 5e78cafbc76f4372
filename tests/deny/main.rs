//! `countersign issuance deny`: [`state`] tests the use case with the real state store, [`replicas`] the real binary as a
//! pair.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "test code: it stops at the first surprise, blocks, and has no runtime to pause"
)]

#[path = "../support/mod.rs"]
mod support;

#[path = "../pair/caller.rs"]
#[allow(dead_code, reason = "shared with tests/pair, which uses all of it")]
mod caller;
#[path = "../pair/pair.rs"]
#[allow(dead_code, reason = "shared with tests/pair, which uses all of it")]
mod pair;

mod client;
mod command;
mod replicas;
mod state;
