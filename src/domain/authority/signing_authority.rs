//! A signing authority: CA certificate, key, what stands above it, and the bundle it is published under.

use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyUsagePurpose, PublicKeyData,
    SanType,
};
use ring::digest::{SHA256, digest};

use super::{IssueError, Signer, Validity, leaf_profile, validity::BACKDATING};
use crate::domain::{
    clock::Timestamp,
    identity::TrustDomain,
    random::SecureRandom,
    x509::{Certificate, CertificateChain, PrivateKey, SerialNumber, TrustBundle, lint},
};

/// Everything that signing needs, worked out once: nothing of this is parsed or encoded per request.
#[derive(Debug)]
pub struct SigningAuthority {
    certificate: Certificate,
    issuer: Issuer<'static, Signer>,
    chain: Vec<Certificate>,
    bundle: TrustBundle,
    id: String,
    response_tail: Vec<String>,
}

/// Why material is not a signing authority.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthorityError {
    /// The certificate may not sign certificates.
    #[error("certificate is not authorized to sign other certificates: {0}")]
    NotAuthority(String),
    /// The key is not the certificate's.
    #[error("the private key does not belong to the signing certificate")]
    Key,
    /// The chain does not lead to the bundle.
    #[error("the signing certificate does not verify to the trust bundle: {0}")]
    Chain(String),
    /// Building the root failed.
    #[error("the root certificate could not be made: {0}")]
    Build(String),
}

impl SigningAuthority {
    /// A new self-signed root with an ECDSA P-256 key: subject `O=<trust domain>`, keyCertSign and cRLSign, CA without path
    /// length, a subject key identifier, `spiffe://TD` as URI name (X509-SVID 4.1), valid from `now` minus two minutes for
    /// `lifetime`. Returns the key beside it, for the store.
    ///
    /// # Errors
    ///
    /// When randomness or signing fails.
    pub fn self_signed(
        trust_domain: &TrustDomain,
        lifetime: Duration,
        now: Timestamp,
        random: &dyn SecureRandom,
    ) -> Result<(Self, PrivateKey), AuthorityError> {
        Self::self_signed_with(trust_domain, lifetime, now, random, |_as_it_is| {})
    }

    /// The same, with whatever `change` makes of its certificate.
    pub(super) fn self_signed_with(
        trust_domain: &TrustDomain,
        lifetime: Duration,
        now: Timestamp,
        random: &dyn SecureRandom,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Result<(Self, PrivateKey), AuthorityError> {
        let key = PrivateKey::generate_p256().map_err(build)?;
        let serial = SerialNumber::random(random).map_err(build)?;
        let mut params = root_params(trust_domain, lifetime, now, &serial)?;
        change(&mut params);
        let root = params.self_signed(&Signer::new(&key)).map_err(build)?;
        let root = Certificate::from_der(root.der()).map_err(build)?;
        let bundle = TrustBundle::new(trust_domain.clone(), vec![root.clone()]).map_err(build)?;
        Ok((Self::from_parts(root, &key, Vec::new(), bundle, now)?, key))
    }

    /// From stored or plugged-in material: signing certificate, its key, the certificates to send above a leaf (which must
    /// begin with the signing certificate unless that is itself a root of `bundle`), and the bundle. Everything is checked:
    /// key against certificate, CA flags, the path to the bundle at `now`.
    ///
    /// # Errors
    ///
    /// When something doesn't fit.
    pub fn from_parts(
        certificate: Certificate,
        key: &PrivateKey,
        chain: Vec<Certificate>,
        bundle: TrustBundle,
        now: Timestamp,
    ) -> Result<Self, AuthorityError> {
        if let Some(finding) = lint::check_authority(certificate.der()).first() {
            return Err(AuthorityError::NotAuthority(finding.to_string()));
        }
        if key.public_key_info() != certificate.public_key_info() {
            return Err(AuthorityError::Key);
        }
        certificate.check_time(now).map_err(|error| AuthorityError::Chain(error.to_string()))?;
        if !bundle.roots().contains(&certificate) && chain.first() != Some(&certificate) {
            return Err(AuthorityError::Chain("it is no root, and the chain does not begin with it".into()));
        }
        let issuer = Issuer::from_ca_cert_der(&certificate.der().into(), Signer::new(key))
            .map_err(|error| AuthorityError::NotAuthority(format!("its subject can't be read: {error}")))?;
        let id = authority_id(&certificate);
        let response_tail = chain.iter().map(Certificate::to_pem).chain([bundle.to_pem()]).collect();
        let authority = Self { certificate, issuer, chain, bundle, id, response_tail };
        authority.check_path(now)?;
        Ok(authority)
    }

    /// The signing certificate.
    pub const fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// What is sent above a leaf, the signing certificate first; empty if that is itself a root.
    pub fn chain(&self) -> &[Certificate] {
        &self.chain
    }

    /// What its SVIDs are verified against.
    pub const fn bundle(&self) -> &TrustBundle {
        &self.bundle
    }

    /// Hex of the signing certificate's subject key identifier (or of its key's SHA-256, if it has none): how operators
    /// name this authority.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The PEM elements that follow a leaf in a response: each intermediate as one element, and last the whole bundle
    /// (spec: chain layout that pilot-agent and ztunnel read). Encoded once.
    pub fn response_tail(&self) -> &[String] {
        &self.response_tail
    }

    /// The bundle in the very bytes that every response ends with.
    pub fn roots_pem(&self) -> &str {
        self.response_tail.last().map_or("", String::as_str)
    }

    /// The same authority, whose responses end with `roots`: the bundle as an operator wrote it.
    pub(super) fn with_roots_as_written(mut self, roots: String) -> Self {
        self.response_tail.pop();
        self.response_tail.push(roots);
        self
    }

    /// Signs a certificate for `key`, DER. The authority key identifier is written if there is one to point to.
    pub(super) fn sign(&self, params: CertificateParams, key: &impl PublicKeyData) -> Result<Vec<u8>, IssueError> {
        let mut params = params;
        params.use_authority_key_identifier_extension = self.certificate.subject_key_id().is_some();
        let signed = params.signed_by(key, &self.issuer).map_err(|error| IssueError::Sign(error.to_string()))?;
        Ok(signed.der().to_vec())
    }

    /// Whether what this authority signs leads to the bundle. Only a leaf can be asked for its path, so one is signed that
    /// is of no use to anybody: it names the trust domain only, ends with this second and is dropped here.
    fn check_path(&self, now: Timestamp) -> Result<(), AuthorityError> {
        let failed = |error: &dyn ToString| AuthorityError::Chain(error.to_string());
        let validity = Validity::until(now, now, self.certificate.not_after()).map_err(|error| failed(&error))?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![trust_domain_name(self.bundle.trust_domain())?];
        (params.not_before, params.not_after) = leaf_profile::date(validity.not_before)
            .zip(leaf_profile::date(validity.not_after))
            .ok_or_else(|| AuthorityError::Chain("the clock stands outside the years 0 to 9999".into()))?;
        let leaf = self.sign(params, self.issuer.key()).map_err(|error| failed(&error))?;
        let leaf = Certificate::from_der(&leaf).map_err(|error| failed(&error))?;
        let chain = std::iter::once(leaf).chain(self.chain.iter().cloned()).collect();
        // our validator takes a root for its name and key alone; others look at its validity
        let valid = self.bundle.roots().iter().filter(|root| root.check_time(now).is_ok()).cloned().collect();
        let valid = TrustBundle::new(self.bundle.trust_domain().clone(), valid)
            .map_err(|_empty| AuthorityError::Chain("no root is valid now".into()))?;
        CertificateChain::new(chain).and_then(|chain| chain.verify(&valid, now)).map_err(|error| failed(&error))
    }
}

fn root_params(
    trust_domain: &TrustDomain,
    lifetime: Duration,
    now: Timestamp,
    serial: &SerialNumber,
) -> Result<CertificateParams, AuthorityError> {
    let date = |time| leaf_profile::date(time).ok_or_else(|| build("its validity lies outside the years 0 to 9999"));
    let mut params = CertificateParams::default();
    params.not_before = date(now.minus(BACKDATING))?;
    params.not_after = date(now.plus(lifetime))?;
    params.serial_number = Some(serial.as_bytes().to_vec().into());
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, trust_domain.as_str());
    params.subject_alt_names = vec![trust_domain_name(trust_domain)?];
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn trust_domain_name(trust_domain: &TrustDomain) -> Result<SanType, AuthorityError> {
    trust_domain.id().try_into().map(SanType::URI).map_err(build)
}

/// How operators name the authority with this signing certificate: hex of its subject key identifier, or of its key's SHA-256 if
/// it has none.
pub fn authority_id(certificate: &Certificate) -> String {
    let by_key = digest(&SHA256, certificate.public_key_info());
    let id = certificate.subject_key_id().unwrap_or(by_key.as_ref());
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn build(error: impl ToString) -> AuthorityError {
    AuthorityError::Build(error.to_string())
}

#[cfg(test)]
mod tests {
    use rcgen::CustomExtension;

    use super::*;
    use crate::domain::{
        authority::testing::{NOW, TestRandom},
        x509::{
            KeyAlgorithm,
            testing::{ed25519_key, p384_key, rsa_key},
        },
    };

    const MINUTE: Duration = Duration::from_secs(60);
    const YEAR: Duration = Duration::from_secs(31_536_000);

    fn trust_domain() -> TrustDomain {
        "cluster.local".parse().unwrap()
    }

    /// A root by rcgen with whatever `change` makes of it, and its key.
    fn root(key: &PrivateKey, change: impl FnOnce(&mut CertificateParams)) -> Certificate {
        let serial = SerialNumber::random(&TestRandom).unwrap();
        let mut params = root_params(&trust_domain(), YEAR, NOW, &serial).unwrap();
        change(&mut params);
        Certificate::from_der(params.self_signed(&Signer::new(key)).unwrap().der()).unwrap()
    }

    fn from_root(root: &Certificate, key: &PrivateKey) -> Result<SigningAuthority, AuthorityError> {
        let bundle = TrustBundle::new(trust_domain(), vec![root.clone()]).unwrap();
        SigningAuthority::from_parts(root.clone(), key, Vec::new(), bundle, NOW)
    }

    #[test]
    fn own_root_is_what_the_standard_asks() {
        let (authority, key) = SigningAuthority::self_signed(&trust_domain(), YEAR, NOW, &TestRandom).unwrap();
        let root = authority.certificate();
        assert_eq!(lint::check_authority(root.der()), []);
        assert_eq!(root.subject(), "O=cluster.local");
        assert_eq!(root.uri_names(), ["spiffe://cluster.local"]);
        assert!(root.is_ca() && root.is_self_issued());
        assert_eq!(root.spiffe_id(), None);
        assert_eq!(root.not_before().seconds(), NOW.seconds() - 120);
        assert_eq!(root.not_after().seconds(), NOW.plus(YEAR).seconds());
        assert_eq!(root.public_key_info(), key.public_key_info());
        assert_eq!(authority.response_tail(), [authority.bundle().to_pem()]);
        let id: String = root.subject_key_id().unwrap().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(authority.id(), id);
    }

    #[test]
    fn every_kind_of_key_makes_an_authority() {
        for (pkcs8, kind) in [
            (p384_key(), KeyAlgorithm::EcdsaP384),
            (ed25519_key(), KeyAlgorithm::Ed25519),
            (rsa_key(), KeyAlgorithm::Rsa(2048)),
        ] {
            let key = PrivateKey::from_pkcs8(pkcs8).unwrap();
            assert_eq!(key.algorithm(), kind);
            from_root(&root(&key, |_| {}), &key).unwrap();
        }
    }

    #[test]
    fn refuses_what_cannot_sign() {
        let key = PrivateKey::generate_p256().unwrap();
        let other = PrivateKey::generate_p256().unwrap();
        let good = root(&key, |_| {});
        assert_eq!(from_root(&good, &other).err(), Some(AuthorityError::Key));

        let no_sign = root(&key, |params| params.key_usages = vec![KeyUsagePurpose::CrlSign]);
        assert!(
            matches!(from_root(&no_sign, &key), Err(AuthorityError::NotAuthority(text)) if text.contains("keyCertSign"))
        );

        let expired = root(&key, |params| params.not_after = leaf_profile::date(NOW.minus(MINUTE)).unwrap());
        assert!(matches!(from_root(&expired, &key), Err(AuthorityError::Chain(text)) if text.contains("expired")));

        let bundle = TrustBundle::new(trust_domain(), vec![root(&other, |_| {})]).unwrap();
        let alone = SigningAuthority::from_parts(good.clone(), &key, Vec::new(), bundle.clone(), NOW);
        assert!(matches!(alone, Err(AuthorityError::Chain(text)) if text.contains("begin with it")));
        let astray = SigningAuthority::from_parts(good.clone(), &key, vec![good], bundle, NOW);
        assert!(matches!(astray, Err(AuthorityError::Chain(text)) if text.contains("does not verify")));
    }

    /// docs/decisions/0003: why our own root carries no name constraints.
    #[test]
    fn a_uri_constraint_makes_the_chain_unverifiable() {
        let key = PrivateKey::generate_p256().unwrap();
        let domain = b"cluster.local";
        let subtree = [&[0x30, 15, 0x86, 13][..], domain].concat();
        let constraints = [&[0x30, 19, 0xa0, 17][..], &subtree].concat();
        let constrained = root(&key, |params| {
            params.custom_extensions = vec![CustomExtension::from_oid_content(&[2, 5, 29, 30], constraints)];
        });
        let refused = from_root(&constrained, &key);
        assert!(matches!(refused, Err(AuthorityError::Chain(text)) if text.contains("NameConstraintViolation")));
    }
}
