//! How the distribution stands, for readiness and people.

use std::{collections::BTreeSet, fmt};

use super::places::TLS_TYPE;
use crate::domain::{
    bundle::{Replace, Summary},
    clock::Timestamp,
};

/// Of each part, once it has something to say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DistributionStatus {
    /// The ConfigMap in each namespace.
    pub config_maps: Option<SpreadStatus>,
    /// The ClusterTrustBundle.
    pub cluster_trust_bundle: Option<SpreadStatus>,
    /// istiod's certificate.
    pub istiod: Option<CertificateStatus>,
}

/// Of the objects of one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpreadStatus {
    /// What they are called.
    pub name: String,
    /// SHA-256 of each of the roots that those which are right hold.
    pub roots: BTreeSet<[u8; 32]>,
    /// How many there are, and which of them are not right.
    pub summary: Summary,
    /// Why they can't be followed.
    pub problem: Option<String>,
}

impl SpreadStatus {
    /// Nobody has looked at them in this term.
    pub(super) fn unseen(name: &str) -> Self {
        let (name, problem) = (name.to_owned(), Some("not looked at yet".to_owned()));
        Self { name, roots: BTreeSet::new(), summary: Summary::default(), problem }
    }
}

/// Of a certificate in a Secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CertificateStatus {
    /// It is renewed at this time.
    Good {
        /// When.
        renewed_at: Timestamp,
        /// What is there, where that is read back.
        held: Option<Held>,
    },
    /// Nothing can be done yet.
    Waiting(String),
    /// Somebody else's stands there.
    Conflict,
    /// It is handed over to us, but of this type, which no write can change.
    OtherType(String),
    /// Another writer insists on another one.
    Fight,
    /// A new one is being made.
    Making {
        /// What for.
        why: Replace,
        /// What is there meanwhile.
        held: Option<Held>,
    },
    /// A new one could not be made or written.
    Failing {
        /// Why not.
        why: String,
        /// What is there meanwhile.
        held: Option<Held>,
    },
}

/// A certificate in a Secret that is read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Which.
    pub serial: String,
    /// When it was last read and found right, if it was.
    pub verified_at: Option<Timestamp>,
}

/// Places that are named; of more, only their number is told.
const NAMED: usize = 10;

impl fmt::Display for DistributionStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [
            self.config_maps.as_ref().map(ToString::to_string),
            self.cluster_trust_bundle.as_ref().map(ToString::to_string),
            self.istiod.as_ref().map(|istiod| format!("istiod-tls: {istiod}")),
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        f.write_str(if parts.is_empty() { "the active replica distributes" } else { "" })?;
        f.write_str(&parts.join("; "))
    }
}

impl fmt::Display for SpreadStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, roots: _, summary, problem } = self;
        write!(f, "{name}: {} of {}", summary.right, summary.wanted)?;
        for (what, places) in
            [("RootConflict", &summary.conflicts), ("fought over", &summary.fights), ("failing", &summary.failing)]
        {
            if !places.is_empty() {
                write!(f, ", {what}: {}", named(places))?;
            }
        }
        match problem {
            Some(problem) => write!(f, ", {problem}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for CertificateStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Good { renewed_at, held: None } => write!(f, "renewed at {renewed_at}"),
            Self::Good { renewed_at, held: Some(held) } => write!(f, "{held}, renewed at {renewed_at}"),
            Self::Waiting(what) => f.write_str(what),
            Self::Conflict => f.write_str("RootConflict, it is not ours"),
            Self::OtherType(kind) => {
                write!(f, "it is of type {kind}, which can't be changed: delete it, and it is made anew as {TLS_TYPE}")
            }
            Self::Fight => f.write_str("fought over, another writer changes it back"),
            Self::Making { why, held: None } => write!(f, "{why}, it is being made"),
            Self::Making { why, held: Some(held) } => write!(f, "{held}, {why}, a new one is being made"),
            Self::Failing { why, held: None } => write!(f, "failing, {why}"),
            Self::Failing { why, held: Some(held) } => write!(f, "{held}, failing, {why}"),
        }
    }
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { serial, verified_at } = self;
        match verified_at {
            Some(at) => write!(f, "serial {serial}, verified at {at}"),
            None => write!(f, "serial {serial}, not verified"),
        }
    }
}

/// The first of them, and how many more there are.
pub(crate) fn named(places: &[String]) -> String {
    let first = places.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join(" ");
    match places.len().checked_sub(NAMED) {
        Some(more @ 1..) => format!("{first} and {more} more"),
        _ => first,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_what_is_not_right() {
        let mut status = DistributionStatus::default();
        assert_eq!(status.to_string(), "the active replica distributes");
        let names = |count: usize| (0..count).map(|number| format!("n{number}")).collect::<Vec<_>>();
        let summary = Summary { wanted: 20, right: 7, conflicts: names(2), fights: Vec::new(), failing: names(11) };
        let name = "ConfigMap countersign-root-cert".to_owned();
        status.config_maps = Some(SpreadStatus {
            name,
            roots: BTreeSet::new(),
            summary,
            problem: Some("namespaces is forbidden".into()),
        });
        status.istiod = Some(CertificateStatus::Waiting("namespace istio-system is not there yet".into()));
        assert_eq!(
            status.to_string(),
            "ConfigMap countersign-root-cert: 7 of 20, RootConflict: n0 n1, \
             failing: n0 n1 n2 n3 n4 n5 n6 n7 n8 n9 and 1 more, namespaces is forbidden; \
             istiod-tls: namespace istio-system is not there yet"
        );
    }
}
