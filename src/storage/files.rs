//! Writing and reading whole small files, so that a crash leaves the old content or the new one.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use zeroize::Zeroizing;

/// How often, and after what pauses, a temporary file is tried that another process is just writing.
const ATTEMPTS: u32 = 400;
const PAUSE: Duration = Duration::from_millis(5);
/// Behind the name of the file that it is going to be.
const TEMPORARY: &str = ".countersign-tmp";

/// Whatever is longer is not certificates or keys by mistake only.
const MAX_BYTES: u64 = 1 << 20;

/// A file that somebody else writes, with its permission bits; `None` if there is none.
pub(super) fn read_bounded(path: &Path) -> io::Result<Option<(Zeroizing<Vec<u8>>, u32)>> {
    // looked at before it is opened: opening a pipe waits for its writer
    let metadata = match path.metadata() {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    if !metadata.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    if metadata.len() > MAX_BYTES {
        return Err(io::Error::other(format!("it has {} bytes, at most {MAX_BYTES} are read", metadata.len())));
    }
    // sized at once: a vector that grows leaves copies of a key behind
    let size = usize::try_from(metadata.len()).unwrap_or_default();
    let mut content = Zeroizing::new(Vec::with_capacity(size.saturating_add(1)));
    match File::open(path).and_then(|file| file.take(MAX_BYTES).read_to_end(&mut content)) {
        Ok(_) => Ok(Some((content, metadata.permissions().mode() & 0o7777))),
        // replaced between the two looks at it
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Writes a file by way of a temporary one beside it: durable, and whole or not at all.
pub(super) fn write_atomically(path: &Path, mode: u32, content: &[u8]) -> io::Result<()> {
    write_atomically_if(path, mode, content, || true)
}

/// The same, unless `may_replace` says no to what is there: from when it is asked no other process writes the file.
pub(super) fn write_atomically_if(
    path: &Path,
    mode: u32,
    content: &[u8],
    may_replace: impl FnOnce() -> bool,
) -> io::Result<()> {
    let temporary = Temporary::write(path, mode, content)?;
    if !may_replace() {
        return temporary.remove();
    }
    if let Err(error) = fs::rename(&temporary.path, path) {
        temporary.remove()?;
        return Err(error);
    }
    sync_directory(parent(path))
}

/// Writes a file unless it is there already; exactly one of several racing processes wins. Says whether this one did.
pub(super) fn write_once(path: &Path, mode: u32, content: &[u8]) -> io::Result<bool> {
    let temporary = Temporary::write(path, mode, content)?;
    let linked = fs::hard_link(&temporary.path, path);
    temporary.remove()?;
    match linked {
        Ok(()) => sync_directory(parent(path)).map(|()| true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error),
    }
}

/// Removes what writers that were killed left of their files in a directory.
pub(super) fn remove_leftovers(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_name().to_str().is_some_and(|name| name.ends_with(TEMPORARY)) {
            remove_if_left(&entry.path())?;
        }
    }
    Ok(())
}

/// A file on its way to its name, which is always the same, so that few can be left behind. It is locked while its writer
/// lives.
struct Temporary {
    path: PathBuf,
    _locked: File,
}

impl Temporary {
    fn write(path: &Path, mode: u32, content: &[u8]) -> io::Result<Self> {
        let (temporary, mut file) = Self::create(path, mode)?;
        let written = file.write_all(content).and_then(|()| file.sync_all());
        let temporary = Self { path: temporary, _locked: file };
        match written {
            Ok(()) => Ok(temporary),
            Err(error) => {
                temporary.remove()?;
                Err(error)
            }
        }
    }

    fn create(path: &Path, mode: u32) -> io::Result<(PathBuf, File)> {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(TEMPORARY);
        let temporary = path.with_file_name(name);
        for _ in 0..ATTEMPTS {
            match OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary) {
                // somebody may have taken it for left behind before it was locked
                Ok(file) if file.try_lock().is_ok() && is_at(&file, &temporary)? => return Ok((temporary, file)),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    if !remove_if_left(&temporary)? {
                        thread::sleep(PAUSE);
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::other(format!("another process keeps writing {}", temporary.display())))
    }

    fn remove(self) -> io::Result<()> {
        fs::remove_file(&self.path)
    }
}

/// Removes a temporary file whose writer has died. False if he lives.
fn remove_if_left(temporary: &Path) -> io::Result<bool> {
    let file = match OpenOptions::new().write(true).open(temporary) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        Err(error) => return Err(error),
    };
    match file.try_lock() {
        Ok(()) if is_at(&file, temporary)? => fs::remove_file(temporary).map(|()| true),
        Ok(()) => Ok(true),
        Err(fs::TryLockError::WouldBlock) => Ok(false),
        Err(fs::TryLockError::Error(error)) => Err(error),
    }
}

/// Whether an open file is still the one at a path.
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let own = file.metadata()?;
    match fs::symlink_metadata(path) {
        Ok(found) => Ok((found.dev(), found.ino()) == (own.dev(), own.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// The content of a file, `None` if there is no such file.
pub(super) fn read_if_present(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Makes what was created, renamed or removed in a directory durable.
pub(super) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Creates a directory that only its owner may enter, and its parents, unless it is there.
pub(super) fn create_private_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// The directory that holds `path`.
pub(super) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) | None => Path::new("."),
    }
}

/// An open lock file, if nobody else holds it. The lock lasts as long as the file is open.
pub(super) fn try_lock(path: &Path) -> io::Result<Option<File>> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(fs::TryLockError::WouldBlock) => Ok(None),
        Err(fs::TryLockError::Error(error)) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::PermissionsExt, sync::mpsc};

    use super::*;

    #[test]
    fn replaces_a_file_whole_with_its_mode_and_leaves_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        write_atomically(&path, 0o600, b"a longer first content").unwrap();
        write_atomically(&path, 0o600, b"second").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"second");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn writes_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        assert!(write_once(&path, 0o600, b"first").unwrap());
        assert!(!write_once(&path, 0o600, b"second").unwrap());
        assert_eq!(fs::read(&path).unwrap(), b"first");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_a_killed_writer_left_is_removed_and_what_a_living_one_writes_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let left = dir.path().join(format!("file{TEMPORARY}"));
        fs::write(&left, "half").unwrap();
        assert!(write_once(&path, 0o600, b"whole").unwrap());
        assert_eq!(fs::read(&path).unwrap(), b"whole");
        // killed between linking and unlinking: both names are of one file
        fs::hard_link(&path, &left).unwrap();
        write_atomically(&path, 0o600, b"other").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"other");
        fs::write(&left, "half").unwrap();
        let living = Temporary::write(&dir.path().join("living"), 0o600, b"content").unwrap();
        remove_leftovers(dir.path()).unwrap();
        assert!(!left.exists() && living.path.exists());
        fs::rename(&living.path, dir.path().join("living")).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn many_writers_of_one_file_all_get_their_turn() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        thread::scope(|scope| {
            for n in 0..4u8 {
                let path = &path;
                scope.spawn(move || (0..10).for_each(|_| write_atomically(path, 0o600, &[n; 100]).unwrap()));
            }
        });
        let content = fs::read(&path).unwrap();
        assert_eq!(content, [content[0]; 100]);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_may_be_replaced_is_decided_while_nobody_else_writes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let read = || fs::read(&path).ok();
        let (found, at_other) = mpsc::channel();
        let other = || {
            let decide = || {
                found.send(read()).unwrap();
                false
            };
            write_atomically_if(&path, 0o600, b"other", decide).unwrap();
        };
        thread::scope(|scope| {
            let decide = || {
                scope.spawn(other);
                assert_eq!(at_other.recv_timeout(Duration::from_millis(200)), Err(mpsc::RecvTimeoutError::Timeout));
                true
            };
            write_atomically_if(&path, 0o600, b"one", decide).unwrap();
            assert_eq!(at_other.recv().unwrap().as_deref(), Some(&b"one"[..]));
        });
        assert_eq!(read().as_deref(), Some(&b"one"[..]), "it was not to be replaced");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn locks_exclude_each_other_until_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let held = try_lock(&path).unwrap();
        assert!(held.is_some());
        assert!(try_lock(&path).unwrap().is_none());
        drop(held);
        assert!(try_lock(&path).unwrap().is_some());
    }
}
