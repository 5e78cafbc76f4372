//! sled, fenced in. Four properties of sled 0.34 shape this file: damaged files can make it panic, so every call is
//! guarded; its flush stops short of the device, so a flush here ends with an fdatasync of its file; it takes a snapshot
//! that it had not finished for its newest one, so those are removed; and it makes its files readable for everybody.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::PermissionsExt,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    thread,
    time::Duration,
};

use super::files;

/// The pages kept in memory: small, because whatever is hot is cached where it is used.
const CACHE_BYTES: u64 = 1 << 20;
/// sled's unit of writing and of its buffers. Values up to a fourth of it stay in the one file that a flush covers.
const SEGMENT_BYTES: usize = 256 << 10;
/// The longest value that is stored: two of them still fit in one page.
pub(super) const MAX_VALUE_BYTES: usize = 24 << 10;

/// An open database: keys in order, batches whole or not at all.
pub(super) struct Engine {
    database: sled::Db,
    file: File,
}

/// Changes that belong together.
pub(super) type Batch = sled::Batch;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum EngineError {
    /// The files are not what was written.
    #[error("{0}")]
    Damaged(String),
    /// The file system refused, or another process has the database open.
    #[error("{0}")]
    Io(String),
}

impl Engine {
    /// Makes an empty database. It gets its name when it is whole, so that a database that doesn't open was damaged,
    /// not half made.
    pub(super) fn create(path: &Path) -> Result<(), EngineError> {
        let new = path.with_extension("new");
        if new.try_exists()? {
            fs::remove_dir_all(&new)?;
        }
        // closed to others before there is anything in it
        files::create_private_directory(&new)?;
        let created = Self::open_files(&new)?;
        created.flush()?;
        drop(created);
        files::sync_directory(&new)?;
        fs::rename(&new, path)?;
        Ok(files::sync_directory(files::parent(path))?)
    }

    /// Opens a database that was made by [`Engine::create`]. The caller holds the lock under which it is written.
    pub(super) fn open(path: &Path) -> Result<Self, EngineError> {
        let db = path.join("db");
        if fs::metadata(&db).map_or(0, |metadata| metadata.len()) == 0 || !path.join("conf").exists() {
            return Err(EngineError::Damaged(format!("files of {} are missing", path.display())));
        }
        wait_for_release(&db)?;
        remove_unfinished_snapshots(path)?;
        Self::open_files(path)
    }

    fn open_files(path: &Path) -> Result<Self, EngineError> {
        guarded(|| {
            let database = sled::Config::new()
                .path(path)
                .cache_capacity(CACHE_BYTES)
                .segment_size(SEGMENT_BYTES)
                .flush_every_ms(None)
                .open()?;
            close_to_others(path)?;
            let file = File::open(path.join("db"))?;
            Ok(Self { database, file })
        })
    }

    pub(super) fn get(&self, key: &[u8]) -> Result<Option<sled::IVec>, EngineError> {
        guarded(|| self.database.get(key))
    }

    /// The first key that is there.
    pub(super) fn first_key(&self) -> Result<Option<sled::IVec>, EngineError> {
        guarded(|| Ok(self.database.first()?.map(|(key, _)| key)))
    }

    /// The last key that is there.
    pub(super) fn last_key(&self) -> Result<Option<sled::IVec>, EngineError> {
        guarded(|| Ok(self.database.last()?.map(|(key, _)| key)))
    }

    /// Up to `limit` pairs from `key` on, in order.
    pub(super) fn range(&self, key: &[u8], limit: usize) -> Result<Vec<(sled::IVec, sled::IVec)>, EngineError> {
        guarded(|| self.database.range(key..).take(limit).collect())
    }

    /// Applies a batch and makes it durable.
    pub(super) fn commit(&self, batch: Batch) -> Result<(), EngineError> {
        guarded(|| self.database.apply_batch(batch))?;
        self.flush()
    }

    fn flush(&self) -> Result<(), EngineError> {
        guarded(|| self.database.flush())?;
        Ok(self.file.sync_data()?)
    }

    /// Closes the database and waits until its lock is free for the next to open it.
    pub(super) fn close(self) -> Result<(), EngineError> {
        let Self { database, file } = self;
        guarded(|| database.flush().map(|_| ()))?;
        file.sync_data()?;
        guarded(|| {
            drop(database);
            Ok(())
        })?;
        // sled's own threads may hold the file for some microseconds longer.
        file.lock()?;
        Ok(())
    }
}

impl From<io::Error> for EngineError {
    fn from(error: io::Error) -> Self {
        if matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) {
            Self::Damaged(error.to_string())
        } else {
            Self::Io(error.to_string())
        }
    }
}

/// Runs a call of sled; what it panics with becomes an error. sled asserts what it finds in its files instead of
/// returning errors, in some places, and a panic here must not take the replica down with a message that names no way
/// out. After a panic its insides may be inconsistent: every caller gives the database up on an error.
fn guarded<T>(call: impl FnOnce() -> sled::Result<T>) -> Result<T, EngineError> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(sled::Error::Io(error))) => Err(error.into()),
        Ok(Err(error)) => Err(EngineError::Damaged(error.to_string())),
        Err(_) => Err(EngineError::Damaged("the database engine broke off on what it found".into())),
    }
}

/// What a kill or a full disk left of a snapshot. sled writes one at each opening, under a name that its own search for
/// snapshots finds, and would open the next time with what is in it. All that counts is in the older one and in `db`.
fn remove_unfinished_snapshots(path: &Path) -> io::Result<()> {
    let mut removed = false;
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let name = entry.file_name();
        if name.to_str().is_some_and(|name| name.starts_with("snap.") && name.ends_with(".generating")) {
            fs::remove_file(entry.path())?;
            removed = true;
        }
    }
    if removed { files::sync_directory(path) } else { Ok(()) }
}

/// Takes from others what sled gave them: there are keys in these files.
fn close_to_others(path: &Path) -> io::Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))?;
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let mode = if entry.file_type()?.is_dir() { 0o700 } else { 0o600 };
        fs::set_permissions(entry.path(), fs::Permissions::from_mode(mode))?;
    }
    Ok(())
}

/// A process that was killed lets go of its files one after the other: whoever got its first lock may have to wait a
/// moment for the database's.
fn wait_for_release(db: &Path) -> Result<(), EngineError> {
    const ATTEMPTS: u32 = 400;
    const PAUSE: Duration = Duration::from_millis(5);
    let file = File::open(db)?;
    for _ in 0..ATTEMPTS {
        match file.try_lock() {
            Ok(()) => return Ok(file.unlock()?),
            Err(fs::TryLockError::WouldBlock) => thread::sleep(PAUSE),
            Err(fs::TryLockError::Error(error)) => return Err(error.into()),
        }
    }
    Err(EngineError::Io(format!("{} is open in another process", db.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(path: &Path) {
        Engine::create(path).unwrap();
        let engine = Engine::open(path).unwrap();
        for n in 0..200u32 {
            let mut batch = Batch::default();
            batch.insert(&n.to_be_bytes(), vec![7; 300]);
            engine.commit(batch).unwrap();
        }
        engine.close().unwrap();
    }

    fn snapshot(path: &Path) -> Vec<u8> {
        let names = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
        let newest = names.filter(|name| name.file_name().unwrap().to_str().unwrap().starts_with("snap.")).max();
        fs::read(newest.unwrap()).unwrap()
    }

    #[test]
    fn a_snapshot_that_a_kill_or_a_full_disk_cut_off_is_passed_over() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("database");
        written(&path);
        let whole = snapshot(&path);
        let left = path.join("snap.7FFFFFFFFFFFFFFF.generating");
        for cut in [0, 1, 12, 13, whole.len() / 2, whole.len() - 1] {
            fs::write(&left, &whole[..cut]).unwrap();
            let engine = Engine::open(&path).unwrap_or_else(|error| panic!("{cut} of {} bytes: {error}", whole.len()));
            assert_eq!(engine.range(&[], 1000).unwrap().len(), 200, "{cut} bytes");
            engine.close().unwrap();
            assert!(!left.exists());
        }
    }

    #[test]
    fn nothing_is_open_to_others() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("database");
        written(&path);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        fs::set_permissions(path.join("db"), fs::Permissions::from_mode(0o644)).unwrap();
        Engine::open(&path).unwrap().close().unwrap();
        let inner = fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path());
        for file in inner.chain([path.clone()]) {
            let mode = fs::metadata(&file).unwrap().permissions().mode();
            assert_eq!(mode & 0o077, 0, "{}: {mode:o}", file.display());
        }
    }
}
