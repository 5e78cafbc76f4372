//! What several integration tests need: processes that end with their test, ports, waiting, certificates.
//!
//! It is a folder with a `mod.rs` because cargo takes each file directly under `tests/` for a test of its own.

#![allow(dead_code, reason = "each test binary uses its own part of this")]
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "test code: it stops at the first surprise, blocks, and has no runtime to pause"
)]

pub(crate) mod ago;
pub(crate) mod authority;
pub(crate) mod caller;
pub(crate) mod certificate;
pub(crate) mod collector;
pub(crate) mod countersign;
pub(crate) mod http;
pub(crate) mod issuance;
pub(crate) mod load;
pub(crate) mod mount;
pub(crate) mod observe;
pub(crate) mod openssl;
pub(crate) mod peer;
pub(crate) mod process;
pub(crate) mod service;
pub(crate) mod sidecar;
pub(crate) mod svid_set;
pub(crate) mod swaps;
pub(crate) mod wait;
pub(crate) mod workers;
pub(crate) mod workload_api;
