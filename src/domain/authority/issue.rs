//! Issuing an SVID: build by the profile, sign, lint.

use super::{SigningAuthority, TtlBounds, TtlError, leaf_profile};
use crate::domain::{
    clock::Timestamp,
    identity::SpiffeId,
    random::{RandomUnavailable, SecureRandom},
    x509::{
        Certificate, SerialNumber, VerifiedCsr,
        lint::{self, Expected, Finding},
    },
};

/// Whom a certificate is for.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The identity.
    pub id: &'a SpiffeId,
    /// The names of a TLS server beside it, DNS or IP address, ASCII; none for a workload.
    pub server_names: &'a [String],
}

impl<'a> From<&'a SpiffeId> for Subject<'a> {
    fn from(id: &'a SpiffeId) -> Self {
        Self { id, server_names: &[] }
    }
}

/// A certificate that passed the lint.
#[derive(Clone, Debug)]
pub struct IssuedSvid {
    /// The leaf.
    pub leaf: Certificate,
}

/// Why nothing was issued.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IssueError {
    /// No such validity can be granted.
    #[error(transparent)]
    Ttl(#[from] TtlError),
    /// No serial number.
    #[error(transparent)]
    Random(#[from] RandomUnavailable),
    /// The builder or the signer failed.
    #[error("the certificate could not be signed: {0}")]
    Sign(String),
    /// The lint refused what was built.
    #[error("the certificate was withheld by the lint: {0}")]
    Lint(Finding),
}

/// Issues an SVID by istiod's profile: empty subject (or the ID as common name, when the request had one and the ID fits 64
/// bytes), the ID (and the server names, where there are any) in a critical SAN, digitalSignature and keyEncipherment, server and client
/// authentication, not a CA, authority key identifier, serial of 128 bits. Subject and extensions of the request are
/// ignored.
///
/// # Errors
///
/// When no validity can be granted, signing fails, or the lint finds a broken rule; nothing leaves then.
pub fn issue<'a>(
    authority: &SigningAuthority,
    csr: &VerifiedCsr,
    subject: impl Into<Subject<'a>>,
    requested_ttl: i64,
    bounds: &TtlBounds,
    now: Timestamp,
    random: &dyn SecureRandom,
) -> Result<IssuedSvid, IssueError> {
    let Subject { id, server_names } = subject.into();
    if let Some(name) = server_names.iter().find(|name| name.is_empty() || !name.is_ascii()) {
        return Err(IssueError::Sign(format!("{name:?} is not a DNS name: write it in ASCII, IDNA encoded")));
    }
    let authority_not_after = authority.certificate().not_after();
    let validity = bounds.grant(requested_ttl, now, authority_not_after)?;
    let serial = SerialNumber::random(random)?;
    let params = leaf_profile::leaf(id, server_names, &serial, validity);
    let mut params = params.ok_or_else(|| IssueError::Sign("the validity lies outside the years 0 to 9999".into()))?;
    if csr.has_common_name() {
        leaf_profile::set_common_name(&mut params, id);
    }
    let der = authority.sign(params, csr.key())?;
    let public_key_info = csr.public_key_info();
    let expected = Expected { id, server_names, public_key_info, authority_not_after, now };
    match lint::check_svid(&der, &expected).into_iter().next() {
        Some(finding) => Err(IssueError::Lint(finding)),
        None => match Certificate::from_der(&der) {
            Ok(leaf) => Ok(IssuedSvid { leaf }),
            Err(error) => Err(IssueError::Sign(error.to_string())),
        },
    }
}

impl IssuedSvid {
    /// The response to the caller: leaf, intermediates, and last the whole bundle, PEM.
    pub fn response_chain(&self, authority: &SigningAuthority) -> Vec<String> {
        std::iter::once(self.leaf.to_pem()).chain(authority.response_tail().iter().cloned()).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use rcgen::{
        BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose,
        SanType,
    };
    use x509_parser::{certificate::X509Certificate, prelude::FromDer};

    use super::*;
    use crate::domain::{
        authority::testing::{NOW, TestRandom, authority},
        x509::{CertificateChain, ChainError, PrivateKey, X509Svid, pem},
    };

    const ID: &str = "spiffe://cluster.local/ns/default/sa/gateway";

    fn bounds() -> TtlBounds {
        TtlBounds::new(Duration::from_secs(3600), Duration::from_secs(7200)).unwrap()
    }

    fn request(key: &PrivateKey, params: &CertificateParams) -> VerifiedCsr {
        let request = params.serialize_request(key.key_pair().as_ref()).unwrap();
        VerifiedCsr::from_pem(pem::encode("CERTIFICATE REQUEST", request.der()).as_bytes()).unwrap()
    }

    fn issued(authority: &SigningAuthority, csr: &VerifiedCsr) -> Certificate {
        issue(authority, csr, &ID.parse().unwrap(), 0, &bounds(), NOW, &TestRandom).unwrap().leaf
    }

    #[test]
    fn the_whole_way_from_request_to_svid() {
        let authority = authority();
        let id: SpiffeId = ID.parse().unwrap();
        let key = PrivateKey::generate_p256().unwrap();
        let csr = VerifiedCsr::from_pem(key.certificate_request(&id).unwrap().as_bytes()).unwrap();
        let issued = issue(&authority, &csr, &id, 60, &bounds(), NOW, &TestRandom).unwrap();
        assert_eq!(issued.response_chain(&authority), [issued.leaf.to_pem(), authority.bundle().to_pem()]);
        assert_eq!(issued.leaf.subject(), "");
        assert_eq!(issued.leaf.serial().as_bytes().len(), 16);
        assert_eq!(issued.leaf.subject_key_id(), None);
        assert_eq!(issued.leaf.authority_key_id(), authority.certificate().subject_key_id());
        assert_eq!(issued.leaf.not_after().seconds(), NOW.seconds() + 60);

        let chain = CertificateChain::new(vec![issued.leaf.clone()]).unwrap();
        chain.verify(authority.bundle(), NOW).unwrap();
        let (early, late) = (NOW.minus(Duration::from_secs(130)), NOW.plus(Duration::from_secs(61)));
        assert!(matches!(chain.verify(authority.bundle(), early), Err(ChainError::NotYetValid(_))));
        assert!(matches!(chain.verify(authority.bundle(), late), Err(ChainError::Expired(_))));
        let foreign = crate::domain::authority::testing::authority();
        assert!(matches!(chain.verify(foreign.bundle(), NOW), Err(ChainError::Path(_))));

        assert_eq!(X509Svid::new(chain.clone(), key).unwrap().id(), &id);
        let other = PrivateKey::generate_p256().unwrap();
        assert!(X509Svid::new(chain, other).is_err());
    }

    #[test]
    fn the_profile_is_istiods() {
        let key = PrivateKey::generate_p256().unwrap();
        let leaf = issued(&authority(), &request(&key, &CertificateParams::default()));
        let (_, parsed) = X509Certificate::from_der(leaf.der()).unwrap();
        let seen: Vec<_> =
            parsed.extensions().iter().map(|e| (e.oid.to_id_string(), e.critical, e.value.to_vec())).collect();
        let find =
            |oid: &str| seen.iter().find(|(found, ..)| found == oid).map(|(_, critical, value)| (*critical, value));
        assert_eq!(seen.len(), 5);
        assert_eq!(find("2.5.29.15"), Some((true, &vec![3, 2, 5, 0xa0])));
        assert_eq!(find("2.5.29.19"), Some((true, &vec![0x30, 0])));
        assert!(find("2.5.29.17").unwrap().0);
        assert!(!find("2.5.29.37").unwrap().0);
        assert!(!find("2.5.29.35").unwrap().0);
        // rcgen's default subject has a common name, so this leaf has one.
        assert_eq!(leaf.subject(), format!("CN={ID}"));
    }

    #[test]
    fn a_long_id_is_no_common_name() {
        let id: SpiffeId = format!("spiffe://cluster.local/{}", "a".repeat(60)).parse().unwrap();
        let csr = request(&PrivateKey::generate_p256().unwrap(), &CertificateParams::default());
        assert!(csr.has_common_name());
        let leaf = issue(&authority(), &csr, &id, 0, &bounds(), NOW, &TestRandom).unwrap().leaf;
        assert_eq!(leaf.subject(), "");
    }

    #[test]
    fn no_randomness_no_certificate() {
        struct Dry;
        impl SecureRandom for Dry {
            fn fill(&self, _: &mut [u8]) -> Result<(), RandomUnavailable> {
                Err(RandomUnavailable)
            }
        }
        let csr = request(&PrivateKey::generate_p256().unwrap(), &CertificateParams::default());
        let refused = issue(&authority(), &csr, &ID.parse().unwrap(), 0, &bounds(), NOW, &Dry);
        assert_eq!(refused.err(), Some(IssueError::Random(RandomUnavailable)));
    }

    fn odd_params() -> impl Strategy<Value = CertificateParams> {
        let names = proptest::collection::vec(("[a-z]{1,12}", any::<bool>()), 0..4);
        (names, any::<bool>(), any::<bool>(), proptest::option::of("[ -~]{0,70}"), proptest::option::of("\\PC{0,20}"))
            .prop_map(|(names, is_ca, signs, common_name, organization)| {
                let mut params = CertificateParams::default();
                params.distinguished_name = DistinguishedName::new();
                let subject = [(DnType::CommonName, common_name), (DnType::OrganizationName, organization)];
                for (kind, value) in subject.into_iter().filter_map(|(kind, value)| Some((kind, value?))) {
                    params.distinguished_name.push(kind, value);
                }
                let uri = |name: &str| SanType::URI(format!("spiffe://other/{name}").try_into().unwrap());
                let dns = |name: &str| SanType::DnsName(name.try_into().unwrap());
                params.subject_alt_names =
                    names.iter().map(|(name, is_uri)| if *is_uri { uri(name) } else { dns(name) }).collect();
                if is_ca {
                    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
                }
                if signs {
                    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
                    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
                }
                params
            })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn whatever_a_request_asks_the_leaf_is_the_callers(params in odd_params()) {
            let authority = authority();
            let key = PrivateKey::generate_p256().unwrap();
            let leaf = issued(&authority, &request(&key, &params));
            prop_assert_eq!(lint::check_leaf(leaf.der()), []);
            prop_assert_eq!(leaf.uri_names(), [ID]);
            prop_assert!(leaf.dns_names().is_empty() && !leaf.is_ca());
            let common_name = format!("CN={}", ID);
            prop_assert!([String::new(), common_name].contains(&leaf.subject().to_owned()));
            prop_assert_eq!(leaf.public_key_info(), key.public_key_info());
            let (_, parsed) = X509Certificate::from_der(leaf.der()).unwrap();
            prop_assert_eq!(parsed.key_usage().unwrap().unwrap().value.flags, 0b101);
            let purposes = parsed.extended_key_usage().unwrap().unwrap().value;
            prop_assert!(purposes.server_auth && purposes.client_auth && !purposes.code_signing);
            prop_assert_eq!(Certificate::all_from_pem(leaf.to_pem().as_bytes()).unwrap(), vec![leaf.clone()]);
            prop_assert_eq!(Certificate::from_der(leaf.der()).unwrap(), leaf);
        }
    }

    #[test]
    fn the_lint_sees_what_is_not_as_expected() {
        let authority = authority();
        let key = PrivateKey::generate_p256().unwrap();
        let leaf = issued(&authority, &request(&key, &CertificateParams::default()));
        let (id, other_id) = (ID.parse().unwrap(), "spiffe://cluster.local/other".parse().unwrap());
        let authority_not_after = authority.certificate().not_after();
        let right = Expected {
            id: &id,
            server_names: &[],
            public_key_info: key.public_key_info(),
            authority_not_after,
            now: NOW,
        };
        assert_eq!(lint::check_svid(leaf.der(), &right), []);
        let second = Duration::from_secs(1);
        for (expected, rule) in [
            (Expected { id: &other_id, ..right }, "issued-id"),
            (Expected { public_key_info: &[], ..right }, "issued-public-key"),
            (Expected { authority_not_after: NOW, ..right }, "issued-within-authority"),
            (Expected { now: leaf.not_before().minus(second), ..right }, "issued-not-early"),
            (Expected { now: leaf.not_after().plus(second), ..right }, "issued-not-late"),
        ] {
            let found: Vec<_> = lint::check_svid(leaf.der(), &expected).iter().map(|finding| finding.rule).collect();
            assert_eq!(found, [rule]);
        }
    }
}
