//! The newest policies, for whoever follows them: what the edge to the cluster sees goes in, snapshots come out.
//!
//! Every replica has its own. Versions are therefore a replica's: who comes from another one reads everything anew.

mod pod_changes;

use std::{
    collections::{BTreeSet, VecDeque},
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Notify, watch},
    time::sleep,
};
use tracing::info;

pub use self::pod_changes::PodChanges;
use super::{gateway_plans::GatewayPlans, gateway_reaches::GatewayReaches, policy_enforcement::PolicyEnforcement};
use crate::domain::{
    identity::{SpiffeId, TrustDomain},
    policy::{
        ClusterChange, MeshLabels, NamespacePlan, NamespacePolicy, ObjectName, PolicyIndex, PolicySettings,
        PolicySnapshot, ProbeTarget,
    },
};

/// Changes that come within this become one snapshot: a roll-out is hundreds of them.
const PACE: Duration = Duration::from_millis(10);
/// Snapshots that a reader who was away may go on from. They share what has not changed.
const KEPT: usize = 32;

/// The newest policies.
pub struct PolicyPublisher {
    trust_domain: TrustDomain,
    /// Of this process and no other.
    epoch: String,
    index: Mutex<PolicyIndex>,
    touched: Notify,
    published: watch::Sender<Option<Arc<PolicySnapshot>>>,
    kept: Mutex<VecDeque<Arc<PolicySnapshot>>>,
    /// Who else is to know what was seen.
    plans: Option<Arc<GatewayPlans>>,
    pod_changes: Option<Arc<PodChanges>>,
    enforcement: Arc<PolicyEnforcement>,
    reaches: GatewayReaches,
}

/// Who may follow policies over the network.
#[derive(Clone)]
pub struct PolicyAccess {
    /// What is followed.
    pub publisher: Arc<PolicyPublisher>,
    /// The gateways.
    pub gateways: Arc<BTreeSet<SpiffeId>>,
}

impl PolicyAccess {
    /// Which of the policies are in force.
    pub fn enforcement(&self) -> Arc<PolicyEnforcement> {
        Arc::clone(self.publisher.enforcement())
    }
}

/// What another label would change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyPreview {
    /// As it is.
    pub now: Arc<NamespacePolicy>,
    /// As it would be.
    pub then: NamespacePolicy,
    /// What is planned for gateways there, now and then; nothing where no objects are written for them.
    pub plans: [Option<Arc<NamespacePlan>>; 2],
}

/// Why there is no preview.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PreviewError {
    /// The cluster has not been listed yet.
    #[error("the cluster's objects are not known yet: see the log for what can't be listed")]
    NotKnownYet,
    /// There is none of that name.
    #[error("there is no namespace {0:?}")]
    NoNamespace(String),
}

impl PolicyPublisher {
    /// Of identities in `trust_domain`. `replica` names this process and no other, ever.
    pub fn new(trust_domain: TrustDomain, replica: &str) -> Self {
        let enforcement = Arc::new(PolicyEnforcement::new(trust_domain.clone()));
        Self {
            enforcement,
            reaches: GatewayReaches::default(),
            trust_domain,
            epoch: replica.to_owned(),
            index: Mutex::default(),
            touched: Notify::new(),
            published: watch::Sender::new(None),
            kept: Mutex::default(),
            plans: None,
            pod_changes: None,
        }
    }

    /// The same, of a cluster in which other things hold. Nothing may be known yet.
    #[must_use]
    pub fn with_settings(self, settings: PolicySettings) -> Self {
        Self { index: Mutex::new(PolicyIndex::new(settings)), ..self }
    }

    /// Tells `plans` as well what was seen: it is watched once for both. Gateways but the `standalone` ones are told by them.
    #[must_use]
    pub fn with_plans(self, plans: Option<Arc<GatewayPlans>>, standalone: BTreeSet<SpiffeId>) -> Self {
        let reaches = if plans.is_some() { GatewayReaches::by_plans(standalone) } else { GatewayReaches::default() };
        Self { plans, reaches, ..self }
    }

    /// Tells `changes` of which Services' pods something may have changed.
    #[must_use]
    pub fn with_pod_changes(self, changes: Option<Arc<PodChanges>>) -> Self {
        Self { pod_changes: changes, ..self }
    }

    /// The trust domain of the mesh.
    pub const fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// Which of the policies are in force.
    pub const fn enforcement(&self) -> &Arc<PolicyEnforcement> {
        &self.enforcement
    }

    /// Of which of them gateways are told.
    pub const fn reaches(&self) -> &GatewayReaches {
        &self.reaches
    }

    /// Takes up what was seen of the cluster.
    pub fn apply(&self, change: ClusterChange) {
        if let Some(plans) = &self.plans {
            plans.see(&change);
        }
        self.index().apply(change);
        self.touched.notify_one();
    }

    /// Publishes what changes, for ever.
    pub async fn run(self: Arc<Self>) -> Infallible {
        loop {
            self.touched.notified().await;
            self.publish();
            sleep(PACE).await;
        }
    }

    fn publish(&self) {
        let (newest, stirred) = {
            let mut index = self.index();
            (index.snapshot(), index.take_stirred())
        };
        if let Some(changes) = &self.pod_changes {
            changes.add(stirred);
        }
        let Some(newest) = newest else { return };
        let before = self.published.borrow().clone();
        if before.as_ref().is_some_and(|before| Arc::ptr_eq(before, &newest)) {
            return;
        }
        if before.is_none() {
            let (namespaces, services) = (newest.namespaces.len(), newest.services().count());
            info!(event = "policy_known", namespaces, services);
        }
        let mut kept = self.kept();
        kept.push_back(Arc::clone(&newest));
        if kept.len() > KEPT {
            kept.pop_front();
        }
        drop(kept);
        self.published.send_replace(Some(newest));
    }

    /// The newest snapshot, from now on. `None` until the cluster has been listed: nothing is said of what is not known.
    pub fn follow(&self) -> watch::Receiver<Option<Arc<PolicySnapshot>>> {
        self.published.subscribe()
    }

    /// Ready pods behind these ports of a Service.
    pub fn probe_targets(&self, service: &ObjectName, ports: &[u16]) -> Vec<ProbeTarget> {
        self.index().probe_targets(service, ports)
    }

    /// Whether requests to a Service can get anywhere, as far as is seen.
    pub fn has_ready_pods(&self, service: &ObjectName) -> bool {
        self.index().has_ready_pods(service)
    }

    /// What a snapshot is called by who has read it.
    pub fn version(&self, snapshot: &PolicySnapshot) -> String {
        format!("{}/{}", self.epoch, snapshot.revision)
    }

    /// The snapshot of that name, if it is of this process and not long ago.
    pub fn snapshot(&self, version: &str) -> Option<Arc<PolicySnapshot>> {
        let (epoch, revision) = version.rsplit_once('/')?;
        let revision: u64 = revision.parse().ok().filter(|_| epoch == self.epoch)?;
        self.kept().iter().find(|snapshot| snapshot.revision == revision).cloned()
    }

    /// What would change in a namespace with the label of a revision, or with that of injection, or with none of both.
    ///
    /// # Errors
    ///
    /// When the namespace is not there, or nothing is known yet.
    pub fn preview(&self, namespace: &str, label: PreviewLabel) -> Result<PolicyPreview, PreviewError> {
        let snapshot = self.published.borrow().clone().ok_or(PreviewError::NotKnownYet)?;
        let unknown = || PreviewError::NoNamespace(namespace.to_owned());
        let now = snapshot.namespaces.get(namespace).cloned().ok_or_else(unknown)?;
        let index = self.index();
        let mut labels: MeshLabels = index.labels(namespace).cloned().ok_or_else(unknown)?;
        match label {
            PreviewLabel::Injection => labels.injection = Some("enabled".into()),
            PreviewLabel::Revision(revision) => labels.revision = Some(revision.into()),
            PreviewLabel::None => labels = MeshLabels { injection: None, revision: None, ..labels },
        }
        let then = index.preview(namespace, labels).ok_or_else(unknown)?;
        drop(index);
        let plans = self.plans.as_ref().map(|plans| plans.preview(&then, &snapshot.control_planes));
        Ok(PolicyPreview { now, then, plans: plans.unwrap_or_default() })
    }

    fn index(&self) -> MutexGuard<'_, PolicyIndex> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn kept(&self) -> MutexGuard<'_, VecDeque<Arc<PolicySnapshot>>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A label that a namespace might get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PreviewLabel {
    /// `istio-injection: enabled`.
    Injection,
    /// `istio.io/rev`, beside what is there.
    Revision(String),
    /// Both gone.
    None,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::policy::{Change, Labels, NamespaceFacts};

    fn namespace(name: &str) -> ClusterChange {
        let labels = MeshLabels { injection: Some("enabled".into()), ..MeshLabels::default() };
        ClusterChange::Namespaces(Change::Put(NamespaceFacts {
            name: name.into(),
            labels,
            all_labels: Labels::default(),
        }))
    }

    fn empty() -> PolicyPublisher {
        let publisher = PolicyPublisher::new("cluster.local".parse().unwrap(), "replica-1");
        publisher.apply(ClusterChange::Namespaces(Change::Reset(Vec::new())));
        publisher.apply(ClusterChange::Services(Change::Reset(Vec::new())));
        publisher.apply(ClusterChange::Pods(Change::Reset(Vec::new())));
        publisher
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_said_before_everything_is_known() {
        let publisher = Arc::new(empty());
        let (running, mut newest) = (Arc::clone(&publisher), publisher.follow());
        tokio::spawn(running.run());
        assert!(tokio::time::timeout(Duration::from_secs(60), newest.changed()).await.is_err());
        assert_eq!(publisher.preview("a", PreviewLabel::Injection), Err(PreviewError::NotKnownYet));
        publisher.apply(ClusterChange::Slices(Change::Reset(Vec::new())));
        newest.changed().await.unwrap();
        assert_eq!(newest.borrow_and_update().as_ref().unwrap().revision, 1);
        publisher.apply(namespace("a"));
        newest.changed().await.unwrap();
        assert_eq!(publisher.preview("b", PreviewLabel::Injection), Err(PreviewError::NoNamespace("b".into())));
        let preview = publisher.preview("a", PreviewLabel::None).unwrap();
        assert!(preview.now.is_member() && !preview.then.is_member());
    }

    #[test]
    fn a_version_is_known_for_a_while_and_only_to_its_own_process() {
        let publisher = empty();
        publisher.apply(ClusterChange::Slices(Change::Reset(Vec::new())));
        publisher.publish();
        let first = publisher.version(publisher.published.borrow().as_ref().unwrap());
        assert_eq!(first, "replica-1/1");
        for number in 0..KEPT - 1 {
            publisher.apply(namespace(&format!("n{number}")));
            publisher.publish();
        }
        assert_eq!(publisher.snapshot(&first).unwrap().revision, 1);
        publisher.apply(namespace("one-more"));
        publisher.publish();
        for unknown in [&*first, "replica-1/99", "replica-2/2", "2", "", "replica-1/x"] {
            assert!(publisher.snapshot(unknown).is_none(), "{unknown:?}");
        }
        assert!(publisher.snapshot("replica-1/2").is_some());
    }
}
