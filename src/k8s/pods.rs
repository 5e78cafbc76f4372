//! The pods of the cluster, as far as they keep a service account's certificates renewable: listed once, then watched, and
//! kept as counts. Of a pod no more stays in memory than its UID and its account.
//!
//! What is known is believed while the API server is heard: a watch ends by itself each half minute and begins again. Not
//! heard for a minute and a half, nothing is known any more, since a pod may have gone unseen.

mod presence;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Client;
use serde::Deserialize;
use tracing::info;

use self::presence::{Life, PodFacts, Presence};
use super::{
    list_watch::{Heard, Source, Trimmed, follow},
    pod_containers::{Container, ContainerStatus, control_plane, injected_by, named_ports},
    policy_watch::{PodAnnotations, sidecar_of},
};
use crate::{
    domain::{
        attestation::UnfinishedPods,
        clock::{BootInstant, Clock, Timestamp},
        identity::ServiceAccount,
        policy::{self, Change, ClusterChange, ObjectName},
    },
    service::{policy_publisher::PolicyPublisher, ports::PodPresence},
};

const PODS: Source<'_> = Source { paths: &["/api/v1/pods"], event: "pods_not_watched", ..Source::ANY };
/// Not heard for so long, what is known is not believed any more.
const BELIEVED_FOR: Duration = Duration::from_secs(90);

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
    name: String,
    uid: String,
    resource_version: String,
    deletion_timestamp: Option<Time>,
    labels: BTreeMap<String, String>,
    annotations: PodAnnotations,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    service_account_name: String,
    host_network: bool,
    containers: Vec<Container>,
    init_containers: Vec<Container>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Status {
    phase: String,
    #[serde(rename = "podIP")]
    pod_ip: Option<String>,
    container_statuses: Vec<ContainerStatus>,
    conditions: Vec<PodCondition>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct PodCondition {
    #[serde(rename = "type")]
    kind: Box<str>,
    status: Box<str>,
}

/// The pods of the cluster. Needs the right to list and watch pods in all namespaces.
pub struct ClusterPods {
    client: Client,
    clock: Arc<dyn Clock>,
    known: Mutex<Known>,
    /// Who else wants to know of them.
    policy: Option<Arc<PolicyPublisher>>,
}

#[derive(Default)]
struct Known {
    presence: Presence,
    /// When the API server was heard last; never before the first list was whole.
    heard: Option<BootInstant>,
}

/// What is told of a pod: to the one, and to the other.
struct Told {
    presence: PodFacts,
    policy: Option<policy::PodFacts>,
}

impl ClusterPods {
    /// The pods that `client` sees. Nothing is known until [`follow`](Self::follow) runs.
    pub fn new(client: Client, clock: Arc<dyn Clock>) -> Self {
        Self { client, clock, known: Mutex::default(), policy: None }
    }

    /// Tells `policy` of them as well: they are watched once for both.
    #[must_use]
    pub fn with_policy(self, policy: Option<Arc<PolicyPublisher>>) -> Self {
        Self { policy, ..self }
    }

    /// Lists and watches for ever.
    pub async fn follow(&self) {
        let read = |pod: &TrimmedPod| {
            let presence = facts_of(pod)?;
            let policy = self.policy.is_some().then(|| policy_facts(pod, &presence));
            Some(Told { presence, policy })
        };
        match follow(&self.client, PODS, read, |heard| self.hear(heard)).await {}
    }

    fn hear(&self, heard: Heard<Told>) {
        let (presence, policy) = apart(heard);
        self.keep(presence);
        if let (Some(publisher), Some(change)) = (&self.policy, policy) {
            publisher.apply(ClusterChange::Pods(change));
        }
    }

    fn keep(&self, heard: Heard<PodFacts>) {
        let now = self.clock.boot();
        let mut known = self.known();
        if !matches!(heard, Heard::Trouble(_)) {
            known.heard = Some(now);
        }
        match heard {
            Heard::Served(_) | Heard::NotServed | Heard::Alive | Heard::Trouble(_) => {}
            Heard::Listed(pods, _) => {
                let mut presence = Presence::default();
                pods.into_iter().for_each(|pod| presence.put(pod));
                info!(event = "pods_listed", unfinished = presence.pods());
                known.presence = presence;
            }
            Heard::Put(pod) => known.presence.put(pod),
            Heard::Gone(pod) => known.presence.remove(&pod.uid),
        }
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

impl Trimmed for TrimmedPod {
    fn version(&self) -> &str {
        &self.metadata.resource_version
    }
}

impl Status {
    fn is_ready(&self) -> bool {
        self.conditions.iter().any(|condition| &*condition.kind == "Ready" && &*condition.status == "True")
    }
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

/// The same pod, as policies are worked out from it.
fn policy_facts(pod: &TrimmedPod, presence: &PodFacts) -> policy::PodFacts {
    let TrimmedPod { metadata, spec, status } = pod;
    let ip = status.pod_ip.as_ref().and_then(|ip| ip.parse().ok());
    let labels: policy::Labels = metadata.labels.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    let sidecar = sidecar_of(&labels, &metadata.annotations, spec.host_network);
    let injected_by = || {
        let revision = metadata.annotations.revision.clone();
        let found = injected_by(&spec.containers, &spec.init_containers, revision);
        found.filter(|_| sidecar == policy::Sidecar::Injected)
    };
    policy::PodFacts {
        object: ObjectName::new(&metadata.namespace, &metadata.name),
        uid: metadata.uid.as_str().into(),
        account: presence.account.clone(),
        finished: presence.life == Life::Finished,
        sidecar,
        ready_at: ip.filter(|_| presence.life == Life::Stays && status.is_ready()),
        named_ports: named_ports(&spec.containers, &spec.init_containers),
        control_plane: control_plane(&labels, &spec.containers, &status.container_statuses, ip).or_else(injected_by),
        labels: Arc::new(labels),
    }
}

/// What the one is told, and what the other.
fn apart(heard: Heard<Told>) -> (Heard<PodFacts>, Option<Change<policy::PodFacts>>) {
    match heard {
        Heard::Served(_) | Heard::NotServed | Heard::Alive => (Heard::Alive, None),
        Heard::Trouble(problem) => (Heard::Trouble(problem), None),
        Heard::Listed(pods, version) => {
            let (presence, policy): (Vec<_>, Vec<_>) =
                pods.into_iter().map(|told| (told.presence, told.policy)).unzip();
            (Heard::Listed(presence, version), Some(Change::Reset(policy.into_iter().flatten().collect())))
        }
        Heard::Put(told) => (Heard::Put(told.presence), told.policy.map(Change::Put)),
        Heard::Gone(told) => (Heard::Gone(told.presence), told.policy.map(|facts| Change::Gone(facts.object))),
    }
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
