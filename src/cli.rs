//! The command line: what prints, and in which form.

pub mod issuance;
