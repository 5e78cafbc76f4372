//! The newest plan of what gateways need in the cluster, for whoever follows it: what is seen of the Gateway API goes in, beside
//! the policies, and plans come out. Every replica works them out; so either can go on at once.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Notify, watch},
    time::sleep,
};
use tracing::info;

use super::policy_objects::Plans;
use crate::domain::policy::{
    ClusterChange, ControlPlanes, GatewayChange, GatewayIndex, GatewayPlan, NamespacePlan, NamespacePolicy,
    PolicySnapshot,
};

/// Changes that come within this become one plan.
const PACE: Duration = Duration::from_millis(10);

/// The newest plan.
pub struct GatewayPlans {
    index: Mutex<GatewayIndex>,
    touched: Notify,
    published: watch::Sender<Option<Arc<GatewayPlan>>>,
}

impl Default for GatewayPlans {
    fn default() -> Self {
        Self { index: Mutex::default(), touched: Notify::new(), published: watch::Sender::new(None) }
    }
}

impl GatewayPlans {
    /// Takes up what was seen of gateways.
    pub fn apply(&self, change: GatewayChange) {
        self.index().apply(change);
        self.touched.notify_one();
    }

    /// Takes up what counts here of what policies are worked out from.
    pub fn see(&self, change: &ClusterChange) {
        self.index().see(change);
        self.touched.notify_one();
    }

    /// The newest plan, from now on. `None` until the cluster has been listed.
    pub fn follow(&self) -> Plans {
        self.published.subscribe()
    }

    /// The newest plan for a namespace, and what it would be under another policy. `None` if there is nothing for it.
    pub fn preview(&self, policy: &NamespacePolicy, by: &ControlPlanes) -> [Option<Arc<NamespacePlan>>; 2] {
        let now = self.published.borrow().as_ref().and_then(|plan| plan.namespaces.get(&policy.name).cloned());
        [now, self.index().preview(policy, by)]
    }

    /// Publishes what changes with what is seen, and with `policies`, for ever.
    pub async fn run(self: Arc<Self>, mut policies: watch::Receiver<Option<Arc<PolicySnapshot>>>) -> Infallible {
        loop {
            tokio::select! {
                () = self.touched.notified() => {}
                changed = policies.changed() => if changed.is_err() {
                    // there are no policies any more: the process ends
                    std::future::pending::<()>().await;
                },
            }
            let snapshot = policies.borrow_and_update().clone();
            if let Some(snapshot) = snapshot {
                self.publish(&snapshot);
            }
            sleep(PACE).await;
        }
    }

    fn publish(&self, policies: &Arc<PolicySnapshot>) {
        let Some(newest) = self.index().plan(policies) else { return };
        self.published.send_if_modified(|published| {
            let is_new = !published.as_ref().is_some_and(|before| Arc::ptr_eq(before, &newest));
            if is_new {
                if published.is_none() {
                    let (namespaces, gateways) = (newest.namespaces.len(), newest.gateways.len());
                    info!(event = "gateway_plan_known", namespaces, gateways);
                }
                *published = Some(newest);
            }
            is_new
        });
    }

    fn index(&self) -> MutexGuard<'_, GatewayIndex> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
