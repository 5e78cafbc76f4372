mod by_the_clusters_word;

use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, SanType};
use time::OffsetDateTime;
use zeroize::Zeroizing;

use super::*;
use crate::domain::{
    authority::{
        PairAuthority, SigningAuthority, TtlBounds, issue,
        testing::{NOW, TestRandom, authority},
    },
    identity::ReplicaId,
    jwt::{IssuerRules, TokenIssuerKey},
    x509::{PrivateKey, VerifiedCsr},
};

const ISSUER: &str = "https://issuer";
const BY_TOKEN: &str = "spiffe://cluster.local/ns/default/sa/token";
const BY_CERTIFICATE: &str = "spiffe://cluster.local/ns/default/sa/certificate";
const HOUR: Duration = Duration::from_secs(3600);

/// An authority, whose bundle is known, and an issuer of tokens.
struct World {
    trust_domain: TrustDomain,
    authority: SigningAuthority,
    key: TokenIssuerKey,
    issuers: Vec<TokenIssuer>,
}

impl World {
    fn new() -> Self {
        let key = TokenIssuerKey::generate().unwrap();
        let rules = IssuerRules { issuer: ISSUER.into(), audiences: vec!["istio-ca".into()], namespaces: None };
        let issuers = vec![TokenIssuer::new(rules, key.key_set().unwrap())];
        Self { trust_domain: "cluster.local".parse().unwrap(), authority: authority(), key, issuers }
    }

    fn token(&self, issuer: &str) -> Option<Zeroizing<String>> {
        let account = "default/token".parse().unwrap();
        Some(self.key.mint(issuer, &account, "istio-ca", NOW, HOUR).unwrap())
    }

    fn verifiers(&self) -> Verifiers<'_> {
        let bundle = Some(self.authority.bundle());
        Verifiers { trust_domain: &self.trust_domain, issuers: &self.issuers, bundle, denied: None, cluster: None }
    }

    fn attest(&self, evidence: &Evidence) -> Result<Caller, AttestationError> {
        attest(evidence, "replica-1", self.verifiers(), NOW)
    }
}

fn chain(authority: &SigningAuthority, id: &str, now: Timestamp) -> CertificateChain {
    let id = id.parse().unwrap();
    let request = PrivateKey::generate_p256().unwrap().certificate_request(&id).unwrap();
    let csr = VerifiedCsr::from_pem(request.as_bytes()).unwrap();
    let bounds = TtlBounds::new(HOUR, HOUR).unwrap();
    let issued = issue(authority, &csr, &id, 0, &bounds, now, &TestRandom).unwrap();
    CertificateChain::new(vec![issued.leaf]).unwrap()
}

fn presented(chain: CertificateChain) -> Evidence {
    Evidence { presented: Some(chain), ..Evidence::NONE }
}

/// Certificates that prove nothing here.
fn bad_chains(world: &World) -> Vec<CertificateChain> {
    vec![
        chain(&authority(), BY_CERTIFICATE, NOW),
        chain(&world.authority, BY_CERTIFICATE, NOW.minus(HOUR + HOUR)),
        chain(&world.authority, BY_CERTIFICATE, NOW.plus(HOUR)),
        chain(&world.authority, "spiffe://other/ns/default/sa/certificate", NOW),
        chain(&world.authority, "spiffe://cluster.local/countersign/serving", NOW),
        chain(&world.authority, "spiffe://cluster.local/countersign/replica/uid", NOW),
        chain(&world.authority, "spiffe://cluster.local/ns/default", NOW),
        chain(&world.authority, "spiffe://cluster.local/ns/default/sa/certificate/of/more", NOW),
    ]
}

#[test]
fn nothing_proves_nobody() {
    assert_eq!(World::new().attest(&Evidence::NONE), Err(AttestationError::NoProof));
}

#[test]
fn a_certificate_outranks_a_token() {
    let world = World::new();
    let chain = chain(&world.authority, BY_CERTIFICATE, NOW);
    let serial = chain.leaf().serial().to_string();
    for token in [None, world.token(ISSUER), Some("x".to_owned().into())] {
        let caller = world.attest(&Evidence { token, ..presented(chain.clone()) }).unwrap();
        assert_eq!(caller.id.as_str(), BY_CERTIFICATE);
        assert_eq!(caller.proof, Proof::Certificate { serial: serial.clone() });
    }
}

#[test]
fn a_certificate_that_is_not_valid_does_not_spoil_a_token() {
    let world = World::new();
    for chain in bad_chains(&world) {
        let caller = world.attest(&Evidence { token: world.token(ISSUER), ..presented(chain) }).unwrap();
        assert_eq!(caller.id.as_str(), BY_TOKEN);
        assert_eq!(caller.proof, Proof::Token { issuer: ISSUER.into() });
    }
}

#[test]
fn a_certificate_that_is_not_valid_proves_nobody_by_itself() {
    let world = World::new();
    let [root, expired, early, foreign @ ..] = &bad_chains(&world)[..] else { panic!("there are more") };
    let refused = |chain: &CertificateChain| world.attest(&presented(chain.clone())).unwrap_err();
    assert!(matches!(refused(root), AttestationError::Certificate(ChainError::Path(_))));
    assert!(matches!(refused(expired), AttestationError::Certificate(ChainError::Expired(_))));
    assert!(matches!(refused(early), AttestationError::Certificate(ChainError::NotYetValid(_))));
    for chain in foreign {
        assert_eq!(refused(chain), AttestationError::ForeignCertificate(world.trust_domain.clone()));
    }
}

#[test]
fn a_replicas_certificate_proves_no_caller() {
    let world = World::new();
    let (pair, _) = PairAuthority::self_signed(&world.trust_domain, NOW, &TestRandom).unwrap();
    let id = ReplicaId::new(&world.trust_domain, "uid").unwrap();
    let chain = pair.replica_svid(&id, NOW, &TestRandom).unwrap().chain().clone();
    let refused = world.attest(&presented(chain.clone())).unwrap_err();
    assert!(matches!(refused, AttestationError::Certificate(ChainError::Path(_))), "{refused:?}");
    // nor if the pair authority stood in the bundle
    let verifiers = Verifiers { bundle: Some(pair.bundle()), ..world.verifiers() };
    for evidence in [presented(chain.clone()), Evidence { asserted: Some(chain), ..Evidence::NONE }] {
        let refused = attest(&evidence, "replica-1", verifiers, NOW);
        assert_eq!(refused, Err(AttestationError::ForeignCertificate(world.trust_domain.clone())));
    }
}

/// An SVID's profile but for what `change` makes of it, signed by the authority that the bundle holds.
fn own_root_certificate(world: &World, change: impl FnOnce(&mut CertificateParams)) -> CertificateChain {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![uri(BY_CERTIFICATE)];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    (params.not_before, params.not_after) = (date(NOW.minus(HOUR)), date(NOW.plus(HOUR)));
    change(&mut params);
    CertificateChain::new(vec![world.authority.sign_anything(params)]).unwrap()
}

fn date(time: Timestamp) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(time.seconds()).unwrap()
}

fn uri(id: &str) -> SanType {
    SanType::URI(id.try_into().unwrap())
}

fn refused(world: &World, change: impl FnOnce(&mut CertificateParams)) -> AttestationError {
    world.attest(&presented(own_root_certificate(world, change))).unwrap_err()
}

#[test]
fn of_our_own_root_only_one_service_account_of_our_trust_domain_is_attested() {
    let world = World::new();
    let unchanged = own_root_certificate(&world, |_| {});
    assert_eq!(world.attest(&presented(unchanged)).unwrap().id.as_str(), BY_CERTIFICATE);
    let foreign = AttestationError::ForeignCertificate(world.trust_domain.clone());
    for names in [
        vec![uri(BY_CERTIFICATE), uri(BY_TOKEN)],
        vec![uri(BY_CERTIFICATE), uri(BY_CERTIFICATE)],
        vec![],
        vec![SanType::DnsName("gateway.example".try_into().unwrap())],
        vec![uri("spiffe://other.example/ns/default/sa/certificate")],
        vec![uri("spiffe://cluster.local/countersign/serving")],
        vec![uri("spiffe://cluster.local/countersign/replica/uid")],
    ] {
        let said = format!("{names:?}");
        assert_eq!(refused(&world, |params| params.subject_alt_names = names), foreign, "{said}");
    }
}

#[test]
fn of_our_own_root_only_a_leaf_for_both_sides_in_its_time_is_attested() {
    let world = World::new();
    let path = |text: AttestationError, part: &str| {
        let AttestationError::Certificate(ChainError::Path(said)) = &text else { panic!("{text:?}") };
        assert!(said.contains(part), "{said}");
    };
    path(refused(&world, |params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)), "CaUsedAsEndEntity");
    for purpose in [ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth] {
        path(refused(&world, |params| params.extended_key_usages = vec![purpose]), "RequiredEkuNotFound");
    }
    let second = Duration::from_secs(1);
    let early = refused(&world, |params| params.not_before = date(NOW.plus(second)));
    let from = Timestamp::from_seconds(NOW.seconds() + 1);
    assert_eq!(early, AttestationError::Certificate(ChainError::NotYetValid(from)));
    let late = refused(&world, |params| params.not_after = date(NOW.minus(second)));
    let until = Timestamp::from_seconds(NOW.seconds() - 1);
    assert_eq!(late, AttestationError::Certificate(ChainError::Expired(until)));
}

#[test]
fn the_token_decides_when_both_are_bad() {
    let world = World::new();
    let bad = &bad_chains(&world)[0];
    let evidence = Evidence { token: world.token("https://other"), ..presented(bad.clone()) };
    assert_eq!(world.attest(&evidence), Err(AttestationError::UnknownIssuer));
    let expired = attest(&evidence_by_token(&world), "", world.verifiers(), NOW.plus(HOUR));
    assert_eq!(expired, Err(AttestationError::Token(TokenError::Expired)));
}

fn evidence_by_token(world: &World) -> Evidence {
    Evidence { token: world.token(ISSUER), ..Evidence::NONE }
}

#[test]
fn without_a_bundle_a_certificate_alone_is_undecided() {
    let world = World::new();
    let verifiers = Verifiers { bundle: None, ..world.verifiers() };
    let evidence = presented(chain(&world.authority, BY_CERTIFICATE, NOW));
    let undecided = attest(&evidence, "", verifiers, NOW).unwrap_err();
    assert_eq!(undecided, AttestationError::NoBundle);
    assert!(undecided.is_undecided() && !AttestationError::NoProof.is_undecided());
    let with_token = Evidence { token: world.token(ISSUER), ..evidence };
    assert_eq!(attest(&with_token, "", verifiers, NOW).unwrap().id.as_str(), BY_TOKEN);
}

#[test]
fn an_asserted_certificate_is_verified_too_and_names_who_vouches() {
    let world = World::new();
    let good = chain(&world.authority, BY_CERTIFICATE, NOW);
    let serial = good.leaf().serial().to_string();
    let asserted = |chain| Evidence { asserted: Some(chain), ..Evidence::NONE };
    let caller = world.attest(&asserted(good.clone())).unwrap();
    assert_eq!(caller.proof, Proof::AssertedCertificate { serial, replica: "replica-1".into() });
    for bad in bad_chains(&world) {
        assert!(world.attest(&asserted(bad.clone())).is_err());
        // what was presented here is what counts
        let both = Evidence { presented: Some(bad), ..asserted(good.clone()) };
        assert!(world.attest(&both).is_err());
    }
}

#[test]
fn a_replica_is_who_it_says() {
    let world = World::new();
    let own = |own| world.attest(&Evidence { own: Some(own), ..Evidence::NONE }).unwrap();
    let workload = own(OwnIdentity::Workload("default/gateway".parse().unwrap()));
    assert_eq!(workload.id.as_str(), "spiffe://cluster.local/ns/default/sa/gateway");
    assert_eq!(workload.proof, Proof::OwnSocket { replica: "replica-1".into() });
    let serving = own(OwnIdentity::Serving);
    assert_eq!(serving.id.as_str(), "spiffe://cluster.local/countersign/serving");
    assert_eq!(
        (ServiceAccount::of(&serving.id), serving.proof),
        (None, Proof::Serving { replica: "replica-1".into() })
    );
}

#[test]
fn evidence_shows_no_token() {
    let world = World::new();
    let evidence = evidence_by_token(&world);
    assert!(!format!("{evidence:?}").contains(evidence.token.as_ref().unwrap().as_str()));
}
