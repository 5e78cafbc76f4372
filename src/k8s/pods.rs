//! The pods of the cluster, as far as they keep a service account's certificates renewable: listed once, then watched, and
//! kept as counts. Of a pod no more stays in memory than its UID and its account.
//!
//! What is known is believed while the API server is heard: a watch ends by itself each half minute and begins again. Not
//! heard for a minute and a half, nothing is known any more, since a pod may have gone unseen.

mod presence;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::StreamExt as _;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ListMeta, Time};
use kube::{
    Client, Error,
    api::{ListParams, WatchEvent, WatchParams},
    core::{Request, request::Error as RequestError},
};
use serde::Deserialize;
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use self::presence::{Life, PodFacts, Presence};
use crate::{
    domain::{
        attestation::UnfinishedPods,
        clock::{BootInstant, Clock, Timestamp},
        identity::ServiceAccount,
    },
    service::ports::PodPresence,
};

const PODS: &str = "/api/v1/pods";
/// Pods of one answer while they are listed.
const PAGE: u32 = 250;
/// For one such answer, or for a watch to begin.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// Seconds after which the API server ends a watch.
const WATCH_ENDS: u32 = 30;
/// A watch on which so long nothing was heard, not even its end, is dead.
const SILENCE_LIMIT: Duration = Duration::from_secs(40);
/// Not heard for so long, what is known is not believed any more.
const BELIEVED_FOR: Duration = Duration::from_secs(90);
/// After a first failure; doubled from one to the next.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// A watch that has ended before was none.
const SHORT: Duration = Duration::from_secs(1);

/// A pod without what nobody here reads; that is most of it, and is not even taken into memory.
#[derive(Clone, Debug, Deserialize)]
struct TrimmedPod {
    metadata: Metadata,
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Metadata {
    namespace: String,
    uid: String,
    resource_version: String,
    deletion_timestamp: Option<Time>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    service_account_name: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Status {
    phase: String,
}

/// Part of a list.
#[derive(Deserialize)]
struct Page {
    metadata: ListMeta,
    items: Vec<TrimmedPod>,
}

/// The pods of the cluster. Needs the right to list and watch pods in all namespaces.
pub struct ClusterPods {
    client: Client,
    clock: Arc<dyn Clock>,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    presence: Presence,
    /// When the API server was heard last; never before the first list was whole.
    heard: Option<BootInstant>,
}

/// Why what was watched is not watched any more.
enum Ended {
    /// It goes on from there.
    After(String),
    /// The pods have to be listed again.
    TooOld,
}

impl ClusterPods {
    /// The pods that `client` sees. Nothing is known until [`follow`](Self::follow) runs.
    pub fn new(client: Client, clock: Arc<dyn Clock>) -> Self {
        Self { client, clock, known: Mutex::default() }
    }

    /// Lists and watches for ever.
    pub async fn follow(&self) {
        let mut version = None;
        let mut pause = FIRST_PAUSE;
        let mut said = None;
        loop {
            let (begun, was_watch) = (Instant::now(), version.is_some());
            let step = match version.take() {
                None => self.list().await.map(Ended::After),
                Some(from) => match self.watch(from).await {
                    Ok(ended) => Ok(ended),
                    Err((from, error)) => {
                        version = Some(from);
                        Err(error)
                    }
                },
            };
            match step {
                Ok(ended) => {
                    pause = FIRST_PAUSE;
                    said = None;
                    if let Ended::After(reached) = ended {
                        version = Some(reached);
                    }
                    // one that ends at once, again and again, is not asked in a loop
                    if was_watch && begun.elapsed() < SHORT {
                        sleep(FIRST_PAUSE).await;
                    }
                }
                Err(problem) => {
                    let problem = problem.to_string();
                    if said.as_ref() != Some(&problem) {
                        warn!(event = "pods_not_watched", problem);
                    }
                    said = Some(problem);
                    sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    /// All pods, page by page, in place of what was known. The version that they are of.
    async fn list(&self) -> Result<String, Problem> {
        let mut presence = Presence::default();
        let mut page = ListParams::default().limit(PAGE);
        loop {
            let request = Request::new(PODS).list(&page)?;
            let answer = timeout(ANSWER_LIMIT, self.client.request::<Page>(request)).await;
            let answer = answer.map_err(|_elapsed| Problem::Silent)??;
            for pod in answer.items.iter().filter_map(facts_of) {
                presence.put(pod);
            }
            match answer.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => page = page.continue_token(&token),
                None => {
                    info!(event = "pods_listed", unfinished = presence.pods());
                    self.hear(|known| *known = presence);
                    return Ok(answer.metadata.resource_version.unwrap_or_default());
                }
            }
        }
    }

    /// Follows changes after `version` until the watch ends. With an error comes the version that was reached.
    async fn watch(&self, version: String) -> Result<Ended, (String, Problem)> {
        let mut reached = version;
        match self.watch_from(&mut reached).await {
            Ok(true) => Ok(Ended::After(reached)),
            Ok(false) => Ok(Ended::TooOld),
            Err(problem) => Err((reached, problem)),
        }
    }

    /// Whether the next watch can go on where this one ended.
    async fn watch_from(&self, reached: &mut String) -> Result<bool, Problem> {
        let params = WatchParams::default().timeout(WATCH_ENDS);
        let request = Request::new(PODS).watch(&params, reached)?;
        let begun = timeout(ANSWER_LIMIT, self.client.request_events::<TrimmedPod>(request)).await;
        let mut events = match begun.map_err(|_elapsed| Problem::Silent)? {
            Err(Error::Api(status)) if status.code == 410 => return Ok(false),
            begun => begun?.boxed(),
        };
        self.hear(|_| {});
        loop {
            let next = timeout(SILENCE_LIMIT, events.next()).await.map_err(|_elapsed| Problem::Silent)?;
            let Some(event) = next else { return Ok(true) };
            match event? {
                WatchEvent::Added(pod) | WatchEvent::Modified(pod) => {
                    self.hear(|known| facts_of(&pod).into_iter().for_each(|facts| known.put(facts)));
                    *reached = pod.metadata.resource_version;
                }
                WatchEvent::Deleted(pod) => {
                    self.hear(|known| known.remove(&pod.metadata.uid));
                    *reached = pod.metadata.resource_version;
                }
                WatchEvent::Bookmark(bookmark) => {
                    self.hear(|_| {});
                    *reached = bookmark.metadata.resource_version;
                }
                WatchEvent::Error(status) if status.code == 410 => return Ok(false),
                WatchEvent::Error(status) => return Err(Error::Api(status).into()),
            }
        }
    }

    fn hear(&self, change: impl FnOnce(&mut Presence)) {
        let now = self.clock.boot();
        let mut known = self.known();
        change(&mut known.presence);
        known.heard = Some(now);
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PodPresence for ClusterPods {
    fn unfinished_pods(&self, account: &ServiceAccount) -> UnfinishedPods {
        let known = self.known();
        match known.heard {
            Some(heard) if self.clock.boot().since(heard) < BELIEVED_FOR => {
                let in_use = known.presence.in_use(account, self.clock.now());
                if in_use { UnfinishedPods::Some } else { UnfinishedPods::None }
            }
            _ => UnfinishedPods::Unknown,
        }
    }
}

/// What went wrong on the way to the API server.
#[derive(Debug, thiserror::Error)]
enum Problem {
    #[error(transparent)]
    Api(#[from] Error),
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error("the API server is silent")]
    Silent,
}

/// `None` for what no API server would let exist.
fn facts_of(pod: &TrimmedPod) -> Option<PodFacts> {
    let TrimmedPod { metadata, spec, status } = pod;
    let name = Some(spec.service_account_name.as_str()).filter(|name| !name.is_empty()).unwrap_or("default");
    let account = ServiceAccount::new(&metadata.namespace, name).ok()?;
    let life = match (status.phase.as_str(), &metadata.deletion_timestamp) {
        ("Succeeded" | "Failed", _) => Life::Finished,
        (_, Some(deletion)) => Life::LeavesBy(Timestamp::from_seconds(deletion.0.as_second())),
        (_, None) => Life::Stays,
    };
    Some(PodFacts { uid: metadata.uid.as_str().into(), account, life })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(json: &str) -> PodFacts {
        facts_of(&serde_json::from_str(json).unwrap()).unwrap()
    }

    #[test]
    fn a_pod_is_read_as_the_api_server_writes_it() {
        let pod = facts(
            r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "namespace": "ns", "uid": "u1"},
                "spec": {"serviceAccountName": "gateway", "containers": []}, "status": {"phase": "Running"}}"#,
        );
        assert_eq!(pod, PodFacts { uid: "u1".into(), account: "ns/gateway".parse().unwrap(), life: Life::Stays });
    }

    #[test]
    fn a_pod_without_an_account_has_the_namespaces_own_and_no_phase_is_pending() {
        let pod = facts(r#"{"metadata": {"namespace": "ns", "uid": "u1"}, "spec": {}}"#);
        assert_eq!((pod.account.to_string().as_str(), pod.life), ("ns/default", Life::Stays));
    }

    #[test]
    fn phases_and_deletion_decide_how_long_it_lives() {
        let life = |phase: &str, deletion: &str| {
            let json = format!(
                r#"{{"metadata": {{"namespace": "ns", "uid": "u1"{deletion}}}, "spec": {{}},
                    "status": {{"phase": "{phase}"}}}}"#
            );
            facts(&json).life
        };
        for phase in ["Pending", "Running", "Unknown"] {
            assert_eq!(life(phase, ""), Life::Stays);
        }
        let deletion = r#", "deletionTimestamp": "2027-01-15T08:00:00Z""#;
        assert_eq!(life("Running", deletion), Life::LeavesBy(Timestamp::from_seconds(1_800_000_000)));
        for phase in ["Succeeded", "Failed"] {
            assert_eq!(life(phase, ""), Life::Finished);
            assert_eq!(life(phase, deletion), Life::Finished);
        }
    }
}
