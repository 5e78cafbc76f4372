//! Time, randomness and an authority for tests.

use std::time::Duration;

use rcgen::CertificateParams;
use ring::rand::SecureRandom as _;

use super::SigningAuthority;
use crate::domain::{
    clock::Timestamp,
    random::{RandomUnavailable, SecureRandom},
    x509::{Certificate, PrivateKey},
};

/// Not a whole second, as no clock's reading is.
pub(crate) const NOW: Timestamp = Timestamp::from_micros(1_795_348_800_654_321);

#[derive(Debug)]
pub(crate) struct TestRandom;

impl SecureRandom for TestRandom {
    #[expect(clippy::disallowed_methods, reason = "tests draw real randomness where its value doesn't matter")]
    fn fill(&self, bytes: &mut [u8]) -> Result<(), RandomUnavailable> {
        ring::rand::SystemRandom::new().fill(bytes).or(Err(RandomUnavailable))
    }
}

/// A root of `cluster.local`, good for ten days.
pub(crate) fn authority() -> SigningAuthority {
    let lifetime = Duration::from_secs(864_000);
    SigningAuthority::self_signed(&"cluster.local".parse().unwrap(), lifetime, NOW, &TestRandom).unwrap().0
}

impl SigningAuthority {
    /// Signs whatever a test asks for, by no profile and without the lint.
    pub(crate) fn sign_anything(&self, params: CertificateParams) -> Certificate {
        let key = PrivateKey::generate_p256().unwrap();
        Certificate::from_der(&self.sign(params, key.key_pair().as_ref()).unwrap()).unwrap()
    }
}

/// For the builder of certificates.
pub(crate) fn date(time: Timestamp) -> time::OffsetDateTime {
    super::leaf_profile::date(time).unwrap()
}
