//! Signing authorities, and what they issue: profile, validity, the builder, when to renew, and how one authority takes the
//! place of another.

mod issue;
mod leaf_profile;
mod pair_authority;
mod plugged_in;
pub mod renewal;
pub mod rotation;
mod signer;
mod signing_authority;
#[cfg(test)]
pub(crate) mod testing;
mod validity;

pub use issue::{IssueError, IssuedSvid, Subject, issue};
pub use pair_authority::PairAuthority;
pub use plugged_in::{AuthorityFiles, Layout, PluggedInError};
pub use signer::Signer;
pub use signing_authority::{AuthorityError, SigningAuthority, authority_id};
pub use validity::{TtlBounds, TtlBoundsError, TtlError, Validity};
