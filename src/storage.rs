//! Everything that touches files of the data directory: the state store, the issuance log, locks, keys, and their
//! recovery; and the files that a gateway reads its SVID from. sled is named in `engine` alone. What the bytes of an object mean is not known here.
//!
//! Two rules hold everywhere: nothing is acknowledged before it is durable, and what can't be trusted is reported with
//! the recovery command, never replaced. sled keeps what it has read in its own cache, which can't be wiped: keys of the
//! signing authorities stay in the memory of the active replica, as they do in its signers.

#![expect(clippy::disallowed_methods, reason = "this is where blocking file I/O lives")]

pub mod active_lock;
pub mod authority_transfer;
pub mod ca_directory;
pub mod data_dir;
pub mod embedded_election;
pub mod endpoint_files;
mod engine;
mod exposed_key;
mod files;
mod frame;
pub mod history;
pub mod issuance_log;
pub mod kept_trust;
pub mod key_file;
mod log_head;
pub mod log_reader;
mod log_writer;
mod manifest;
pub mod pair_directory;
mod record;
pub mod recovery;
pub mod replica_slot;
pub mod retention;
pub mod slot;
mod state_files;
mod state_record;
pub mod state_store;
pub mod svid_directory;

use crate::service::federation::BundleFiles;

/// Writes a file that its owner alone may read, durable when it returns. False if there is one of that name already: that
/// stays.
///
/// # Errors
///
/// When the file system refuses.
pub fn write_new_private_file(path: &std::path::Path, content: &[u8]) -> std::io::Result<bool> {
    files::write_once(path, 0o600, content)
}

/// Files of a bundle that an operator named.
pub struct NamedBundleFiles;

impl BundleFiles for NamedBundleFiles {
    fn read(&self, path: &std::path::Path) -> std::io::Result<Vec<u8>> {
        let content = files::read_bounded(path)?.ok_or(rustix::io::Errno::NOENT)?;
        Ok(content.0.to_vec())
    }
}

/// The content of a file that an operator named.
///
/// # Errors
///
/// When it can't be read.
pub fn read_file(path: &std::path::Path) -> std::io::Result<Vec<u8>> {
    std::fs::read(path)
}
