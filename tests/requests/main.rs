//! Requests that must be refused, and good ones between them, against the real `countersign serve` over real TLS.
//!
//! [`row`] is what a row says, the `*_rows` modules are the table, [`table`] runs it; [`transport`] is about what does not
//! become a request at all.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::too_many_lines,
    clippy::unwrap_used,
    reason = "test code: it stops at the first surprise, blocks, has no runtime to pause, and a table is as long as it is"
)]

#[path = "../support/mod.rs"]
mod support;

mod certificate_rows;
mod certificates;
mod csr;
mod csr_rows;
mod der;
mod facts;
mod flood;
mod own_root;
mod request_rows;
mod row;
mod server;
mod table;
mod token_rows;
mod tokens;
mod transport;
