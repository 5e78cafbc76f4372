//! Certificates as this project reads and checks them: requests, chains, bundles, SVIDs, and the lint that every issued
//! certificate passes. Building one is `authority`'s; nothing here signs a certificate.

mod certificate;
mod chain;
mod csr;
pub mod lint;
pub mod pem;
mod private_key;
mod serial;
mod svid;
mod trust_bundle;

pub use certificate::{Certificate, CertificateError};
pub use chain::{CertificateChain, ChainError};
pub use csr::{CsrError, VerifiedCsr};
pub use private_key::{KeyAlgorithm, PrivateKey, PrivateKeyError};
pub use serial::SerialNumber;
pub use svid::{SvidError, X509Svid};
pub use trust_bundle::{BundleError, TrustBundle};
