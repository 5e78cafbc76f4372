//! The command line: what prints, and in which form.

pub mod authority;
pub mod federation;
pub mod gateway;
pub mod inspect;
pub mod issuance;
pub mod passphrase;
pub mod policy;
pub mod render;
