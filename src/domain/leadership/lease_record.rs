//! What stands in a lease, whoever keeps it.

use std::{fmt, sync::Arc};

use super::Term;

/// Who holds a lease: unique per process, so a restarted one is somebody else.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HolderId(Arc<str>);

impl HolderId {
    /// From its text.
    ///
    /// # Errors
    ///
    /// When it is empty, which in a lease means nobody.
    pub fn parse(text: &str) -> Result<Self, HolderIdError> {
        if text.is_empty() { Err(HolderIdError) } else { Ok(Self(text.into())) }
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for HolderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A holder identity was empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the holder identity is empty; an empty holder means that nobody holds the lease")]
pub struct HolderIdError;

/// The keeper's mark of one write of a record, only ever compared for equality. No two writes share one, also not
/// across deletion (a Kubernetes `resourceVersion` is such a mark).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Version(Arc<str>);

impl Version {
    /// From the keeper's text.
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }

    /// The keeper's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What a lease says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseRecord {
    /// The term of the holder, or of the one who released it.
    pub term: Term,
    /// Who is in it.
    pub occupancy: Occupancy,
}

/// Who is in a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Occupancy {
    /// This process.
    Held(HolderId),
    /// This process was active in the record's term and has left it. Only a holder writes this, so an adapter stores it
    /// as more than an empty holder: with a mark that names both the holder and the term, and reads it back only if the
    /// mark's term is the record's.
    Released(HolderId),
    /// Nobody, without the mark of a release: given up before it was used, or emptied by hand. It is waited out like a
    /// held one, for the former holder may not know yet.
    Vacant,
}

/// A record as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed {
    /// Its mark.
    pub version: Version,
    /// What it said.
    pub record: LeaseRecord,
}
