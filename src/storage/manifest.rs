//! The manifest: what the state store has acknowledged. It lies beside the store, so that a store that has lost
//! something, or is gone, is noticed.

use std::{collections::BTreeMap, io};

use serde::{Deserialize, Serialize};

use super::{data_dir::DataDir, files, frame::FrameError};
use crate::domain::leadership::Term;

const FORMAT: u16 = 1;

/// Names the root in the content of the authority object: a fingerprint in hex, `None` if the content has none. Given by
/// whoever owns that encoding.
pub(super) type RootOf = fn(&[u8]) -> Option<String>;

/// What was acknowledged: never ahead of the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Manifest {
    format: u16,
    /// Fingerprint of the root, once there is one.
    pub(super) root: Option<String>,
    /// By the objects' names.
    pub(super) objects: BTreeMap<String, Acknowledged>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Acknowledged {
    pub(super) version: u64,
    /// The highest term that has claimed the object.
    pub(super) term: u64,
}

#[derive(Deserialize)]
struct Header {
    format: u16,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum ManifestError {
    #[error(transparent)]
    Content(FrameError),
    #[error("the manifest can't be read: {0}")]
    Io(io::Error),
}

impl Manifest {
    pub(super) const fn new(root: Option<String>, objects: BTreeMap<String, Acknowledged>) -> Self {
        Self { format: FORMAT, root, objects }
    }

    /// `None` if there is no manifest.
    pub(super) fn read(data_dir: &DataDir) -> Result<Option<Self>, ManifestError> {
        let Some(json) = files::read_if_present(&data_dir.manifest()).map_err(ManifestError::Io)? else {
            return Ok(None);
        };
        let content = |error: serde_json::Error| ManifestError::Content(FrameError::Content(error.to_string()));
        let Header { format } = serde_json::from_slice(&json).map_err(content)?;
        if format > FORMAT {
            return Err(ManifestError::Content(FrameError::Newer { found: format, known: FORMAT }));
        }
        serde_json::from_slice(&json).map(Some).map_err(content)
    }

    /// Durable when it returns.
    pub(super) fn write(&self, data_dir: &DataDir) -> io::Result<()> {
        let mut json = serde_json::to_vec(self)?;
        json.push(b'\n');
        files::write_atomically(&data_dir.manifest(), 0o600, &json)
    }

    pub(super) fn highest_term(&self) -> Term {
        Term::new(self.objects.values().map(|object| object.term).max().unwrap_or_default())
    }

    pub(super) fn object(&self, name: &str) -> Acknowledged {
        self.objects.get(name).copied().unwrap_or_default()
    }
}
