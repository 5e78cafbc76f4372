//! The folder of a quickstart: a new one among the temporary files, or one that the user names.

use std::{
    env,
    fmt::Write as _,
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf, absolute},
};

use super::QuickstartError;
use crate::{domain::random::SecureRandom, runtime::seams::RingRandom};

/// It exists, is empty at first, and only its owner may enter it.
pub(super) struct Folder(PathBuf);

impl Folder {
    /// A new one in the system's place for temporary files, or `keep`, which is made if it is missing.
    pub(super) fn make(keep: Option<&Path>) -> Result<Self, QuickstartError> {
        let path = keep.map_or_else(temporary_name, |keep| absolute(keep).map_err(QuickstartError::Io))?;
        let refused = |problem: String| QuickstartError::Folder { path: path.display().to_string(), problem };
        match fs::read_dir(&path).map(|mut entries| entries.next().is_some()) {
            Ok(false) if keep.is_some() => {}
            Ok(_) => return Err(refused("something is in it: name one that is empty or missing".into())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let made = DirBuilder::new().recursive(keep.is_some()).mode(0o700).create(&path);
                made.map_err(|error| refused(error.to_string()))?;
            }
            Err(error) => return Err(refused(error.to_string())),
        }
        Ok(Self(path))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    pub(super) fn remove(self) -> Result<(), QuickstartError> {
        fs::remove_dir_all(&self.0).map_err(|error| QuickstartError::Folder {
            path: self.0.display().to_string(),
            problem: format!("it can't be removed: {error}"),
        })
    }
}

/// Nobody can have foreseen it; a folder that is there already is refused all the same.
fn temporary_name() -> Result<PathBuf, QuickstartError> {
    let mut bytes = [0; 6];
    RingRandom::new().fill(&mut bytes).map_err(io::Error::other)?;
    let mut name = "countersign-".to_owned();
    for byte in bytes {
        write!(name, "{byte:02x}").map_err(io::Error::other)?;
    }
    Ok(env::temp_dir().join(name))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_temporary_one_is_private_and_goes_again() {
        let folder = Folder::make(None).unwrap();
        let path = folder.path().to_owned();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        folder.remove().unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn a_named_one_must_be_empty() {
        let base = tempfile::tempdir().unwrap();
        let named = base.path().join("a/b");
        assert_eq!(Folder::make(Some(&named)).unwrap().path(), named);
        assert!(Folder::make(Some(&named)).is_ok());
        let error = Folder::make(Some(base.path())).err().unwrap().to_string();
        assert!(error.contains("something is in it"), "{error}");
    }
}
