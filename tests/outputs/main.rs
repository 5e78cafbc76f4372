//! `countersign agent --output-dir`: the real binary and the files that it keeps, killed at random instants, without room,
//! without rights. No test here needs a peer.

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

mod agent;
mod crashes;
mod files;
mod full;
