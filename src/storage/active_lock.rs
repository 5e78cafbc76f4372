//! The lock that makes one replica of a data directory the active one. There is no lease: a stopped active keeps it, a
//! dead one loses it at once.

use std::{fs::File, io};

use super::{data_dir::DataDir, files};

/// The lock of the active, held until dropped.
#[derive(Debug)]
pub struct ActiveLock {
    _file: File,
}

impl ActiveLock {
    /// Takes the lock; `None` if another replica has it. Never waits.
    ///
    /// # Errors
    ///
    /// When the lock file can't be made or locked.
    pub fn try_take(data_dir: &DataDir) -> io::Result<Option<Self>> {
        Ok(files::try_lock(&data_dir.lock())?.map(|file| Self { _file: file }))
    }
}
