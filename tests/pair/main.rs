//! The real binary as a pair: failover, leaving, a stopped active, kills at random instants, damage, ports, start, secrets.
//! No test here needs a peer. `-- --nocapture` shows the measured tables.

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

mod caller;
mod crashes;
mod damage;
mod failover;
mod identities;
mod jwt;
mod leaving;
mod load;
mod pair;
mod ports;
mod recovered;
mod secrets;
mod shared_socket;
mod socket;
mod start;
mod stopped;
mod traces;
mod turn;
