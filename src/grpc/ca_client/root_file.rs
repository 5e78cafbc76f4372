//! The file of roots that a CA's own certificate is verified to.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use tracing::{info, warn};

use crate::{domain::x509::Certificate, service::ports::SignError};

/// Roots that are read anew for each use. Whoever delivers them may be replacing them at that instant, or fail to: then
/// those that were read last go on.
pub(super) struct RootFile {
    path: PathBuf,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    pem: Option<Arc<[u8]>>,
    /// What is wrong with the file now.
    fault: Option<String>,
}

impl RootFile {
    /// Reads nothing yet.
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, kept: Mutex::default() }
    }

    /// The newest roots that were good, PEM. What is wrong with the file is logged once per change.
    pub(super) async fn read(&self) -> Result<Arc<[u8]>, SignError> {
        let found = tokio::fs::read(&self.path).await.map_err(|error| error.to_string()).and_then(|pem| {
            Certificate::all_from_pem(&pem).map_err(|error| error.to_string())?;
            Ok(Arc::from(pem))
        });
        self.newest(found)
    }

    fn newest(&self, found: Result<Arc<[u8]>, String>) -> Result<Arc<[u8]>, SignError> {
        let path = self.path.display();
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        match found {
            Ok(pem) => {
                if kept.fault.take().is_some() {
                    info!(event = "root_file_readable", %path);
                }
                kept.pem = Some(Arc::clone(&pem));
                Ok(pem)
            }
            Err(fault) => {
                let Some(pem) = kept.pem.clone() else {
                    return Err(SignError::Unavailable(format!("root file {path}: {fault}")));
                };
                if kept.fault.as_ref() != Some(&fault) {
                    warn!(event = "root_file_unreadable", %path, reason = fault, "going on with the roots read last");
                    kept.fault = Some(fault);
                }
                Ok(pem)
            }
        }
    }
}
