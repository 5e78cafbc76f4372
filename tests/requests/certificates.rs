//! Client certificates of authorities that the server does not know, or knows too well.

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::pki_types::CertificateDer;
use time::{Duration, OffsetDateTime};

use super::der;

/// A chain and the key of its leaf.
#[derive(Clone, Debug)]
pub(crate) struct ClientCertificate {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    /// PKCS#8.
    pub(crate) key: Vec<u8>,
}

/// An authority of the test's own.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
}

impl Authority {
    /// A root with this organization as its subject.
    pub(crate) fn root(organization: &str) -> Self {
        let (params, key) = (authority_params(organization), KeyPair::generate().unwrap());
        let certificate = params.self_signed(&key).unwrap().der().clone();
        Self { issuer: Issuer::new(params, key), certificate }
    }

    /// An intermediate below this one.
    pub(crate) fn intermediate(&self) -> Self {
        let (params, key) = (authority_params("an intermediate"), KeyPair::generate().unwrap());
        let certificate = params.signed_by(&key, &self.issuer).unwrap().der().clone();
        Self { issuer: Issuer::new(params, key), certificate }
    }

    /// Its own certificate.
    pub(crate) fn certificate(&self) -> CertificateDer<'static> {
        self.certificate.clone()
    }

    /// Certificate and key, PEM.
    pub(crate) fn pem(&self) -> [String; 2] {
        [der::pem("CERTIFICATE", &self.certificate), self.issuer.key().serialize_pem()]
    }

    /// A leaf with nothing above it in the chain.
    pub(crate) fn leaf(&self, params: &CertificateParams) -> ClientCertificate {
        let key = KeyPair::generate().unwrap();
        let leaf = params.signed_by(&key, &self.issuer).unwrap().der().clone();
        ClientCertificate { chain: vec![leaf], key: key.serialize_der() }
    }
}

/// A leaf signed by its own key.
pub(crate) fn self_signed(params: &CertificateParams) -> ClientCertificate {
    let key = KeyPair::generate().unwrap();
    let leaf = params.self_signed(&key).unwrap().der().clone();
    ClientCertificate { chain: vec![leaf], key: key.serialize_der() }
}

/// An SVID's profile with these URI names, valid from an hour ago to an hour from now.
pub(crate) fn svid(uris: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    valid(&mut params, -1, 1);
    params
}

/// Validity in hours from now.
pub(crate) fn valid(params: &mut CertificateParams, from: i64, to: i64) {
    let now = OffsetDateTime::from_unix_timestamp(super::tokens::now().try_into().unwrap()).unwrap();
    (params.not_before, params.not_after) = (now + Duration::hours(from), now + Duration::hours(to));
}

fn authority_params(organization: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, organization);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}
