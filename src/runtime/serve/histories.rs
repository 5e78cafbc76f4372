//! The issuance logs of all replicas of a data directory.

use std::{io, sync::Arc};

use tokio::task::spawn_blocking;

use crate::{
    grpc::pair_client::entries_of_replica,
    service::{
        issuance_history::{HistoryError, IssuanceHistory, PairHistories, PeerHistories, PeerLog},
        ports::BoxFuture,
    },
    storage::{data_dir::DataDir, history::entries_of_dead, replica_slot::SlotLock, slot::Slot},
};

/// All logs, for a replica: its own, and those of the others.
pub(super) fn all_histories(data_dir: DataDir, slot: Slot, own: Arc<dyn IssuanceHistory>) -> PairHistories {
    PairHistories::new(slot.to_string(), own, Arc::new(DataDirHistories { data_dir, own: Some(slot) }))
}

/// All logs, for somebody who is no replica.
pub(in crate::runtime) fn histories_of(data_dir: DataDir) -> PairHistories {
    PairHistories::of_others(Arc::new(DataDirHistories { data_dir, own: None }))
}

/// Those of living replicas by their sockets, those of dead ones from disk.
struct DataDirHistories {
    data_dir: DataDir,
    /// Left out.
    own: Option<Slot>,
}

impl PeerHistories for DataDirHistories {
    fn logs(&self) -> BoxFuture<'_, Vec<PeerLog>> {
        Box::pin(async {
            let directory = self.data_dir.clone();
            let slots = spawn_blocking(move || directory.slots_with_logs()).await.map_err(io::Error::other).flatten();
            let slots = match slots {
                Ok(slots) => slots,
                Err(error) => return vec![unread(self.data_dir.issuance().display().to_string(), &error)],
            };
            let mut logs = Vec::new();
            for slot in slots.into_iter().filter(|slot| Some(*slot) != self.own) {
                logs.push(log_of(self.data_dir.clone(), slot).await);
            }
            logs
        })
    }
}

async fn log_of(data_dir: DataDir, slot: Slot) -> PeerLog {
    let (directory, name) = (data_dir.clone(), slot.to_string());
    let lock = spawn_blocking(move || SlotLock::try_take(&directory, slot)).await;
    match lock.map_err(io::Error::other).flatten() {
        Ok(Some(lock)) => PeerLog { name, entries: Ok(entries_of_dead(data_dir, lock)), patience: None },
        Ok(None) => {
            let entries = entries_of_replica(data_dir.pair_socket(slot));
            PeerLog { name, entries: Ok(entries), patience: Some(PeerLog::PATIENCE) }
        }
        Err(error) => unread(name, &error),
    }
}

fn unread(name: String, error: &io::Error) -> PeerLog {
    PeerLog { name, entries: Err(HistoryError(error.to_string())), patience: None }
}
