//! What the replicas of a data directory tell each other: who is there, who is active, and where to reach them. Hints
//! only: a reader connects and sees; nothing is decided by them.

use std::{fs, io, net::SocketAddr, path::PathBuf};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::task::spawn_blocking;

use super::{data_dir::DataDir, files, replica_slot::SlotLock, slot::Slot};
use crate::{
    domain::leadership::Term,
    service::ports::{self, BoxFuture, Candidate, PairEndpoint},
};

/// A replica that runs, or did when it wrote this.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaEntry {
    /// Its name.
    pub replica: String,
    /// Its slot.
    pub slot: Slot,
    /// Its process.
    pub pid: u32,
    /// Where its certificate authority listens.
    pub ca_address: SocketAddr,
    /// Where its health and metrics are.
    pub admin_address: SocketAddr,
    /// Of the program.
    pub version: String,
    /// Whether its signing authority is plugged in.
    #[serde(default)]
    pub plugged_in: bool,
    /// The trust domain of its signing authority.
    #[serde(default)]
    pub trust_domain: Option<String>,
    /// Absolute path of its workload socket, which it serves or waits for.
    #[serde(default)]
    pub workload_socket: Option<PathBuf>,
}

/// The replica that is active, or was when it wrote this.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActiveEntry {
    /// Its name.
    pub replica: String,
    /// Its term.
    #[serde(with = "term_number")]
    pub term: Term,
    /// Its slot, by which everybody finds its socket, whatever way leads him to the data directory.
    pub slot: Slot,
}

/// The living replicas beside one's own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Others {
    /// What they say of themselves.
    pub announced: Vec<ReplicaEntry>,
    /// How many are starting and have said nothing yet.
    pub silent: usize,
}

/// The directory `pair/`.
#[derive(Clone, Debug)]
pub struct PairDirectory {
    data_dir: DataDir,
}

impl PairDirectory {
    /// Of this data directory.
    pub const fn new(data_dir: DataDir) -> Self {
        Self { data_dir }
    }

    /// Writes a replica's entry.
    ///
    /// # Errors
    ///
    /// When the file can't be written.
    pub fn announce(&self, entry: &ReplicaEntry) -> io::Result<()> {
        self.write(&self.replica_path(entry.slot), entry)
    }

    /// Removes the entry of `slot`, which the caller holds.
    ///
    /// # Errors
    ///
    /// When the file can't be removed.
    pub fn withdraw(&self, slot: Slot) -> io::Result<()> {
        remove_if_present(&self.replica_path(slot))
    }

    /// Says who is active. For the holder of the active's lock.
    ///
    /// # Errors
    ///
    /// When the file can't be written.
    pub fn announce_active(&self, entry: &ActiveEntry) -> io::Result<()> {
        self.write(&self.active_path(), entry)
    }

    /// Every entry, in the order of slots, also of processes that have died. A file that makes no sense is passed over.
    ///
    /// # Errors
    ///
    /// When the directory can't be read.
    pub fn replicas(&self) -> io::Result<Vec<ReplicaEntry>> {
        let mut entries: Vec<ReplicaEntry> = Vec::new();
        for file in fs::read_dir(self.data_dir.pair())? {
            let name = file?.file_name();
            let slot = name.to_str().and_then(|name| name.strip_suffix(".json")?.parse().ok());
            if let Some(slot) = slot {
                entries.extend(read(&self.replica_path(slot))?);
            }
        }
        entries.sort_unstable_by_key(|entry| entry.slot);
        Ok(entries)
    }

    /// The living replicas other than `own`: those that have announced themselves, and how many have not yet.
    ///
    /// # Errors
    ///
    /// When the directory can't be read, or a lock file can't be used.
    pub fn living_others(&self, own: Slot) -> io::Result<Others> {
        let mut others = Others { announced: Vec::new(), silent: 0 };
        for file in fs::read_dir(self.data_dir.pair())? {
            let name = file?.file_name();
            let slot = name.to_str().and_then(|name| name.strip_suffix(".lock")?.parse().ok());
            let Some(slot) = slot.filter(|slot| *slot != own) else { continue };
            if self.is_alive(slot)? {
                match read(&self.replica_path(slot))? {
                    Some(entry) => others.announced.push(entry),
                    None => others.silent += 1,
                }
            }
        }
        Ok(others)
    }

    /// The active as it was last announced.
    ///
    /// # Errors
    ///
    /// When the file can't be read.
    pub fn active(&self) -> io::Result<Option<ActiveEntry>> {
        read(&self.active_path())
    }

    /// Whether a living process holds `slot`.
    ///
    /// # Errors
    ///
    /// When its lock file can't be used.
    pub fn is_alive(&self, slot: Slot) -> io::Result<bool> {
        Ok(SlotLock::try_take(&self.data_dir, slot)?.is_none())
    }

    fn write<T: Serialize>(&self, path: &std::path::Path, entry: &T) -> io::Result<()> {
        let mut json = serde_json::to_vec(entry)?;
        json.push(b'\n');
        files::write_atomically(path, 0o600, &json)
    }

    fn replica_path(&self, slot: Slot) -> PathBuf {
        self.data_dir.pair().join(format!("{slot}.json"))
    }

    fn active_path(&self) -> PathBuf {
        self.data_dir.pair().join("active.json")
    }
}

fn read<T: DeserializeOwned>(path: &std::path::Path) -> io::Result<Option<T>> {
    Ok(files::read_if_present(path)?.and_then(|json| serde_json::from_slice(&json).ok()))
}

fn remove_if_present(path: &std::path::Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

impl ports::PairDirectory for PairDirectory {
    fn candidates(&self) -> BoxFuture<'_, Result<Vec<Candidate>, String>> {
        let (directory, socket_of) = (self.clone(), self.data_dir.clone());
        Box::pin(async move {
            let entry = spawn_blocking(move || directory.active()).await.map_err(io::Error::other).flatten();
            match entry {
                Ok(Some(ActiveEntry { replica, term, slot })) => {
                    let endpoint = PairEndpoint::Unix(socket_of.pair_socket(slot));
                    Ok(vec![Candidate { replica: Some(replica), term: Some(term), endpoint }])
                }
                Ok(None) => Err("no replica has been active yet".into()),
                Err(error) => Err(format!("pair/active.json: {error}")),
            }
        })
    }
}

mod term_number {
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::domain::leadership::Term;

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde's `with` asks for")]
    pub(super) fn serialize<S: Serializer>(term: &Term, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(term.number())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Term, D::Error> {
        u64::deserialize(deserializer).map(Term::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(slot: u16) -> ReplicaEntry {
        ReplicaEntry {
            replica: format!("replica-{slot}-00000000"),
            slot: Slot::new(slot),
            pid: 1,
            ca_address: "127.0.0.1:15012".parse().unwrap(),
            admin_address: "127.0.0.1:15014".parse().unwrap(),
            version: "0.1.0".into(),
            plugged_in: false,
            trust_domain: Some("cluster.local".into()),
            workload_socket: None,
        }
    }

    #[test]
    fn lists_what_was_announced_and_not_withdrawn() {
        let base = tempfile::tempdir().unwrap();
        let data_dir = DataDir::open(&base.path().join("data")).unwrap();
        let pair = PairDirectory::new(data_dir.clone());
        for slot in [10, 2, 0] {
            pair.announce(&entry(slot)).unwrap();
        }
        pair.withdraw(Slot::new(2)).unwrap();
        pair.withdraw(Slot::new(2)).unwrap();
        fs::write(data_dir.pair().join("replica-3.json"), "{").unwrap();
        assert_eq!(pair.replicas().unwrap(), [entry(0), entry(10)]);
    }

    #[test]
    fn names_the_active() {
        let base = tempfile::tempdir().unwrap();
        let pair = PairDirectory::new(DataDir::open(&base.path().join("data")).unwrap());
        assert_eq!(pair.active().unwrap(), None);
        let active = ActiveEntry { replica: "replica-0-1".into(), term: Term::new(7), slot: Slot::new(0) };
        pair.announce_active(&active).unwrap();
        assert_eq!(pair.active().unwrap(), Some(active));
    }
}
