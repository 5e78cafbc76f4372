//! The data directory: where each file of a pair on one machine lies. Only its owner may enter it.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use super::{files, slot::Slot};
use crate::domain::clock::Timestamp;

const QUARANTINE: &str = "quarantine-";

/// A data directory that was checked: it exists, is ours, and closed to everybody else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataDir {
    path: PathBuf,
}

/// Why a directory can't be the data directory.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// Others may read or enter it.
    #[error("data directory {path} is open to others (mode {mode:04o}), and keys lie in it: run `chmod 700 {path}`")]
    Exposed {
        /// The directory.
        path: String,
        /// Its permission bits.
        mode: u32,
    },
    /// Another user's.
    #[error(
        "data directory {path} belongs to user {owner}, this process runs as {own}: run it as that user or choose \
         another --data-dir"
    )]
    Foreign {
        /// The directory.
        path: String,
        /// Its owner's uid.
        owner: u32,
        /// The process's uid.
        own: u32,
    },
    /// No replica has ever used it.
    #[error("{0} is no data directory of a pair: start `countersign serve --data-dir {0}` first")]
    Unused(String),
    /// The path is something else.
    #[error("data directory {0} is not a directory: choose another --data-dir")]
    NotDirectory(String),
    /// It can't be made or read.
    #[error("data directory {path} can't be used: {error}")]
    Io {
        /// The directory.
        path: String,
        /// What the system said.
        error: io::Error,
    },
}

impl DataDir {
    /// Opens a data directory for a replica: makes it, for its owner alone, if it is missing, and removes what writers that
    /// were killed have left in it.
    ///
    /// # Errors
    ///
    /// When it can't be made, is no directory, belongs to somebody else, or others may read or enter it.
    pub fn open(path: &Path) -> Result<Self, DataDirError> {
        let failed = |error| DataDirError::Io { path: path.display().to_string(), error };
        if !path.try_exists().map_err(failed)? {
            files::create_private_directory(path).map_err(failed)?;
        }
        let data_dir = Self::checked(path)?;
        data_dir.complete().and_then(|()| data_dir.remove_leftovers()).map_err(failed)?;
        Ok(data_dir)
    }

    /// Opens a data directory that a replica has used. Never makes one.
    ///
    /// # Errors
    ///
    /// [`DataDirError::Unused`] if there is nothing of a replica's in it; else as [`Self::open`].
    pub fn open_existing(path: &Path) -> Result<Self, DataDirError> {
        let failed = |error| DataDirError::Io { path: path.display().to_string(), error };
        if !path.try_exists().map_err(failed)? {
            return Err(DataDirError::Unused(path.display().to_string()));
        }
        let data_dir = Self::checked(path)?;
        if !data_dir.is_used().map_err(failed)? {
            return Err(DataDirError::Unused(path.display().to_string()));
        }
        data_dir.complete().map_err(failed)?;
        Ok(data_dir)
    }

    fn checked(path: &Path) -> Result<Self, DataDirError> {
        let shown = path.display().to_string();
        let metadata = fs::metadata(path).map_err(|error| DataDirError::Io { path: shown.clone(), error })?;
        if !metadata.is_dir() {
            return Err(DataDirError::NotDirectory(shown));
        }
        let own = rustix::process::geteuid().as_raw();
        if metadata.uid() != own {
            return Err(DataDirError::Foreign { path: shown, owner: metadata.uid(), own });
        }
        let mode = metadata.permissions().mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(DataDirError::Exposed { path: shown, mode });
        }
        Ok(Self { path: path.to_owned() })
    }

    /// Damage may have taken any of these.
    fn is_used(&self) -> io::Result<bool> {
        for part in [self.state(), self.manifest(), self.lock(), self.pair(), self.issuance(), self.token_issuer_key()]
        {
            if part.try_exists()? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn complete(&self) -> io::Result<()> {
        [self.pair(), self.issuance()].iter().try_for_each(|inner| files::create_private_directory(inner))
    }

    fn remove_leftovers(&self) -> io::Result<()> {
        let mut directories = vec![self.path.clone(), self.pair()];
        directories.extend(self.slots_with_logs()?.into_iter().map(|slot| self.issuance_of(slot)));
        directories.iter().try_for_each(|directory| files::remove_leftovers(directory))
    }

    /// The directory itself, as it was given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The state store; opened by the holder of [`Self::lock`] only.
    pub fn state(&self) -> PathBuf {
        self.path.join("state")
    }

    /// What the state store has acknowledged.
    pub fn manifest(&self) -> PathBuf {
        self.path.join("manifest")
    }

    /// The lock of the active.
    pub fn lock(&self) -> PathBuf {
        self.path.join("lock")
    }

    /// The issuance logs, one directory a slot.
    pub fn issuance(&self) -> PathBuf {
        self.path.join("issuance")
    }

    /// The issuance log of one slot.
    pub fn issuance_of(&self, slot: Slot) -> PathBuf {
        self.issuance().join(slot.to_string())
    }

    /// The slots that have an issuance log, in order.
    ///
    /// # Errors
    ///
    /// When the directory can't be read.
    pub fn slots_with_logs(&self) -> io::Result<Vec<Slot>> {
        let mut slots = Vec::new();
        for entry in fs::read_dir(self.issuance())? {
            slots.extend(entry?.file_name().to_str().and_then(|name| name.parse::<Slot>().ok()));
        }
        slots.sort_unstable();
        Ok(slots)
    }

    /// What replicas tell each other: small public files, lock files, sockets.
    pub fn pair(&self) -> PathBuf {
        self.path.join("pair")
    }

    /// The socket on which the replica of a slot takes requests of its peers.
    pub fn pair_socket(&self, slot: Slot) -> PathBuf {
        self.pair().join(format!("{slot}.sock"))
    }

    /// The embedded token issuer's key.
    pub fn token_issuer_key(&self) -> PathBuf {
        self.path.join("token-issuer.key")
    }

    /// The trust bundle, for clients.
    pub fn root_cert(&self) -> PathBuf {
        self.path.join("root-cert.pem")
    }

    /// The operators' socket.
    pub fn admin_socket(&self) -> PathBuf {
        self.path.join("admin.sock")
    }

    /// The workload's socket, unless configured otherwise.
    pub fn workload_socket(&self) -> PathBuf {
        self.path.join("workload.sock")
    }

    /// Where `countersign recover` puts what can't be used.
    pub(super) fn quarantine(&self, now: Timestamp) -> PathBuf {
        self.path.join(format!("{QUARANTINE}{}", now.seconds()))
    }

    /// Whether anything was ever put aside.
    pub(super) fn has_quarantine(&self) -> io::Result<bool> {
        for entry in fs::read_dir(&self.path)? {
            if entry?.file_name().to_str().is_some_and(|name| name.starts_with(QUARANTINE)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// What an error about damage ends with: the command that examines the directory and can make way for a new start.
    pub(super) fn advice(&self) -> String {
        format!("run `countersign recover --data-dir {}`", self.path.display())
    }

    /// The same for an issuance log, which nobody has to give up a root for.
    pub(super) fn advice_for_logs(&self) -> String {
        let path = self.path.display();
        format!(
            "restore it from a backup, or put it aside with `countersign recover --data-dir {path} --set-logs-aside`: \
             the root stays"
        )
    }
}

/// Writes a small file whole or not at all, durable when it returns; `mode` holds its permission bits. For the public
/// files of the data directory, such as the trust bundle.
///
/// # Errors
///
/// When the file system refuses; the old content stands then.
pub fn write_atomically(path: &Path, mode: u32, content: &[u8]) -> io::Result<()> {
    files::write_atomically(path, mode, content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn makes_a_private_directory_and_opens_it_again() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("a/b");
        let first = DataDir::open(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(DataDir::open(&path).unwrap(), first);
    }

    #[test]
    fn refuses_what_others_can_read_and_names_the_fix() {
        let base = tempfile::tempdir().unwrap();
        for mode in [0o750, 0o705, 0o701, 0o777] {
            fs::set_permissions(base.path(), fs::Permissions::from_mode(mode)).unwrap();
            let error = DataDir::open(base.path()).unwrap_err().to_string();
            assert!(error.contains("chmod 700"), "{mode:o}: {error}");
        }
    }

    #[test]
    fn what_no_replica_has_used_is_not_made_one() {
        let base = tempfile::tempdir().unwrap();
        fs::set_permissions(base.path(), fs::Permissions::from_mode(0o700)).unwrap();
        for path in [base.path().to_owned(), base.path().join("missing")] {
            assert!(matches!(DataDir::open_existing(&path), Err(DataDirError::Unused(_))));
        }
        assert_eq!(fs::read_dir(base.path()).unwrap().count(), 0);
        let made = DataDir::open(base.path()).unwrap();
        fs::remove_dir(made.pair()).unwrap();
        assert_eq!(DataDir::open_existing(base.path()).unwrap(), made);
        assert!(made.pair().is_dir());
    }

    #[test]
    fn a_replica_removes_what_killed_writers_left() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("data");
        let data_dir = DataDir::open(&path).unwrap();
        let log = data_dir.issuance_of(Slot::new(0));
        fs::create_dir(&log).unwrap();
        let left = [
            data_dir.token_issuer_key().with_extension("key.countersign-tmp"),
            data_dir.pair().join("replica-0.json.countersign-tmp"),
            log.join("head.countersign-tmp"),
        ];
        left.iter().for_each(|file| fs::write(file, "half").unwrap());
        DataDir::open(&path).unwrap();
        left.iter().for_each(|file| assert!(!file.exists(), "{}", file.display()));
    }

    #[test]
    fn refuses_a_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(matches!(DataDir::open(file.path()), Err(DataDirError::NotDirectory(_))));
    }
}
