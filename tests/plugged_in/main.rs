//! The real binary with a plugged-in signing authority: every kind of key, swaps under load, bad swaps, expiry, failover,
//! and what it refuses to start with. Certificates are made here; nothing is a fixture.

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

mod chains;
mod place;
mod start;
mod swaps;
mod trust;
