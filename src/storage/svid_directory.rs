//! The files that a gateway reads its SVID from, replaced as the kubelet replaces those of a mounted Secret: each name is a link
//! to what lies below the link `..data`, and that one is renamed over.
//!
//! The set before the last one stays until the next, so that whoever has just resolved `..data` still finds its files.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use zeroize::Zeroizing;

use super::files::{sync_directory, try_lock};
use crate::service::file_output::{FileError, FileSet, FileStore, OutputFile};

/// One directory. Only one process at a time writes there.
pub struct SvidDirectory {
    path: PathBuf,
    mode: u32,
    lock: Mutex<Option<File>>,
}

/// Resolved by each read of a file.
const DATA: &str = "..data";
/// On its way to that name.
const DATA_BEFORE: &str = "..data_tmp";
/// Begins the name of each set; a number follows that grows.
const SET: &str = "..set-";
const LOCK: &str = "..lock";

impl SvidDirectory {
    /// `path` is made when it is first needed. Files have `mode`; directories can be entered by whoever may read the files.
    pub const fn new(path: PathBuf, mode: u32) -> Self {
        Self { path, mode, lock: Mutex::new(None) }
    }

    /// Makes sure that the directory is there and nobody else writes in it.
    fn enter(&self) -> Result<(), FileError> {
        let mut lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        if lock.is_some() && self.path.join(LOCK).exists() {
            return Ok(());
        }
        if !self.path.is_dir() {
            self.make_directory(&self.path).map_err(|error| failed(&self.path, &error))?;
        }
        let path = self.path.join(LOCK);
        let held = try_lock(&path).map_err(|error| failed(&path, &error))?;
        if held.is_none() {
            return Err(FileError(format!("{}: another process writes there", self.path.display())));
        }
        *lock = held;
        Ok(())
    }

    /// The set that is read now.
    fn current(&self) -> Result<Option<String>, FileError> {
        let path = self.path.join(DATA);
        let foreign =
            || FileError(format!("{} is not ours: name a directory that nobody else writes to", path.display()));
        match fs::read_link(&path) {
            Ok(target) => match target.to_str().filter(|name| number(name).is_some()) {
                Some(name) => Ok(Some(name.to_owned())),
                None => Err(foreign()),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            // there is something that is no link
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => Err(foreign()),
            Err(error) => Err(failed(&path, &error)),
        }
    }

    /// All sets but the one that is read now.
    fn others(&self, current: Option<&str>) -> io::Result<Vec<String>> {
        let names = fs::read_dir(&self.path)?.map(|entry| Ok(entry?.file_name()));
        let names = names.collect::<io::Result<Vec<_>>>()?;
        let names = names.into_iter().filter_map(|name| name.into_string().ok());
        Ok(names.filter(|name| number(name).is_some() && Some(name.as_str()) != current).collect())
    }

    /// Removes what is not read any more. A link on its way is left over as well: nobody else writes here.
    fn remove_all_but(&self, current: Option<&str>) -> io::Result<()> {
        for name in self.others(current)? {
            fs::remove_dir_all(self.path.join(name))?;
        }
        match fs::remove_file(self.path.join(DATA_BEFORE)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Nobody's file is written over.
    fn is_linked(&self, name: &str) -> Result<bool, FileError> {
        let path = self.path.join(name);
        match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(failed(&path, &error)),
            Ok(_) if fs::read_link(&path).is_ok_and(|target| target == link_target(name)) => Ok(true),
            Ok(_) => Err(FileError(format!("{} is not ours: remove it, or name another directory", path.display()))),
        }
    }

    fn write_set(&self, set: &Path, files: &FileSet) -> io::Result<()> {
        self.make_directory(set)?;
        for OutputFile { name, content } in files.iter() {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(self.mode).open(set.join(name))?;
            // whatever the process's mask is
            file.set_permissions(Permissions::from_mode(self.mode))?;
            file.write_all(content.as_bytes())?;
            file.sync_all()?;
        }
        sync_directory(set)
    }

    fn swap_to(&self, set: &str, missing: &[&str]) -> io::Result<()> {
        let before = self.path.join(DATA_BEFORE);
        symlink(set, &before)?;
        sync_directory(&self.path)?;
        fs::rename(&before, self.path.join(DATA))?;
        for name in missing {
            symlink(link_target(name), self.path.join(name))?;
        }
        sync_directory(&self.path)
    }

    fn make_directory(&self, path: &Path) -> io::Result<()> {
        let mode = 0o700 | ((self.mode & 0o444) >> 2) | (self.mode & 0o444);
        DirBuilder::new().recursive(true).mode(mode).create(path)?;
        fs::set_permissions(path, Permissions::from_mode(mode))
    }

    fn holds_file(&self, OutputFile { name, content }: &OutputFile) -> io::Result<bool> {
        let mut file = match File::open(self.path.join(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            file => file?,
        };
        let about = file.metadata()?;
        let length = u64::try_from(content.len()).unwrap_or(u64::MAX);
        if about.len() != length || about.permissions().mode() & 0o7777 != self.mode {
            return Ok(false);
        }
        let mut found = Zeroizing::new(Vec::with_capacity(content.len() + 1));
        Read::by_ref(&mut file).take(length).read_to_end(&mut found)?;
        Ok(*found == content.as_bytes())
    }
}

impl FileStore for SvidDirectory {
    fn holds(&self, files: &FileSet) -> Result<bool, FileError> {
        for file in files.iter() {
            if !self.is_linked(file.name)? {
                return Ok(false);
            }
            if !self.holds_file(file).map_err(|error| failed(&self.path.join(file.name), &error))? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn replace(&self, files: &FileSet) -> Result<(), FileError> {
        self.enter()?;
        let current = self.current()?;
        let mut missing = Vec::new();
        for file in files.iter() {
            if !self.is_linked(file.name)? {
                missing.push(file.name);
            }
        }
        self.remove_all_but(current.as_deref()).map_err(|error| failed(&self.path, &error))?;
        let next = current.as_deref().and_then(number).map_or(1, |number| number.saturating_add(1));
        let name = format!("{SET}{next}");
        let set = self.path.join(&name);
        let written = self.write_set(&set, files).and_then(|()| self.swap_to(&name, &missing));
        written.map_err(|error| {
            // what is half written holds a key that nobody is to use; if it can't be removed now, the next set does it
            if self.current().is_ok_and(|current| current.as_deref() != Some(&*name)) {
                let _may_stay = fs::remove_dir_all(&set).is_ok();
            }
            failed(&set, &error)
        })
    }

    fn tidy(&self) -> Result<(), FileError> {
        self.enter()?;
        let current = self.current()?;
        self.remove_all_but(current.as_deref()).map_err(|error| failed(&self.path, &error))
    }
}

fn number(name: &str) -> Option<u64> {
    name.strip_prefix(SET)?.parse().ok()
}

fn link_target(name: &str) -> PathBuf {
    Path::new(DATA).join(name)
}

fn failed(path: &Path, error: &io::Error) -> FileError {
    FileError(format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The names in a directory that are no file's.
    fn inner(path: &Path) -> Vec<String> {
        let names = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.filter(|name| name.starts_with("..")).collect();
        names.sort_unstable();
        names
    }

    fn directory(mode: u32) -> (tempfile::TempDir, SvidDirectory, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/output");
        (folder, SvidDirectory::new(path.clone(), mode), path)
    }

    #[test]
    fn holds_what_was_written_last_and_keeps_the_set_before_it() {
        let (_folder, directory, path) = directory(0o640);
        let [one, two, three] = ["one", "two", "three"].map(FileSet::of_test);
        assert!(!directory.holds(&one).unwrap());
        directory.replace(&one).unwrap();
        assert!(directory.holds(&one).unwrap() && !directory.holds(&two).unwrap());
        let before = fs::canonicalize(path.join("tls.key")).unwrap();
        directory.replace(&two).unwrap();
        assert!(directory.holds(&two).unwrap());
        assert_eq!(fs::read_to_string(&before).unwrap(), "one", "for whoever is just reading it");
        directory.replace(&three).unwrap();
        assert!(!before.exists());
        assert_eq!(inner(&path), ["..data", "..lock", "..set-2", "..set-3"]);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode(&path), mode(&path.join("..data/")), mode(&path.join("key.pem"))), (0o750, 0o750, 0o640));
    }

    #[test]
    fn another_content_mode_or_place_is_not_what_was_written() {
        let (_folder, directory, path) = directory(0o600);
        let set = FileSet::of_test("one");
        let file = || fs::canonicalize(path.join("ca.crt")).unwrap();
        directory.replace(&set).unwrap();
        fs::write(file(), "two").unwrap();
        assert!(!directory.holds(&set).unwrap());
        directory.replace(&set).unwrap();
        fs::set_permissions(file(), Permissions::from_mode(0o644)).unwrap();
        assert!(!directory.holds(&set).unwrap());
        directory.replace(&set).unwrap();
        fs::remove_file(path.join("ca.crt")).unwrap();
        assert!(!directory.holds(&set).unwrap());
        directory.replace(&set).unwrap();
        fs::remove_dir_all(&path).unwrap();
        assert!(!directory.holds(&set).unwrap());
        directory.replace(&set).unwrap();
        assert!(directory.holds(&set).unwrap());
    }

    #[test]
    fn what_a_killed_writer_left_is_removed_at_whatever_point_it_died() {
        let (_folder, directory, path) = directory(0o600);
        let set = FileSet::of_test("one");
        directory.replace(&set).unwrap();
        drop(directory);
        fs::create_dir(path.join("..set-2")).unwrap();
        fs::write(path.join("..set-2/tls.key"), "half").unwrap();
        symlink("..set-2", path.join(DATA_BEFORE)).unwrap();
        let next = SvidDirectory::new(path.clone(), 0o600);
        next.tidy().unwrap();
        assert_eq!(inner(&path), ["..data", "..lock", "..set-1"]);
        assert!(next.holds(&set).unwrap());
    }

    #[test]
    fn what_is_somebody_elses_is_an_error_that_names_it() {
        let (_folder, directory, path) = directory(0o600);
        let set = FileSet::of_test("one");
        fs::create_dir_all(&path).unwrap();
        symlink("..2026_11_27", path.join(DATA)).unwrap();
        let error = directory.replace(&set).unwrap_err().to_string();
        assert!(error.contains("..data is not ours"), "{error}");
        fs::remove_file(path.join(DATA)).unwrap();
        symlink("/elsewhere", path.join("tls.crt")).unwrap();
        let error = directory.replace(&set).unwrap_err().to_string();
        assert!(error.contains("tls.crt is not ours"), "{error}");
        assert_eq!(inner(&path), ["..lock"]);
        fs::remove_file(path.join("tls.crt")).unwrap();
        directory.replace(&set).unwrap();
        let error = SvidDirectory::new(path, 0o600).replace(&set).unwrap_err().to_string();
        assert!(error.contains("another process writes there"), "{error}");
    }
}
