//! What the state store has acknowledged, kept outside of it: in memory, and as annotations beside the term in the lease and
//! on each object of the state. So an object that is gone, or older than it was, is noticed, and never taken for a new
//! beginning.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
};

use serde::{Deserialize, Serialize};

use super::ports::StateObject;
use crate::domain::leadership::Term;

/// The annotation with the fingerprint of the root, for people too. Empty if there is none.
pub const ROOT_ANNOTATION: &str = "countersign.io/root";
/// The annotation with what is known of each object, JSON.
pub const STATE_ANNOTATION: &str = "countersign.io/state";

/// What was acknowledged of the state as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Acknowledged {
    /// Fingerprint of the root in hex, once there is one of our own.
    pub root: Option<String>,
    /// The authority object.
    pub authority: Mark,
    /// The trust object.
    pub trust: Mark,
}

/// What was acknowledged of one object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// Grows with each write; 0 before the first.
    #[serde(default)]
    pub version: u64,
    /// The highest term that has claimed it; 0 if none.
    #[serde(default)]
    pub term: u64,
    /// SHA-256 of the content in hex; empty if there is none.
    #[serde(default)]
    pub digest: String,
}

/// The JSON of [`STATE_ANNOTATION`]. What a later version adds is passed over.
#[derive(Serialize, Deserialize)]
struct Marks {
    #[serde(default)]
    authority: Mark,
    #[serde(default)]
    trust: Mark,
}

/// Why annotations say nothing about the state.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the annotation {STATE_ANNOTATION} can't be read: {0}")]
pub struct ManifestError(String);

impl Acknowledged {
    /// From the annotations of an object; the default if it bears none of these.
    ///
    /// # Errors
    ///
    /// When they are there, but can't be read.
    pub fn parse(annotations: &BTreeMap<String, String>) -> Result<Self, ManifestError> {
        let root = annotations.get(ROOT_ANNOTATION).filter(|root| !root.is_empty()).cloned();
        let Marks { authority, trust } = match annotations.get(STATE_ANNOTATION) {
            Some(text) => serde_json::from_str(text).map_err(|error| ManifestError(error.to_string()))?,
            None if root.is_some() => return Err(ManifestError(format!("it is missing beside {ROOT_ANNOTATION}"))),
            None => Marks { authority: Mark::default(), trust: Mark::default() },
        };
        Ok(Self { root, authority, trust })
    }

    /// As annotations, names and values.
    pub fn annotations(&self) -> [(&'static str, String); 2] {
        let marks = Marks { authority: self.authority.clone(), trust: self.trust.clone() };
        // plain structures of numbers and texts always have a JSON form
        let marks = serde_json::to_string(&marks).unwrap_or_default();
        [(ROOT_ANNOTATION, self.root.clone().unwrap_or_default()), (STATE_ANNOTATION, marks)]
    }

    /// What is known of an object.
    pub const fn mark(&self, object: StateObject) -> &Mark {
        match object {
            StateObject::Authority => &self.authority,
            StateObject::Trust => &self.trust,
        }
    }

    /// Whether there has ever been anything.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The highest term that has claimed an object.
    pub fn highest_term(&self) -> Term {
        Term::new(self.authority.term.max(self.trust.term))
    }

    /// Takes over what is newer in `other`, object by object.
    pub fn merge(&mut self, other: &Self) {
        if other.authority.version > self.authority.version || (self.root.is_none() && self.authority.version == 0) {
            self.root.clone_from(&other.root);
        }
        self.authority.merge(&other.authority);
        self.trust.merge(&other.trust);
    }
}

impl Mark {
    fn merge(&mut self, other: &Self) {
        if other.version > self.version {
            self.version = other.version;
            self.digest.clone_from(&other.digest);
        }
        self.term = self.term.max(other.term);
    }
}

/// The manifest of a replica. The state store writes it; whoever keeps the lease puts it there with each write of its own,
/// and hands in what it finds there.
#[derive(Debug, Default)]
pub struct StateManifest(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    known: Acknowledged,
    /// The term in which this replica itself claimed the state. Nobody else has acknowledged anything up to it.
    own_term: Term,
    /// Annotations that could not be read: that there has been something is known, but not what.
    unreadable: Option<ManifestError>,
}

/// What a manifest knows, at one instant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// What was acknowledged.
    pub acknowledged: Acknowledged,
    /// Why there may have been more.
    pub unreadable: Option<ManifestError>,
}

impl StateManifest {
    /// The annotations to write into the lease, names and values, with each write.
    pub fn annotations(&self) -> [(&'static str, String); 2] {
        self.locked().known.annotations()
    }

    /// Takes over what is newer in the annotations of a lease that bears `term`. A lease of this replica's own term, or of an
    /// older one, tells nothing new: what is wrong there is put right by the next write.
    ///
    /// # Errors
    ///
    /// When the annotations are there, but can't be read. That is remembered: a state that is gone is then taken for lost, not
    /// for new.
    pub fn learn(&self, annotations: &BTreeMap<String, String>, term: Term) -> Result<(), ManifestError> {
        let mut inner = self.locked();
        if term > Term::NONE && term <= inner.own_term {
            return Ok(());
        }
        match Acknowledged::parse(annotations) {
            Ok(found) => inner.known.merge(&found),
            Err(error) => {
                inner.unreadable = Some(error.clone());
                return Err(error);
            }
        }
        Ok(())
    }

    /// What the state store has read and checked, or written, under a claim for `term`.
    pub fn acknowledge(&self, state: Acknowledged, term: Term) {
        *self.locked() = Inner { known: state, own_term: term, unreadable: None };
    }

    /// What is known now.
    pub fn known(&self) -> Known {
        let inner = self.locked();
        Known { acknowledged: inner.known.clone(), unreadable: inner.unreadable.clone() }
    }

    /// A panic under this lock leaves a whole value behind, so a poisoned lock is a lock.
    fn locked(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Display for Acknowledged {
    /// For people: `root 1f…, authority version 2 of term 7, trust version 5 of term 7`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.root {
            Some(root) => write!(f, "root {root}")?,
            None => f.write_str("no root")?,
        }
        for (name, mark) in [("authority", &self.authority), ("trust", &self.trust)] {
            write!(f, ", {name} version {} of term {}", mark.version, mark.term)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(version: u64, term: u64, digest: &str) -> Mark {
        Mark { version, term, digest: digest.into() }
    }

    fn state(root: &str, authority: Mark, trust: Mark) -> Acknowledged {
        Acknowledged { root: Some(root.into()), authority, trust }
    }

    fn found(state: &Acknowledged) -> BTreeMap<String, String> {
        state.annotations().into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    #[test]
    fn annotations_come_back_as_they_were_written() {
        let empty = Acknowledged::default();
        assert_eq!(Acknowledged::parse(&found(&empty)).unwrap(), empty);
        assert_eq!(Acknowledged::parse(&BTreeMap::new()).unwrap(), empty);
        let full = state("ab", mark(1, 7, "d1"), mark(5, 6, "d2"));
        assert_eq!(Acknowledged::parse(&found(&full)).unwrap(), full);
        assert_eq!(
            full.annotations()[1].1,
            r#"{"authority":{"version":1,"term":7,"digest":"d1"},"trust":{"version":5,"term":6,"digest":"d2"}}"#
        );
    }

    #[test]
    fn fields_of_a_later_version_are_passed_over_and_missing_ones_are_zero() {
        let text = r#"{"authority":{"version":3,"seal":"x"},"more":[1]}"#;
        let annotations = BTreeMap::from([(STATE_ANNOTATION.to_owned(), text.to_owned())]);
        let parsed = Acknowledged::parse(&annotations).unwrap();
        assert_eq!(parsed, Acknowledged { authority: mark(3, 0, ""), ..Acknowledged::default() });
    }

    #[test]
    fn what_can_not_be_read_is_remembered_until_the_state_was_claimed() {
        let manifest = StateManifest::default();
        let broken = BTreeMap::from([(STATE_ANNOTATION.to_owned(), "{".to_owned())]);
        assert!(manifest.learn(&broken, Term::new(3)).unwrap_err().to_string().contains(STATE_ANNOTATION));
        let half = BTreeMap::from([(ROOT_ANNOTATION.to_owned(), "ab".to_owned())]);
        manifest.learn(&half, Term::new(3)).unwrap_err();
        assert!(manifest.known().unreadable.is_some());
        manifest.learn(&BTreeMap::new(), Term::new(4)).unwrap();
        assert!(manifest.known().unreadable.is_some());
        manifest.acknowledge(Acknowledged::default(), Term::new(4));
        assert_eq!(manifest.known(), Known::default());
    }

    #[test]
    fn only_what_is_newer_is_learnt() {
        let manifest = StateManifest::default();
        manifest.learn(&found(&state("ab", mark(2, 5, "new"), mark(3, 5, "t3"))), Term::new(5)).unwrap();
        manifest.learn(&found(&state("cd", mark(1, 9, "old"), mark(4, 4, "t4"))), Term::new(9)).unwrap();
        assert_eq!(manifest.known().acknowledged, state("ab", mark(2, 9, "new"), mark(4, 5, "t4")));
        manifest.learn(&found(&state("cd", mark(3, 9, "newer"), Mark::default())), Term::new(9)).unwrap();
        assert_eq!(manifest.known().acknowledged, state("cd", mark(3, 9, "newer"), mark(4, 5, "t4")));
        manifest.learn(&BTreeMap::new(), Term::new(10)).unwrap();
        assert_eq!(manifest.known().acknowledged.root.as_deref(), Some("cd"));
    }

    #[test]
    fn a_lease_of_the_own_term_or_an_older_one_teaches_nothing() {
        let manifest = StateManifest::default();
        let own = state("ab", mark(2, 7, "d"), mark(2, 7, "d"));
        manifest.acknowledge(own.clone(), Term::new(7));
        let edited = found(&state("cd", mark(99, 99, "x"), mark(99, 99, "x")));
        for term in [6, 7] {
            manifest.learn(&edited, Term::new(term)).unwrap();
            assert_eq!(manifest.known().acknowledged, own);
        }
        manifest.learn(&edited, Term::new(8)).unwrap();
        assert_eq!(manifest.known().acknowledged.authority.version, 99);
    }
}
