//! The issuance logs of the other replicas.

use std::collections::HashSet;

use futures_util::future::join_all;

use super::PairClient;
use crate::{
    grpc::{issuance_messages::relay, status::said_by},
    proto::countersign::v1::{ListIssuanceRequest, pair_service_client::PairServiceClient},
    service::{
        issuance_history::{HistoryError, PeerHistories, PeerLog},
        ports::{BoxFuture, Candidate},
    },
};

impl PairClient {
    /// `None` of a candidate that is this replica.
    async fn log_of(&self, candidate: Candidate) -> Option<PeerLog> {
        let shown = candidate.replica.clone().unwrap_or_else(|| candidate.endpoint.to_string());
        let missing = |reason| PeerLog { name: shown.clone(), entries: Err(HistoryError(reason)), patience: None };
        let name = match self.ask(&self.asking, &candidate).await {
            Ok(reply) if reply.replica == self.replica => return None,
            Ok(reply) => reply.replica,
            Err(reason) => return Some(missing(reason)),
        };
        let line = match self.asking.to(&candidate.endpoint) {
            Ok(line) => line,
            Err(reason) => return Some(missing(reason)),
        };
        let entries = relay(async move {
            let records = PairServiceClient::new(line.channel).list_issuance(ListIssuanceRequest {}).await;
            Ok(records.map_err(|status| HistoryError(said_by(&status)))?.into_inner())
        });
        Some(PeerLog { name, entries: Ok(entries), patience: Some(PeerLog::PATIENCE) })
    }
}

impl PeerHistories for PairClient {
    fn logs(&self) -> BoxFuture<'_, Vec<PeerLog>> {
        Box::pin(async {
            let known = self.directory.candidates().await.unwrap_or_default();
            let known = known.into_iter().filter(|known| known.replica.as_ref() != Some(&self.replica));
            let logs = join_all(known.map(|candidate| self.log_of(candidate))).await;
            // a replica may be known by more than one address
            let mut names = HashSet::new();
            logs.into_iter().flatten().filter(|log| names.insert(log.name.clone())).collect()
        })
    }
}
