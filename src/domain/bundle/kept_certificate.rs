//! Whether a certificate that is kept in a Secret, for istiod or for a gateway, is still good, and what to do if not.

use std::{collections::BTreeSet, fmt};

use super::{FoundRoots, OwnRoots, Verdict};
use crate::domain::{
    clock::Timestamp,
    identity::SpiffeId,
    x509::{Certificate, CertificateChain, PrivateKey, TrustBundle},
};

/// What the certificate has to be.
#[derive(Clone, Copy, Debug)]
pub struct WantedCertificate<'a> {
    /// Whose it is.
    pub id: &'a SpiffeId,
    /// Its DNS names.
    pub server_names: &'a [String],
    /// Whether only what bears our mark is ours; else what leads to our roots is as well.
    pub only_marked: bool,
    /// What it has to lead to.
    pub bundle: &'a TrustBundle,
    /// The same roots, as they are written beside it.
    pub roots: &'a OwnRoots,
}

/// A certificate as it is stored, with all that stands beside it; nothing of it is believed.
#[derive(Clone, Copy)]
pub struct StoredCertificate<'a> {
    /// Leaf and intermediates, PEM.
    pub certificate: &'a [u8],
    /// Its key, PEM.
    pub key: &'a [u8],
    /// The roots beside it.
    pub roots: &'a FoundRoots,
    /// Whether it bears our mark.
    pub is_marked: bool,
    /// Whether it is of a type that whoever it is for can use.
    pub is_usable: bool,
    /// When it was made, if that is known.
    pub received: Option<Timestamp>,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// Nothing before this time.
    GoodUntil(Timestamp),
    /// Write a new one.
    Replace(Replace),
    /// Somebody else's stands there.
    Conflict,
    /// It is ours, in a place of a type that can't be changed.
    OtherType,
}

/// Why a new one is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replace {
    /// There is none.
    Missing,
    /// It, or its key, can't be read, or they don't belong together.
    Damaged,
    /// It doesn't lead to our roots of now.
    OtherRoots,
    /// It has another identity or other names.
    OtherNames,
    /// Half of its time is over.
    HalfLife,
}

impl fmt::Display for Replace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Missing => "there is none",
            Self::Damaged => "it is damaged",
            Self::OtherRoots => "it does not lead to the roots of now",
            Self::OtherNames => "it has other names",
            Self::HalfLife => "half of its time is over",
        })
    }
}

/// Whether there is neither a certificate nor a key.
fn is_nothing(stored: &StoredCertificate<'_>) -> bool {
    stored.certificate.trim_ascii().is_empty() && stored.key.trim_ascii().is_empty()
}

impl WantedCertificate<'_> {
    /// Judges what is stored at `now`. What was never ours and doesn't lead to our roots is somebody else's.
    pub fn judge(&self, stored: &StoredCertificate<'_>, now: Timestamp) -> Judgement {
        if self.only_marked && !stored.is_marked {
            return Judgement::Conflict;
        }
        if !stored.is_usable {
            return Judgement::OtherType;
        }
        if is_nothing(stored) {
            return Judgement::Replace(Replace::Missing);
        }
        let Ok(chain) = Certificate::all_from_pem(stored.certificate)
            .map_err(drop)
            .and_then(|certificates| CertificateChain::new(certificates).map_err(drop))
        else {
            return if stored.is_marked { Judgement::Replace(Replace::Damaged) } else { Judgement::Conflict };
        };
        let leaf = chain.leaf();
        // at a time at which it is valid: one of ours that has expired is still ours
        let leads_to_ours = chain.verify(self.bundle, now.max(leaf.not_before()).min(leaf.not_after())).is_ok();
        if !stored.is_marked && !leads_to_ours {
            return Judgement::Conflict;
        }
        match self.fault(stored, &chain, leads_to_ours) {
            Some(fault) => Judgement::Replace(fault),
            None if now >= half_life(leaf, stored.received) => Judgement::Replace(Replace::HalfLife),
            None => Judgement::GoodUntil(half_life(leaf, stored.received)),
        }
    }

    fn fault(&self, stored: &StoredCertificate<'_>, chain: &CertificateChain, leads_to_ours: bool) -> Option<Replace> {
        let leaf = chain.leaf();
        let key = PrivateKey::from_pem(stored.key).ok();
        if key.is_none_or(|key| key.public_key_info() != leaf.public_key_info()) {
            return Some(Replace::Damaged);
        }
        if !leads_to_ours || self.roots.verdict(stored.roots) != Verdict::Right {
            return Some(Replace::OtherRoots);
        }
        let names: BTreeSet<&String> = leaf.dns_names().iter().collect();
        let is_ours = leaf.spiffe_id().as_ref() == Some(self.id) && names == self.server_names.iter().collect();
        (!is_ours).then_some(Replace::OtherNames)
    }
}

/// Half of the time from receipt to its end. Where the receipt isn't known, what it is backdated by is counted in, which only
/// makes it earlier.
fn half_life(leaf: &Certificate, received: Option<Timestamp>) -> Timestamp {
    let begin = received.unwrap_or_else(|| leaf.not_before());
    begin.plus(leaf.not_after().since(begin) / 2)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::domain::{
        authority::{
            SigningAuthority, Subject, TtlBounds, issue,
            testing::{NOW, TestRandom, authority},
        },
        x509::VerifiedCsr,
    };

    const DAY: Duration = Duration::from_secs(86_400);
    const ID: &str = "spiffe://cluster.local/ns/istio-system/sa/istiod";

    struct Issued {
        certificate: String,
        key: PrivateKey,
    }

    fn names() -> Vec<String> {
        ["istiod", "istio-pilot"].iter().map(|name| format!("{name}.istio-system.svc")).collect()
    }

    fn issued(authority: &SigningAuthority, id: &str, server_names: &[String]) -> Issued {
        let id: SpiffeId = id.parse().unwrap();
        let key = PrivateKey::generate_p256().unwrap();
        let csr = VerifiedCsr::from_pem(key.certificate_request(&id).unwrap().as_bytes()).unwrap();
        let bounds = TtlBounds::new(DAY, DAY).unwrap();
        let subject = Subject { id: &id, server_names };
        let leaf = issue(authority, &csr, subject, 0, &bounds, NOW, &TestRandom).unwrap().leaf;
        Issued { certificate: leaf.to_pem(), key }
    }

    fn own_roots(authority: &SigningAuthority) -> OwnRoots {
        OwnRoots::new(authority.roots_pem(), authority.bundle(), "countersign")
    }

    /// What is there, and how it is looked at.
    #[derive(Clone, Copy)]
    struct Case<'a> {
        certificate: &'a str,
        key: &'a str,
        is_marked: bool,
        is_usable: bool,
        only_marked: bool,
        has_roots: bool,
        received: Option<Timestamp>,
        after: Duration,
    }

    impl<'a> Case<'a> {
        const fn of(certificate: &'a str, key: &'a str) -> Self {
            Self {
                certificate,
                key,
                is_marked: false,
                is_usable: true,
                only_marked: false,
                has_roots: true,
                received: None,
                after: Duration::ZERO,
            }
        }

        fn judged(&self, authority: &SigningAuthority) -> Judgement {
            let Self { is_marked, is_usable, only_marked, received, .. } = *self;
            let (id, server_names, roots) = (ID.parse().unwrap(), names(), own_roots(authority));
            let bundle = authority.bundle();
            let wanted = WantedCertificate { id: &id, server_names: &server_names, only_marked, bundle, roots: &roots };
            let beside = FoundRoots::read(self.has_roots.then(|| authority.roots_pem()), None);
            let (certificate, key) = (self.certificate.as_bytes(), self.key.as_bytes());
            let stored = StoredCertificate { certificate, key, roots: &beside, is_marked, is_usable, received };
            wanted.judge(&stored, NOW.plus(self.after))
        }
    }

    #[test]
    fn ours_is_good_until_half_of_its_time_and_then_replaced_also_when_it_has_expired() {
        let authority = authority();
        let Issued { certificate, key } = issued(&authority, ID, &names());
        let at = |after| Case { after, ..Case::of(&certificate, &key.to_pem()) }.judged(&authority);
        let Judgement::GoodUntil(until) = at(Duration::ZERO) else { panic!("{:?}", at(Duration::ZERO)) };
        assert_eq!(until.seconds(), NOW.seconds() + (43_200 - 60));
        assert_eq!(at(DAY / 2), Judgement::Replace(Replace::HalfLife));
        assert_eq!(at(DAY * 2), Judgement::Replace(Replace::HalfLife));
    }

    #[test]
    fn what_is_wrong_with_it_is_named() {
        let authority = authority();
        let good = issued(&authority, ID, &names());
        let other_key = PrivateKey::generate_p256().unwrap().to_pem();
        let other_id = issued(&authority, "spiffe://cluster.local/ns/istio-system/sa/other", &names());
        let other_names = issued(&authority, ID, &["istiod.istio-system.svc".to_owned()]);
        let foreign = issued(&crate::domain::authority::testing::authority(), ID, &names());
        for (certificate, key, marked, expected) in [
            ("", "", false, Judgement::Replace(Replace::Missing)),
            (&*good.certificate, &*other_key, false, Judgement::Replace(Replace::Damaged)),
            (&*good.certificate, "", true, Judgement::Replace(Replace::Damaged)),
            ("x", &*other_key, true, Judgement::Replace(Replace::Damaged)),
            ("x", &*other_key, false, Judgement::Conflict),
            (&*foreign.certificate, &*foreign.key.to_pem(), true, Judgement::Replace(Replace::OtherRoots)),
            (&*foreign.certificate, &*foreign.key.to_pem(), false, Judgement::Conflict),
            (&*other_id.certificate, &*other_id.key.to_pem(), true, Judgement::Replace(Replace::OtherNames)),
            (&*other_names.certificate, &*other_names.key.to_pem(), true, Judgement::Replace(Replace::OtherNames)),
        ] {
            let case = Case { is_marked: marked, ..Case::of(certificate, key) };
            assert_eq!(case.judged(&authority), expected);
        }
    }

    #[test]
    fn roots_beside_it_that_are_not_those_of_now_make_a_new_one() {
        let authority = authority();
        let Issued { certificate, key } = issued(&authority, ID, &names());
        let key = key.to_pem();
        let case = Case { is_marked: true, has_roots: false, ..Case::of(&certificate, &key) };
        assert_eq!(case.judged(&authority), Judgement::Replace(Replace::OtherRoots));
    }

    #[test]
    fn half_of_its_time_begins_with_its_receipt_where_that_is_known() {
        let authority = authority();
        let Issued { certificate, key } = issued(&authority, ID, &names());
        let key = key.to_pem();
        let case = Case { is_marked: true, only_marked: true, received: Some(NOW), ..Case::of(&certificate, &key) };
        let Judgement::GoodUntil(until) = case.judged(&authority) else { panic!("good") };
        assert_eq!(until.seconds(), NOW.seconds() + 43_200);
    }

    #[test]
    fn without_our_mark_a_gateways_secret_is_somebody_elses_whatever_it_holds() {
        let authority = authority();
        let Issued { certificate, key } = issued(&authority, ID, &names());
        for (certificate, key) in [("", ""), (&*certificate, &*key.to_pem()), ("x", "y")] {
            let case = Case { only_marked: true, ..Case::of(certificate, key) };
            assert_eq!(case.judged(&authority), Judgement::Conflict);
            let handed_over = Case { is_marked: true, is_usable: false, ..case };
            assert_eq!(handed_over.judged(&authority), Judgement::OtherType, "and with it, where it is of no use");
        }
    }
}
