//! Keys in files of their own: made once, whoever comes first, and read only while nobody else can.

use std::{fs::File, io, io::Read, os::unix::fs::PermissionsExt, path::Path};

use zeroize::Zeroizing;

use super::files;

/// Why a key file can't be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// Others may read it.
    #[error(
        "key file {path} is open to others (mode {mode:04o}): run `chmod 600 {path}`, and replace the key if in doubt"
    )]
    Exposed {
        /// The file.
        path: String,
        /// Its permission bits.
        mode: u32,
    },
    /// It holds something else.
    #[error(
        "key file {path} holds no key: {problem}: restore it from a backup, or remove it, and the next start makes a new one, \
         with which every token has to be made again"
    )]
    NoKey {
        /// The file.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
    /// It can't be written or read.
    #[error("key file {path} can't be used: {error}")]
    Io {
        /// The file.
        path: String,
        /// What the system said.
        error: io::Error,
    },
}

/// Writes a key unless the file is there already, and returns what the file holds now: of several processes that start
/// at once all get the same key.
///
/// # Errors
///
/// As [`read`], and when the file can't be written.
pub fn create_once(path: &Path, key: &[u8]) -> Result<Zeroizing<Vec<u8>>, KeyFileError> {
    let failed = |error| KeyFileError::Io { path: path.display().to_string(), error };
    files::write_once(path, 0o600, key).map_err(failed)?;
    read(path)?.ok_or_else(|| failed(io::ErrorKind::NotFound.into()))
}

/// Reads a key; `None` if there is no such file.
///
/// # Errors
///
/// When anybody but the owner may read the file, or it can't be read.
pub fn read(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, KeyFileError> {
    let failed = |error| KeyFileError::Io { path: path.display().to_string(), error };
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(KeyFileError::Exposed { path: path.display().to_string(), mode });
    }
    let mut key = Zeroizing::new(Vec::new());
    file.read_to_end(&mut key).map_err(failed)?;
    Ok(Some(key))
}

#[cfg(test)]
mod tests {
    use std::{fs, sync::Barrier, thread};

    use super::*;

    #[test]
    fn racing_creators_all_get_the_same_key() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let barrier = Barrier::new(8);
        let create = |n: u8| {
            barrier.wait();
            create_once(&path, &[n; 32]).unwrap().to_vec()
        };
        let keys: Vec<_> = thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|n| scope.spawn(move || create(n))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(keys.windows(2).all(|pair| pair[0] == pair[1]), "{keys:?}");
        assert_eq!(read(&path).unwrap().unwrap().to_vec(), keys[0]);
    }

    #[test]
    fn refuses_a_key_that_others_can_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        assert!(read(&path).unwrap().is_none());
        create_once(&path, b"key").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let error = read(&path).unwrap_err().to_string();
        assert!(error.contains("chmod 600"), "{error}");
    }
}
