//! The check of another authority's answer before it is passed on.

use std::time::Duration;

use crate::domain::{
    clock::Timestamp,
    identity::SpiffeId,
    x509::{
        BundleError, Certificate, CertificateChain, CertificateError, ChainError, TrustBundle,
        lint::{self, Expected, Finding},
    },
};

/// What the answer must be.
#[derive(Clone, Copy, Debug)]
pub struct ExpectedAnswer<'a> {
    /// The identity that the caller's token names.
    pub id: &'a SpiffeId,
    /// SubjectPublicKeyInfo of the caller's request, DER.
    pub public_key_info: &'a [u8],
    /// The roots of that authority, as they are known from elsewhere.
    pub trusted: &'a TrustBundle,
    /// The time.
    pub now: Timestamp,
}

/// Why an answer is not passed on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// Not at least a certificate and the roots.
    #[error("it holds {0} elements, not at least a certificate and the roots")]
    Elements(usize),
    /// An element is not certificates.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// The last element is no trust bundle.
    #[error("its roots: {0}")]
    Roots(#[from] BundleError),
    /// The chain does not lead to the roots that came with it, or is not valid now.
    #[error("its chain by its own roots: {0}")]
    Chain(ChainError),
    /// The chain does not lead to a root that is trusted.
    #[error("its chain by the roots that are trusted here: {0}")]
    NotTrusted(ChainError),
    /// The leaf is not what was asked for, or breaks a rule.
    #[error("its certificate: {0}")]
    Leaf(#[from] Finding),
}

/// How far the clocks of the two may be apart: so long a caller keeps a certificate that is not valid yet.
const SKEW: Duration = Duration::from_secs(600);

/// Checks the elements of an answer: a chain for that identity and key, and nothing else, that leads to a root which stands in
/// the answer and is trusted here as well. Returns the leaf.
///
/// # Errors
///
/// The first thing that is wrong.
pub fn check_answer(elements: &[String], expected: &ExpectedAnswer<'_>) -> Result<Certificate, AnswerError> {
    let Some((roots, chain)) = elements.split_last().filter(|(_, chain)| !chain.is_empty()) else {
        return Err(AnswerError::Elements(elements.len()));
    };
    let mut certificates = Vec::with_capacity(chain.len());
    for element in chain {
        certificates.extend(Certificate::all_from_pem(element.as_bytes())?);
    }
    let chain = CertificateChain::new(certificates).map_err(AnswerError::Chain)?;
    let roots = TrustBundle::from_pem(expected.trusted.trust_domain().clone(), roots.as_bytes())?;
    let leaf = chain.leaf();
    let now = if expected.now < leaf.not_before() && leaf.not_before() <= expected.now.plus(SKEW) {
        leaf.not_before()
    } else {
        expected.now
    };
    chain.verify(&roots, now).map_err(AnswerError::Chain)?;
    chain.verify(expected.trusted, now).map_err(AnswerError::NotTrusted)?;
    let issued = Expected {
        id: expected.id,
        server_names: &[],
        public_key_info: expected.public_key_info,
        authority_not_after: authority_not_after(&chain, &roots),
        now,
    };
    match lint::check_foreign_svid(leaf.der(), &issued).into_iter().next() {
        Some(finding) => Err(finding.into()),
        None => Ok(leaf.clone()),
    }
}

/// Of the certificate that signed the leaf. A root that was renewed with its key stands there more than once: the last counts.
fn authority_not_after(chain: &CertificateChain, roots: &TrustBundle) -> Timestamp {
    let signers = chain.intermediates().iter().chain(roots.roots());
    let signers = signers.filter(|signer| signer.subject() == chain.leaf().issuer());
    signers.map(Certificate::not_after).max().unwrap_or(Timestamp::from_seconds(0))
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, SanType};

    use super::*;
    use crate::domain::{
        authority::{
            SigningAuthority, TtlBounds, issue,
            testing::{NOW, TestRandom, authority},
        },
        x509::{PrivateKey, VerifiedCsr},
    };

    const ID: &str = "spiffe://cluster.local/ns/default/sa/gateway";
    const HOUR: Duration = Duration::from_secs(3600);

    struct Asked {
        id: SpiffeId,
        csr: VerifiedCsr,
    }

    impl Asked {
        fn new() -> Self {
            let id: SpiffeId = ID.parse().unwrap();
            let request = PrivateKey::generate_p256().unwrap().certificate_request(&id).unwrap();
            Self { id, csr: VerifiedCsr::from_pem(request.as_bytes()).unwrap() }
        }

        fn answer(&self, authority: &SigningAuthority, id: &str) -> Vec<String> {
            let bounds = TtlBounds::new(HOUR, HOUR).unwrap();
            let id = id.parse().unwrap();
            issue(authority, &self.csr, &id, 0, &bounds, NOW, &TestRandom).unwrap().response_chain(authority)
        }

        fn check(
            &self,
            elements: &[String],
            trusted: &SigningAuthority,
            now: Timestamp,
        ) -> Result<String, AnswerError> {
            let public_key_info = self.csr.public_key_info();
            let trusted = trusted.bundle();
            let leaf = check_answer(elements, &ExpectedAnswer { id: &self.id, public_key_info, trusted, now })?;
            Ok(leaf.to_pem())
        }

        fn finding(&self, elements: &[String], trusted: &SigningAuthority) -> &'static str {
            match self.check(elements, trusted, NOW) {
                Err(AnswerError::Leaf(finding)) => finding.rule,
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn what_was_asked_for_passes() {
        let (asked, authority) = (Asked::new(), authority());
        let answer = asked.answer(&authority, ID);
        assert_eq!(asked.check(&answer, &authority, NOW).as_ref(), Ok(&answer[0]));
        // a clock that is a few minutes behind
        assert!(asked.check(&answer, &authority, NOW.minus(Duration::from_secs(300))).is_ok());
    }

    #[test]
    fn somebody_elses_identity_or_key_does_not() {
        let (asked, authority) = (Asked::new(), authority());
        for other in ["spiffe://cluster.local/ns/default/sa/other", "spiffe://other/ns/default/sa/gateway"] {
            assert_eq!(asked.finding(&asked.answer(&authority, other), &authority), "issued-id", "{other}");
        }
        let key_of_another = Asked::new().answer(&authority, ID);
        assert_eq!(asked.finding(&key_of_another, &authority), "issued-public-key");
    }

    #[test]
    fn another_authority_does_not_even_if_its_roots_come_along() {
        let (asked, trusted, other) = (Asked::new(), authority(), authority());
        let foreign = asked.answer(&other, ID);
        assert!(matches!(asked.check(&foreign, &trusted, NOW), Err(AnswerError::NotTrusted(ChainError::Path(_)))));
        let mut mixed = asked.answer(&trusted, ID);
        *mixed.last_mut().unwrap() = foreign.last().unwrap().clone();
        assert!(matches!(asked.check(&mixed, &trusted, NOW), Err(AnswerError::Chain(ChainError::Path(_)))));
        // roots that are to come stand beside the ones that are trusted
        let mut both = asked.answer(&trusted, ID);
        both.last_mut().unwrap().push_str(foreign.last().unwrap());
        assert!(asked.check(&both, &trusted, NOW).is_ok());
    }

    #[test]
    fn what_is_not_valid_now_does_not() {
        let (asked, authority) = (Asked::new(), authority());
        let answer = asked.answer(&authority, ID);
        let expired = asked.check(&answer, &authority, NOW.plus(HOUR * 2));
        assert!(matches!(expired, Err(AnswerError::Chain(ChainError::Expired(_)))), "{expired:?}");
        let early = asked.check(&answer, &authority, NOW.minus(Duration::from_secs(1200)));
        assert!(matches!(early, Err(AnswerError::Chain(ChainError::NotYetValid(_)))), "{early:?}");
    }

    #[test]
    fn an_incomplete_answer_or_one_of_something_else_does_not() {
        let (asked, authority) = (Asked::new(), authority());
        let answer = asked.answer(&authority, ID);
        assert_eq!(asked.check(&[], &authority, NOW), Err(AnswerError::Elements(0)));
        assert_eq!(asked.check(&answer[..1], &authority, NOW), Err(AnswerError::Elements(1)));
        for broken in [[answer[0].clone(), "x".into()], ["x".into(), answer[1].clone()]] {
            assert!(asked.check(&broken, &authority, NOW).is_err(), "{broken:?}");
        }
        let roots_as_leaf = [answer[1].clone(), answer[1].clone()];
        assert!(asked.check(&roots_as_leaf, &authority, NOW).is_err());
    }

    #[test]
    fn a_leaf_that_could_do_more_than_it_should_does_not() {
        let (asked, authority) = (Asked::new(), authority());
        let signed = |change: fn(&mut CertificateParams)| {
            let mut params = CertificateParams::default();
            params.is_ca = IsCa::ExplicitNoCa;
            params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
            params.subject_alt_names = vec![SanType::URI(ID.try_into().unwrap())];
            params.not_before = crate::domain::authority::testing::date(NOW);
            params.not_after = crate::domain::authority::testing::date(NOW.plus(HOUR));
            change(&mut params);
            [authority.sign_anything(params).to_pem(), authority.roots_pem().to_owned()]
        };
        let a_dns_name = signed(|params| params.subject_alt_names.push(SanType::DnsName("a.b".try_into().unwrap())));
        assert_eq!(asked.finding(&a_dns_name, &authority), "issued-names");
        let two_ids = signed(|params| {
            params.subject_alt_names.push(SanType::URI("spiffe://cluster.local/x".try_into().unwrap()))
        });
        assert_eq!(asked.finding(&two_ids, &authority), "svid-one-uri-name");
        let a_signer = signed(|params| params.key_usages.push(KeyUsagePurpose::KeyCertSign));
        assert_eq!(asked.finding(&a_signer, &authority), "svid-no-signing");
        let beyond = signed(|params| params.not_after = crate::domain::authority::testing::date(NOW.plus(HOUR * 1000)));
        let leaf = Certificate::all_from_pem(beyond[0].as_bytes()).unwrap().remove(0);
        let (id, public_key_info, trusted) = (&asked.id, leaf.public_key_info(), authority.bundle());
        let answer = check_answer(&beyond, &ExpectedAnswer { id, public_key_info, trusted, now: NOW });
        assert!(
            matches!(answer, Err(AnswerError::Leaf(Finding { rule: "issued-within-authority", .. }))),
            "{answer:?}"
        );
    }
}
