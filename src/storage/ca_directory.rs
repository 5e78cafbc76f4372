//! A plugged-in signing authority in a directory, which somebody else writes: an operator, or the kubelet from a Secret.
//! Here it is only read.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use super::{exposed_key::ExposedKey, files::read_bounded};
use crate::{
    domain::authority::{AuthorityFiles, Layout},
    service::ports::{AuthoritySource, SourceError},
};

/// The directory.
#[derive(Debug)]
pub struct CaDirectory {
    path: PathBuf,
    exposed: ExposedKey,
}

impl CaDirectory {
    /// Nothing is read yet.
    pub const fn new(path: PathBuf) -> Self {
        Self { path, exposed: ExposedKey::new("ca_key_exposed") }
    }
}

impl AuthoritySource for CaDirectory {
    fn read(&self) -> Result<AuthorityFiles, SourceError> {
        let failed = |path: &Path, problem: io::Error| SourceError {
            file: path.display().to_string(),
            problem: problem.to_string(),
        };
        std::fs::read_dir(&self.path).map_err(|error| failed(&self.path, error))?;
        let mark = self.path.join(Layout::MARK).try_exists().map_err(|error| failed(&self.path, error))?;
        let layout = Layout::of(mark);
        let mut contents = BTreeMap::new();
        for name in layout.files() {
            let path = self.path.join(name);
            if let Some((content, mode)) = read_bounded(&path).map_err(|error| failed(&path, error))? {
                if *name == layout.key() {
                    self.exposed.warn_of_exposed_key(&path, mode);
                }
                contents.insert(*name, content);
            }
        }
        Ok(AuthorityFiles::new(layout, contents))
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{PermissionsExt, symlink},
    };

    use zeroize::Zeroizing;

    use super::*;

    fn digest(files: &[(&'static str, &str)], layout: Layout) -> [u8; 32] {
        let contents = files.iter().map(|(name, text)| (*name, Zeroizing::new(text.as_bytes().to_vec())));
        AuthorityFiles::new(layout, contents.collect()).digest()
    }

    fn read(directory: &Path) -> Result<[u8; 32], SourceError> {
        CaDirectory::new(directory.to_owned()).read().map(|files| files.digest())
    }

    #[test]
    fn tls_crt_decides_the_layout() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path()).unwrap(), digest(&[], Layout::Cacerts));
        fs::write(dir.path().join("ca-cert.pem"), "one").unwrap();
        fs::write(dir.path().join("istio-generated"), "").unwrap();
        assert_eq!(read(dir.path()).unwrap(), digest(&[("ca-cert.pem", "one")], Layout::Cacerts));
        fs::write(dir.path().join("tls.crt"), "two").unwrap();
        assert_eq!(read(dir.path()).unwrap(), digest(&[("tls.crt", "two")], Layout::Tls));
    }

    #[test]
    fn sees_the_kubelets_swap() {
        let dir = tempfile::tempdir().unwrap();
        for (version, text) in [("..1", "one"), ("..2", "two")] {
            fs::create_dir(dir.path().join(version)).unwrap();
            fs::write(dir.path().join(version).join("ca-cert.pem"), text).unwrap();
        }
        symlink("..1", dir.path().join("..data")).unwrap();
        symlink("..data/ca-cert.pem", dir.path().join("ca-cert.pem")).unwrap();
        assert_eq!(read(dir.path()).unwrap(), digest(&[("ca-cert.pem", "one")], Layout::Cacerts));
        symlink("..2", dir.path().join("..data_tmp")).unwrap();
        fs::rename(dir.path().join("..data_tmp"), dir.path().join("..data")).unwrap();
        assert_eq!(read(dir.path()).unwrap(), digest(&[("ca-cert.pem", "two")], Layout::Cacerts));
    }

    #[test]
    fn names_what_can_not_be_read() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("missing");
        assert_eq!(read(&missing).unwrap_err().file, missing.display().to_string());
        let file = dir.path().join("ca-key.pem");
        fs::create_dir(&file).unwrap();
        assert_eq!(read(dir.path()).unwrap_err().to_string(), format!("{}: it is not a file", file.display()));
        fs::remove_dir(&file).unwrap();
        fs::write(&file, vec![b'a'; 1 << 20]).unwrap();
        read(dir.path()).unwrap();
        fs::write(&file, vec![b'a'; (1 << 20) + 1]).unwrap();
        assert!(read(dir.path()).unwrap_err().problem.contains("at most 1048576"));
    }

    #[test]
    fn an_exposed_key_is_read_and_noted() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ca-key.pem");
        fs::write(&file, "key").unwrap();
        let directory = CaDirectory::new(dir.path().to_owned());
        for (mode, noted) in [(0o600, 0), (0o644, 0o644), (0o400, 0)] {
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            directory.read().unwrap();
            assert_eq!(directory.exposed.noted(), noted);
        }
    }
}
