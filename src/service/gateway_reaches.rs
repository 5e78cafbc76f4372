//! Of which Services each gateway identity is told, worked out once for each plan and shared by its streams.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    future::pending,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::watch;
use tracing::warn;

use crate::domain::{
    identity::{ServiceAccount, SpiffeId},
    policy::{GatewayPlan, Reach},
};

const STRANGER: &str =
    "no pods of Gateways run as it: if it is that of no Gateway, name it as standalone-gateway-identity";

/// The newest plan, and what follows from it for identities.
#[derive(Debug, Default)]
pub struct GatewayReaches {
    /// Whether there are plans at all.
    goes_by_plans: bool,
    /// Who is told of all Services, whatever the plan is.
    standalone: BTreeSet<SpiffeId>,
    plan: watch::Sender<Option<Arc<GatewayPlan>>>,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    plan: Option<Arc<GatewayPlan>>,
    reaches: BTreeMap<SpiffeId, Reach>,
    /// By the plan before: what is the same stays the same allocation.
    before: BTreeMap<SpiffeId, Reach>,
    /// Who asks though no pods of Gateways run as it.
    strangers: BTreeSet<SpiffeId>,
}

impl GatewayReaches {
    /// Where there are plans: but for the `standalone` ones nobody is told of anything until the first one.
    pub fn by_plans(standalone: BTreeSet<SpiffeId>) -> Self {
        Self { goes_by_plans: true, standalone, ..Self::default() }
    }

    /// Goes by the newest of these plans, for ever.
    pub async fn run(&self, mut plans: watch::Receiver<Option<Arc<GatewayPlan>>>) -> Infallible {
        loop {
            let newest = plans.borrow_and_update().clone();
            if let Some(plan) = newest {
                self.set_plan(plan);
            }
            if plans.changed().await.is_err() {
                // there are no plans any more: the process ends
                pending::<()>().await;
            }
        }
    }

    /// Goes by this plan from now on.
    pub fn set_plan(&self, plan: Arc<GatewayPlan>) {
        self.plan.send_replace(Some(plan));
    }

    /// Tells of each new plan.
    pub fn follow(&self) -> watch::Receiver<Option<Arc<GatewayPlan>>> {
        self.plan.subscribe()
    }

    /// Of what this identity is told now; `None` while that is not known.
    pub fn of(&self, gateway: &SpiffeId) -> Option<Reach> {
        if !self.goes_by_plans || self.standalone.contains(gateway) {
            return Some(Reach::All);
        }
        let plan = self.plan.borrow().clone()?;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if !known.plan.as_ref().is_some_and(|known| Arc::ptr_eq(known, &plan)) {
            known.before = std::mem::take(&mut known.reaches);
            known.plan = Some(Arc::clone(&plan));
        }
        if let Some(reach) = known.reaches.get(gateway) {
            return Some(reach.clone());
        }
        let by_plan = ServiceAccount::of(gateway).and_then(|account| Reach::of(&account, &plan));
        if by_plan.is_some() {
            known.strangers.remove(gateway);
        } else if known.strangers.insert(gateway.clone()) {
            warn!(event = "gateway_told_of_nothing", %gateway, "{STRANGER}");
        }
        let fresh = by_plan.unwrap_or_else(|| Reach::Only(Arc::default()));
        let reach = known.before.get(gateway).filter(|before| **before == fresh).cloned().unwrap_or(fresh);
        known.reaches.insert(gateway.clone(), reach.clone());
        Some(reach)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::policy::{GatewayState, NamespacePlan, ObjectName, ServicePlan};

    fn account(name: &str) -> ServiceAccount {
        ServiceAccount::new("infra", name).unwrap()
    }

    /// Gateways with the accounts of their pods, and Services with the Gateways that reach them.
    fn plan(gateways: &[(&str, &str)], services: &[(&str, &[&str])]) -> Arc<GatewayPlan> {
        let gateway = |name: &str| ObjectName::new("infra", name);
        let states = gateways.iter().map(|(name, runs_as)| {
            let carriers = [(account(runs_as), [gateway(name)].into())].into();
            let state = GatewayState {
                gateway: gateway(name),
                uid: "u".into(),
                is_ready: true,
                carriers,
                conditions: [].into(),
            };
            (gateway(name), Arc::new(state))
        });
        let services = services.iter().map(|(name, by)| {
            let gateways = by.iter().map(|name| gateway(name)).collect();
            let service = ObjectName::new("app", name);
            (
                Arc::from(*name),
                Arc::new(ServicePlan {
                    service,
                    gateways,
                    routed: [].into(),
                    policy: None,
                    overruled: [].into(),
                    is_split: false,
                    uptake: None,
                    conditions: [].into(),
                }),
            )
        });
        let namespace = NamespacePlan { name: "app".into(), services: services.collect() };
        let namespaces = [(Arc::from("app"), Arc::new(namespace))].into();
        Arc::new(GatewayPlan { revision: 1, namespaces, gateways: states.collect(), must_withdraw: false })
    }

    fn of(reaches: &GatewayReaches, id: &str) -> String {
        match reaches.of(&id.parse().unwrap()) {
            None => "not known".into(),
            Some(Reach::All) => "all".into(),
            Some(Reach::Only(services)) => services.iter().map(|service| &*service.name).collect::<Vec<_>>().join(","),
        }
    }

    #[test]
    fn an_identity_of_pods_of_gateways_is_told_of_what_they_reach_a_standalone_one_of_all_and_another_of_nothing() {
        let (edge, plain) = ("spiffe://td/ns/infra/sa/edge", "spiffe://td/ns/infra/sa/plain-envoy");
        assert_eq!(of(&GatewayReaches::default(), edge), "all", "there are no plans");
        assert_eq!(of(&GatewayReaches::default(), plain), "all", "there are no plans");
        let reaches = GatewayReaches::by_plans([plain.parse().unwrap()].into());
        assert_eq!(of(&reaches, edge), "not known");
        assert_eq!(of(&reaches, "spiffe://td/gateway"), "not known");
        assert_eq!(of(&reaches, plain), "all");
        let services: &[(&str, &[&str])] = &[("a", &["one"]), ("b", &["one", "two"]), ("c", &["two"]), ("d", &[])];
        reaches.set_plan(plan(&[("one", "edge"), ("two", "other")], services));
        assert_eq!(of(&reaches, edge), "a,b");
        assert_eq!(of(&reaches, "spiffe://td/ns/infra/sa/other"), "b,c");
        assert_eq!(of(&reaches, plain), "all");
        assert_eq!(of(&reaches, "spiffe://td/ns/infra/sa/nobody-s"), "");
        assert_eq!(of(&reaches, "spiffe://td/gateway"), "");
        reaches.set_plan(plan(&[("one", "edge"), ("two", "edge")], services));
        assert_eq!(of(&reaches, edge), "a,b,c");
        reaches.set_plan(plan(&[("three", "edge")], services));
        assert_eq!(of(&reaches, edge), "");
        reaches.set_plan(plan(&[("one", "other")], services));
        assert_eq!(of(&reaches, edge), "", "its pods are gone");
    }

    #[test]
    fn what_a_new_plan_leaves_as_it_was_is_the_same_allocation() {
        let (reaches, edge) =
            (GatewayReaches::by_plans(BTreeSet::new()), "spiffe://td/ns/infra/sa/edge".parse().unwrap());
        let shared = |one: Option<Reach>, other: Option<Reach>| match (one, other) {
            (Some(Reach::Only(one)), Some(Reach::Only(other))) => Arc::ptr_eq(&one, &other),
            _ => false,
        };
        reaches.set_plan(plan(&[("one", "edge")], &[("a", &["one"])]));
        let first = reaches.of(&edge);
        assert!(shared(first.clone(), reaches.of(&edge)));
        reaches.set_plan(plan(&[("one", "edge")], &[("a", &["one"]), ("b", &[])]));
        assert!(shared(first, reaches.of(&edge)));
    }
}
