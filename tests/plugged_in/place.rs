//! Where a test's replicas run, and what they say of themselves.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use tempfile::TempDir;

use crate::{
    authority::CaDir,
    caller::Caller,
    support::{
        countersign::Serve,
        http::{self, loopback},
        wait::wait_until,
    },
};

const SOON: Duration = Duration::from_secs(10);

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

/// The page of `/readyz`, also of one that is not ready.
pub(crate) fn readiness(serve: &Serve) -> String {
    http::get(loopback(serve.admin_port), "/readyz").unwrap_or_else(|other| other)
}

/// The metric whose line begins with `start`.
pub(crate) fn metric(serve: &Serve, start: &str) -> u64 {
    let page = http::get(loopback(serve.admin_port), "/metrics").unwrap();
    let value = page.lines().find_map(|line| line.strip_prefix(start)?.trim().parse().ok());
    value.unwrap_or_else(|| panic!("no {start} in\n{page}"))
}

pub(crate) fn refused(serve: &Serve) -> u64 {
    metric(serve, "countersign_authority_reloads_total{outcome=\"refused\"}")
}

/// Waits until a replica says in its log, or its readiness, what `text` is.
pub(crate) fn wait_for(what: &str, text: &str, mut source: impl FnMut() -> String) {
    wait_until(SOON, what, || {
        let seen = source();
        if seen.contains(text) { Ok(()) } else { Err(seen) }
    });
}

/// How often a replica has said an event.
pub(crate) fn said(serve: &Serve, event: &str) -> usize {
    serve.process.errors().matches(&format!("event=\"{event}\"")).count()
}
