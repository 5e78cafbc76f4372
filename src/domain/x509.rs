//! Certificates as this project reads and checks them: requests, chains, bundles, SVIDs, and the lint that every issued
//! certificate passes. Building one is `authority`'s; nothing here signs a certificate.

mod certificate;
mod chain;
mod csr;
pub(in crate::domain) mod der;
mod key_pair;
pub mod lint;
pub mod pem;
mod private_key;
mod public_jwk;
mod public_key;
mod revocation_lists;
mod serial;
mod svid;
#[cfg(test)]
pub(in crate::domain) mod testing;
mod trust_bundle;

pub use certificate::{Certificate, CertificateError};
pub use chain::{CertificateChain, ChainError};
pub use csr::{CsrError, VerifiedCsr};
pub(in crate::domain) use key_pair::KeyPair;
pub use private_key::{PrivateKey, PrivateKeyError};
pub use public_key::KeyAlgorithm;
pub(in crate::domain) use public_key::PublicKey;
pub use revocation_lists::{RevocationListError, RevocationLists};
pub use serial::{SerialNumber, SerialNumberError};
pub use svid::{SvidError, X509Svid};
pub use trust_bundle::{BundleError, TrustBundle};
