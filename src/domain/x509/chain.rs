//! A certificate chain and the path from it to a trust bundle.

use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::{
    ALL_VERIFICATION_ALGS, EndEntityCert, ExtendedKeyUsageValidator, KeyPurposeId, KeyPurposeIdIter, KeyUsage,
    RequiredEkuNotFoundContext,
};

use super::{Certificate, CertificateError, TrustBundle};
use crate::domain::clock::Timestamp;

/// Leaf first, then its intermediates; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateChain {
    leaf: Certificate,
    intermediates: Vec<Certificate>,
}

/// Why a chain can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// No certificate at all.
    #[error("the chain holds no certificate")]
    Empty,
    /// A certificate of it does not parse.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// RFC 5280 path validation failed; the text is the validator's.
    #[error("the chain does not verify to the trust bundle: {0}")]
    Path(String),
    /// NotBefore lies in the future.
    #[error("the certificate is valid only from {0}")]
    NotYetValid(Timestamp),
    /// NotAfter has passed.
    #[error("the certificate expired at {0}")]
    Expired(Timestamp),
}

impl CertificateChain {
    /// From certificates, leaf first.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub fn new(certificates: Vec<Certificate>) -> Result<Self, ChainError> {
        let mut certificates = certificates.into_iter();
        let leaf = certificates.next().ok_or(ChainError::Empty)?;
        Ok(Self { leaf, intermediates: certificates.collect() })
    }

    /// From DER certificates, leaf first.
    ///
    /// # Errors
    ///
    /// When there is none, or one does not parse.
    pub fn from_ders<D: AsRef<[u8]>>(ders: &[D]) -> Result<Self, ChainError> {
        let certificates: Result<_, _> = ders.iter().map(|der| Certificate::from_der(der.as_ref())).collect();
        Self::new(certificates?)
    }

    /// The leaf.
    pub const fn leaf(&self) -> &Certificate {
        &self.leaf
    }

    /// What stands between leaf and root.
    pub fn intermediates(&self) -> &[Certificate] {
        &self.intermediates
    }

    /// All, leaf first.
    pub fn iter(&self) -> impl Iterator<Item = &Certificate> {
        std::iter::once(&self.leaf).chain(&self.intermediates)
    }

    /// PEM, leaf first.
    pub fn to_pem(&self) -> String {
        self.iter().map(Certificate::to_pem).collect()
    }

    /// DER back to back, leaf first (the Workload API's encoding).
    pub fn to_der(&self) -> Vec<u8> {
        self.iter().flat_map(|certificate| certificate.der().iter().copied()).collect()
    }

    /// RFC 5280 path validation to a root of `bundle` at `now`, for TLS client and server authentication both. A root is
    /// taken for its name and key; its own validity is not looked at (RFC 5280 6.1.1 d). Whether the leaf's SPIFFE ID lies
    /// in the bundle's trust domain is the caller's to check: this looks at no names.
    ///
    /// # Errors
    ///
    /// When no path verifies. Times are looked at first, so that an expired leaf is reported as that.
    pub fn verify(&self, bundle: &TrustBundle, now: Timestamp) -> Result<(), ChainError> {
        self.leaf.check_time(now)?;
        let path = |error: webpki::Error| ChainError::Path(error.to_string());
        let leaf = CertificateDer::from(self.leaf.der());
        let intermediates: Vec<_> = self.intermediates.iter().map(|above| CertificateDer::from(above.der())).collect();
        let time = UnixTime::since_unix_epoch(now.since(Timestamp::from_micros(0)));
        EndEntityCert::try_from(&leaf)
            .map_err(path)?
            .verify_for_usage(ALL_VERIFICATION_ALGS, bundle.anchors(), &intermediates, time, BothSidesOfTls, None, None)
            .map_err(path)?;
        Ok(())
    }
}

impl Certificate {
    /// Whether `now` lies between NotBefore and NotAfter.
    ///
    /// # Errors
    ///
    /// When it does not.
    pub fn check_time(&self, now: Timestamp) -> Result<(), ChainError> {
        if now < self.not_before() {
            return Err(ChainError::NotYetValid(self.not_before()));
        }
        if now.seconds() > self.not_after().seconds() {
            return Err(ChainError::Expired(self.not_after()));
        }
        Ok(())
    }
}

/// Extended key usage of every certificate on the path: if there is any, it allows servers and clients both.
struct BothSidesOfTls;

impl ExtendedKeyUsageValidator for BothSidesOfTls {
    fn validate(&self, purposes: KeyPurposeIdIter<'_, '_>) -> Result<(), webpki::Error> {
        // id-kp-serverAuth and id-kp-clientAuth, RFC 5280 4.2.1.12.
        const SERVER: KeyPurposeId<'_> = KeyPurposeId::new(&[0x2b, 6, 1, 5, 5, 7, 3, 1]);
        const CLIENT: KeyPurposeId<'_> = KeyPurposeId::new(&[0x2b, 6, 1, 5, 5, 7, 3, 2]);
        let purposes: Vec<_> = purposes.collect::<Result<_, _>>()?;
        let missing = [(SERVER, KeyUsage::server_auth()), (CLIENT, KeyUsage::client_auth())]
            .into_iter()
            .find(|(purpose, _)| !purposes.is_empty() && !purposes.contains(purpose));
        let Some((_, required)) = missing else { return Ok(()) };
        let present = purposes.iter().map(KeyPurposeId::to_decoded_oid).collect();
        Err(webpki::Error::RequiredEkuNotFoundContext(RequiredEkuNotFoundContext { required, present }))
    }
}
