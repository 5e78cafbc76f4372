//! Replicas that have nothing in common but the network and the stored state, each with its own pair port: what they do for
//! each other, whom they let in, and what a peer that falls silent costs. In one process, over real connections; who is active
//! the tests say.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "test code: it stops at the first surprise"
)]

mod forwarding;
mod leaving;
mod operators;
mod proxy;
mod replica;
mod silence;
mod store;
