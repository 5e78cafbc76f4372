//! JSON Web Tokens as proof: key sets, and validation by pinned rules. Issuing lives here for the embedded issuer.

mod jwks;
mod mint;
mod unverified;
mod validate;

pub use jwks::{JwkError, KeySet};
pub use mint::{MintError, TokenIssuerKey};
pub use unverified::{TokenOrigin, UnverifiedToken, unverified_subject};
pub use validate::{IssuerRules, TokenClaims, TokenError, TokenIssuer};
