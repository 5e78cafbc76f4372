//! JSON Web Tokens: as proof, with key sets and validation by pinned rules, and as SVIDs. Issuing lives here for the embedded
//! issuer.

mod audiences;
mod compact_jws;
mod es256;
mod jwks;
mod jwt_authority;
mod jwt_signer;
mod jwt_svid;
mod mint;
#[cfg(test)]
pub(in crate::domain) mod testing;
mod unverified;
mod validate;

pub use audiences::{Audiences, AudiencesError, PROOF_AUDIENCE};
pub use compact_jws::{CompactJws, JwsError};
pub use es256::MintError;
pub use jwks::{JwkError, KeySet};
pub use jwt_authority::{JwtAuthority, JwtAuthorityError};
pub use jwt_signer::JwtSigner;
pub use jwt_svid::{JwtAuthorities, JwtSvid, JwtSvidError};
pub use mint::TokenIssuerKey;
pub use unverified::{TokenOrigin, UnverifiedToken, unverified_subject};
pub use validate::{IssuerRules, TokenClaims, TokenError, TokenIssuer};
