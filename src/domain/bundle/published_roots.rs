//! The roots that are to stand in a place, and what is found there, known by digests: a place's text is not kept.

use std::{collections::BTreeSet, fmt, sync::Arc};

use ring::digest::{SHA256, digest};

use crate::domain::x509::{Certificate, TrustBundle};

/// Our roots, and how a place says that we wrote them.
#[derive(Clone, PartialEq, Eq)]
pub struct OwnRoots {
    text: Arc<str>,
    certificates: BTreeSet<Fingerprint>,
    publisher: Arc<str>,
    mark: String,
}

/// What stands in a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundRoots {
    content: Content,
    digest: Fingerprint,
    mark: Option<Box<str>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Content {
    Nothing,
    Certificates(BTreeSet<Fingerprint>),
    Unreadable,
}

/// What to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Exactly our roots stand there, in whatever order and form.
    Right,
    /// Ours are to be written.
    Write,
    /// Somebody else's roots stand there: to overwrite them would cut off whoever relies on them.
    Conflict,
}

/// SHA-256.
type Fingerprint = [u8; 32];

/// More certificates than anybody's trust bundle has. What is beyond is not kept, so a place can't make us hold much.
const MAX_CERTIFICATES: usize = 256;

impl OwnRoots {
    /// `text` is what is written, the certificates of `bundle` in PEM. `publisher` names the pair within its cluster.
    pub fn new(text: &str, bundle: &TrustBundle, publisher: &str) -> Self {
        let mark = format!("{publisher}/{}", hex(&sha256(text)));
        let certificates = bundle.roots().iter().map(Certificate::fingerprint).collect();
        Self { text: text.into(), certificates, publisher: publisher.into(), mark }
    }

    /// SHA-256 of each.
    pub const fn fingerprints(&self) -> &BTreeSet<[u8; 32]> {
        &self.certificates
    }

    /// What is written, PEM.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Stands beside the text, and says whose it is: the publisher, and the digest of the text that it wrote.
    pub fn mark(&self) -> &str {
        &self.mark
    }

    /// What to do about what is found in a place.
    ///
    /// What holds no root but ours may be extended. What bears our mark is ours to keep right, however it was edited; but
    /// roots that were written under our name and have nothing in common with those of now are from a pair whose root is
    /// lost, and there are workloads that still rely on it.
    pub fn verdict(&self, found: &FoundRoots) -> Verdict {
        let certificates = match &found.content {
            Content::Nothing => return Verdict::Write,
            Content::Certificates(certificates) if *certificates == self.certificates => return Verdict::Right,
            Content::Certificates(certificates) => Some(certificates),
            Content::Unreadable => None,
        };
        if certificates.is_some_and(|found| found.is_subset(&self.certificates)) {
            return Verdict::Write;
        }
        match self.written_under_our_name(found) {
            None => Verdict::Conflict,
            Some(written) if written != hex(&found.digest) => Verdict::Write,
            Some(_as_written) => match certificates {
                Some(found) if found.is_disjoint(&self.certificates) => Verdict::Conflict,
                _ => Verdict::Write,
            },
        }
    }

    /// Whether our pair wrote what is found, now or earlier, and nobody has changed it since.
    pub fn are_source_of(&self, found: &FoundRoots) -> bool {
        self.written_under_our_name(found).is_some_and(|written| written == hex(&found.digest))
    }

    /// The digest of what our pair wrote last, by the mark.
    fn written_under_our_name<'a>(&self, found: &'a FoundRoots) -> Option<&'a str> {
        found.mark.as_deref()?.strip_prefix(&*self.publisher)?.strip_prefix('/')
    }

    /// What a place holds once these are written there.
    pub fn as_found(&self) -> FoundRoots {
        FoundRoots::read(Some(&self.text), Some(&self.mark))
    }
}

impl fmt::Debug for OwnRoots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OwnRoots({} certificates, {})", self.certificates.len(), self.mark)
    }
}

impl FoundRoots {
    /// From the text of a place and the mark beside it, where there are any.
    pub fn read(text: Option<&str>, mark: Option<&str>) -> Self {
        let text = text.unwrap_or_default();
        let content = if text.trim().is_empty() {
            Content::Nothing
        } else {
            match Certificate::all_from_pem(text.as_bytes()) {
                Ok(certificates) if certificates.len() <= MAX_CERTIFICATES => {
                    Content::Certificates(certificates.iter().map(Certificate::fingerprint).collect())
                }
                _ => Content::Unreadable,
            }
        };
        Self { content, digest: sha256(text), mark: mark.map(Into::into) }
    }
}

fn sha256(text: &str) -> Fingerprint {
    let mut fingerprint = [0; 32];
    let computed = digest(&SHA256, text.as_bytes());
    fingerprint.iter_mut().zip(computed.as_ref()).for_each(|(to, from)| *to = *from);
    fingerprint
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::authority::testing::authority;

    fn root() -> Certificate {
        authority().certificate().clone()
    }

    fn own(roots: &[&Certificate]) -> OwnRoots {
        let bundle = TrustBundle::new("td".parse().unwrap(), roots.iter().copied().cloned().collect()).unwrap();
        OwnRoots::new(&bundle.to_pem(), &bundle, "countersign")
    }

    fn pem(roots: &[&Certificate]) -> String {
        roots.iter().map(|root| root.to_pem()).collect()
    }

    fn unmarked(text: &str) -> FoundRoots {
        FoundRoots::read(Some(text), None)
    }

    #[test]
    fn without_our_mark_only_what_holds_no_root_but_ours_is_written_over() {
        let (a, b, c) = (root(), root(), root());
        let ours = own(&[&a, &b]);
        for (text, verdict) in [
            (String::new(), Verdict::Write),
            (" \n".into(), Verdict::Write),
            (pem(&[&a]), Verdict::Write),
            (pem(&[&b, &a]), Verdict::Right),
            (format!("# both\n{}\n", pem(&[&a, &b, &a])), Verdict::Right),
            (pem(&[&c]), Verdict::Conflict),
            (pem(&[&a, &b, &c]), Verdict::Conflict),
            ("not a certificate".into(), Verdict::Conflict),
            (format!("{}-----BEGIN CERTIFICATE-----", pem(&[&a])), Verdict::Conflict),
        ] {
            assert_eq!(ours.verdict(&unmarked(&text)), verdict, "{text}");
        }
        assert_eq!(ours.verdict(&FoundRoots::read(None, None)), Verdict::Write);
        assert_eq!(ours.verdict(&ours.as_found()), Verdict::Right);
    }

    #[test]
    fn a_rotation_by_overlapping_bundles_meets_no_conflict() {
        let (a, b) = (root(), root());
        let stages = [own(&[&a]), own(&[&a, &b]), own(&[&b])];
        for (before, after) in [(0, 1), (1, 2), (2, 1), (1, 0)] {
            assert_eq!(stages[after].verdict(&stages[before].as_found()), Verdict::Write, "{before} to {after}");
        }
    }

    #[test]
    fn roots_of_a_lost_pair_and_of_another_pair_are_a_conflict_although_they_are_marked() {
        let (a, b) = (root(), root());
        assert_eq!(own(&[&b]).verdict(&own(&[&a]).as_found()), Verdict::Conflict);
        let bundle = TrustBundle::new("td".parse().unwrap(), vec![a.clone(), b.clone()]).unwrap();
        let other = OwnRoots::new(&bundle.to_pem(), &bundle, "countersign-2");
        assert_eq!(own(&[&b]).verdict(&other.as_found()), Verdict::Conflict);
        let other = OwnRoots::new(&bundle.to_pem(), &bundle, "counter");
        assert_eq!(own(&[&b]).verdict(&other.as_found()), Verdict::Conflict);
    }

    #[test]
    fn what_we_wrote_and_somebody_edited_is_put_right() {
        let (a, b) = (root(), root());
        let ours = own(&[&a]);
        for text in [pem(&[&b]), "edited".into(), pem(&[&a, &b])] {
            assert_eq!(ours.verdict(&FoundRoots::read(Some(&text), Some(ours.mark()))), Verdict::Write, "{text}");
        }
    }

    #[test]
    fn more_certificates_than_a_bundle_has_are_not_kept() {
        let many = pem(&[&root()]).repeat(MAX_CERTIFICATES + 1);
        assert_eq!(unmarked(&many).content, Content::Unreadable);
    }
}
