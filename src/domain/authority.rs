//! Signing authorities, and what they issue: profile, validity, the builder, and when to renew.

mod issue;
mod leaf_profile;
pub mod renewal;
mod serving;
mod signer;
mod signing_authority;
#[cfg(test)]
mod testing;
mod validity;

pub use issue::{IssueError, IssuedSvid, issue};
pub use serving::issue_serving_certificate;
pub use signer::Signer;
pub use signing_authority::{AuthorityError, SigningAuthority};
pub use validity::{TtlBounds, TtlBoundsError, TtlError, Validity};
