//! The roots that a CA's own certificate is verified to, from every source there is.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::sleep;
use tracing::{info, warn};

use crate::{domain::x509::Certificate, service::ca_roots::FollowedRoots};

/// Where the roots come from: followed ones go first, a file that is read anew each time is the other source.
///
/// Both are tried. The one that is delivered late must not keep an agent from a CA whose root the other has already.
pub struct CaRoots {
    followed: Option<FollowedRoots>,
    file: Option<RootFile>,
}

/// What the sources hold now, each set PEM, the newest first; none is there twice. Empty: not known yet.
pub type RootSets = Vec<Arc<[u8]>>;

/// How often a file is looked at for a change that nobody tells of.
const LOOK_EVERY: Duration = Duration::from_secs(2);

impl From<PathBuf> for CaRoots {
    fn from(file: PathBuf) -> Self {
        Self::new(None, Some(file))
    }
}

impl CaRoots {
    /// From these sources. Nothing is read yet.
    pub fn new(followed: Option<FollowedRoots>, file: Option<PathBuf>) -> Self {
        Self { followed, file: file.map(RootFile::new) }
    }

    /// All sets that there are, at least one.
    ///
    /// # Errors
    ///
    /// What each source lacks, when none has ever had a good one.
    pub async fn newest(&self) -> Result<RootSets, String> {
        let (mut sets, mut absences) = (RootSets::new(), Vec::new());
        match self.followed.as_ref().map(FollowedRoots::newest) {
            Some(Ok(set)) => sets.push(set),
            Some(Err(absence)) => absences.push(absence.to_string()),
            None => {}
        }
        if let Some(file) = &self.file {
            match file.read().await {
                Ok(set) if sets.contains(&set) => {}
                Ok(set) => sets.push(set),
                Err(absence) => absences.push(absence),
            }
        }
        if sets.is_empty() { Err(absences.join("; ")) } else { Ok(sets) }
    }

    /// Waits until the sets are others than `known`, which holds them then.
    pub async fn changed(&self, known: &mut RootSets) {
        let mut followed = self.followed.clone();
        loop {
            if let Ok(newest) = self.newest().await
                && newest != *known
            {
                *known = newest;
                return;
            }
            tokio::select! {
                () = change_of(&mut followed) => {}
                () = sleep(LOOK_EVERY), if self.file.is_some() => {}
            }
        }
    }

    /// A CA could not be verified by any set: whoever follows roots looks whether there are newer ones.
    pub(in crate::grpc) fn look_again(&self) {
        if let Some(followed) = &self.followed {
            followed.look_again();
        }
    }
}

async fn change_of(followed: &mut Option<FollowedRoots>) {
    match followed {
        Some(followed) => followed.changed().await,
        None => std::future::pending().await,
    }
}

/// Roots that are read anew for each use. Whoever delivers them may be replacing them at that instant, or fail to: then
/// those that were read last go on.
struct RootFile {
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
    fn new(path: PathBuf) -> Self {
        Self { path, kept: Mutex::default() }
    }

    /// The newest roots that were good, PEM. What is wrong with the file is logged once per change.
    async fn read(&self) -> Result<Arc<[u8]>, String> {
        let found = tokio::fs::read(&self.path).await.map_err(|error| error.to_string()).and_then(|pem| {
            Certificate::all_from_pem(&pem).map_err(|error| error.to_string())?;
            Ok(Arc::from(pem))
        });
        self.newest(found)
    }

    fn newest(&self, found: Result<Arc<[u8]>, String>) -> Result<Arc<[u8]>, String> {
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
                    return Err(format!("root file {path}: {fault}"));
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
