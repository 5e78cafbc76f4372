//! Where a test's replicas run.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::support::{authority::CaDir, caller::Caller, countersign::Serve};

/// A data directory and a folder for logs, both gone at the end.
pub(crate) struct Place(TempDir);

impl Place {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.0.path().join("data")
    }

    pub(crate) fn logs(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn start(&self, name: &str, ca: &CaDir) -> Serve {
        Serve::start(name, self.logs(), &self.data(), &ca.flags())
    }

    pub(crate) fn caller(&self, roots: &str) -> Caller {
        Caller::new(&self.data(), roots)
    }
}
