//! The issuance logs of all replicas of a data directory as one.

use std::{io, sync::Arc};

use tokio::{sync::mpsc, task::spawn_blocking};

use crate::{
    grpc::pair_client::entries_of_replica,
    service::{
        issuance_history::{Entries, IssuanceHistory},
        ports::LogError,
    },
    storage::{data_dir::DataDir, history::entries_of_dead, replica_slot::SlotLock, slot::Slot},
};

/// One's own log, those of living replicas by their sockets, those of dead ones from disk.
pub(in crate::runtime) struct AllHistories {
    pub(in crate::runtime) data_dir: DataDir,
    /// The slot and log of this process, if it is a replica.
    pub(in crate::runtime) own: Option<(Slot, Arc<dyn IssuanceHistory>)>,
}

impl IssuanceHistory for AllHistories {
    fn entries(&self) -> Entries {
        let (sender, entries) = mpsc::channel(64);
        let data_dir = self.data_dir.clone();
        let own = self.own.as_ref().map(|(slot, history)| (*slot, Arc::clone(history)));
        tokio::spawn(async move {
            let directory = data_dir.clone();
            let slots = spawn_blocking(move || directory.slots_with_logs()).await.map_err(io::Error::other).flatten();
            let slots = match slots {
                Ok(slots) => slots,
                Err(error) => return drop(sender.send(Err(LogError(error.to_string()))).await),
            };
            for slot in slots {
                let mut log = match &own {
                    Some((own, history)) if *own == slot => history.entries(),
                    _ => entries_of(data_dir.clone(), slot).await,
                };
                while let Some(entry) = log.recv().await {
                    if sender.send(entry).await.is_err() {
                        return;
                    }
                }
            }
        });
        entries
    }
}

async fn entries_of(data_dir: DataDir, slot: Slot) -> Entries {
    let directory = data_dir.clone();
    let lock = spawn_blocking(move || SlotLock::try_take(&directory, slot)).await;
    match lock.map_err(io::Error::other).flatten() {
        Ok(Some(lock)) => entries_of_dead(data_dir, lock),
        Ok(None) => entries_of_replica(data_dir.pair_socket(slot)),
        Err(error) => {
            let (sender, entries) = mpsc::channel(1);
            // the channel is new and has room
            drop(sender.try_send(Err(LogError(format!("{slot}: {error}")))));
            entries
        }
    }
}
