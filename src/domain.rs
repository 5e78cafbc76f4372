//! The pure core. What lives here takes time, randomness and bytes as arguments; it never fetches them.

pub mod attestation;
pub mod authority;
pub mod bundle;
pub mod clock;
pub mod identity;
pub mod issuance;
pub mod jwt;
pub mod leadership;
pub mod object_version;
pub mod pace;
pub mod policy;
pub mod random;
pub mod upstream;
pub mod x509;
