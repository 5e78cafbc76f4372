//! One row of the table: a proof, and what comes of it.

use countersign::domain::attestation::Evidence;

/// Where the caller asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum At {
    Active,
    Standby,
}

/// Who finds out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum By {
    /// The replica that is asked, by itself.
    Replica,
    /// The active, by itself: the standby has forwarded it.
    Active,
    /// The API server, asked once.
    ApiServer,
}

#[derive(Clone, Debug)]
pub(crate) enum Expected {
    /// To this account; the proof on record contains these.
    Issued { account: String, proof: Vec<String> },
    /// The reason in the log contains this.
    Refused(&'static str),
}

#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) evidence: Evidence,
    pub(crate) impersonated: String,
    pub(crate) at: At,
    pub(crate) by: By,
    pub(crate) expected: Expected,
}

impl Row {
    /// Refused until something else is said.
    pub(crate) fn new(name: &'static str, evidence: Evidence) -> Self {
        let (at, by, expected) = (At::Active, By::Replica, Expected::Refused("no reason given"));
        Self { name, evidence, impersonated: String::new(), at, by, expected }
    }

    pub(crate) fn in_cluster(mut self, cluster: &str) -> Self {
        cluster.clone_into(&mut self.evidence.cluster);
        self
    }

    pub(crate) fn impersonating(mut self, id: &str) -> Self {
        id.clone_into(&mut self.impersonated);
        self
    }

    pub(crate) fn at_the_standby(mut self) -> Self {
        self.at = At::Standby;
        self
    }

    pub(crate) fn by(mut self, by: By) -> Self {
        self.by = by;
        self
    }

    pub(crate) fn issued(mut self, account: &str, proof: &[&str]) -> Self {
        let proof = proof.iter().map(|part| (*part).to_owned()).collect();
        self.expected = Expected::Issued { account: account.to_owned(), proof };
        self
    }

    pub(crate) fn refused(mut self, reason: &'static str) -> Self {
        self.expected = Expected::Refused(reason);
        self
    }
}
