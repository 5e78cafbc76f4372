//! A warning of a key that others can read, in a file that somebody else writes.

use std::{
    path::Path,
    sync::atomic::{AtomicU32, Ordering},
};

use tracing::warn;

/// What is known of the file's mode, so that it is said once for each that it has. Secrets are mounted readable for all in a
/// pod, so it can't be an error.
#[derive(Debug)]
pub(super) struct ExposedKey {
    event: &'static str,
    mode: AtomicU32,
}

impl ExposedKey {
    /// Says it under this name.
    pub(super) const fn new(event: &'static str) -> Self {
        Self { event, mode: AtomicU32::new(0) }
    }

    pub(super) fn warn_of_exposed_key(&self, file: &Path, mode: u32) {
        let exposed = if mode & 0o077 == 0 { 0 } else { mode };
        if self.mode.swap(exposed, Ordering::Relaxed) != exposed && exposed != 0 {
            warn!(event = self.event, file = %file.display(), mode = %format_args!("{mode:04o}"), "the key is open to others: outside a pod run `chmod 600` on it");
        }
    }

    #[cfg(test)]
    pub(super) fn noted(&self) -> u32 {
        self.mode.load(Ordering::Relaxed)
    }
}
