//! The active replica keeps in the cluster what gateways of the Gateway API need to speak mutual TLS to the mesh: for each Service
//! a BackendTLSPolicy, and who holds the roots for it.
//!
//! Every replica follows what is there; the one that may sign writes. That is not fenced by the term: it is level-triggered, so
//! the next active goes on from what it sees.

mod conditions;
mod ledger;
mod ports;
mod report;
mod wanted;

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::{
    sync::{Notify, watch},
    time::{MissedTickBehavior, error::Elapsed, interval, timeout},
};
use tracing::info;

pub use self::ports::{
    Content, GatewayObjects, ObjectKey, Owner, Pause, Print, Removed, Seen, SeenObject, Wanted, WriteError,
};
use self::{
    conditions::Conditions,
    ledger::{Ledger, Outcome, Todo},
    report::Report,
    wanted::wanted,
};
use super::{
    bundle_distribution::{Trusted, named},
    metrics::{Metrics, ObjectWriteOutcome},
    policy_enforcement::PolicyEnforcement,
    readiness::Latch,
    waiting::pause,
};
use crate::domain::{
    clock::{BootInstant, Clock},
    identity::TrustDomain,
    pace::Pace,
    policy::{CA_CONFIG_MAP, DesiredObject, GatewayPlan, NamespacePlan, ObjectKind, ObjectName},
    x509::TrustBundle,
};

/// The use case.
pub struct PolicyObjects {
    trust_domain: TrustDomain,
    objects: Arc<dyn GatewayObjects>,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    ledger: Mutex<Ledger>,
    touched: Notify,
    uptake: Uptake,
}

/// What is known of how proxies take up what is written.
pub struct Uptake {
    /// What they are heard to use.
    pub enforcement: Arc<PolicyEnforcement>,
    /// Whether requests to a Service can get anywhere. Gateways' controllers tell proxies nothing of one where they can't.
    pub has_ready_pods: Box<dyn Fn(&ObjectName) -> bool + Send + Sync>,
}

/// The newest plan; `None` until the cluster is known.
pub type Plans = watch::Receiver<Option<Arc<GatewayPlan>>>;

/// 100 writes a second, for large clusters; up to as many as this come at once. Policies that Routes lead by wait for their turn
/// besides.
const INTERVAL: Duration = Duration::from_millis(10);
const BURST: u32 = 200;
const WRITE_LIMIT: Duration = Duration::from_secs(5);
/// Metrics and log lines come at most as often as this.
const REPORT_EVERY: Duration = Duration::from_millis(500);

/// What the plan was that the ledger knows of, and with which roots.
#[derive(Default)]
struct Known {
    plan: Option<Arc<GatewayPlan>>,
    namespaces: BTreeMap<Arc<str>, Arc<NamespacePlan>>,
    /// Of which the ledger was told anything, with whichever roots.
    told: BTreeSet<Arc<str>>,
    roots: Option<Arc<str>>,
    conditions: Conditions,
}

impl PolicyObjects {
    /// The use case over its port, for workloads of `trust_domain`. Nothing is written before it runs.
    pub fn new(
        trust_domain: TrustDomain,
        objects: Arc<dyn GatewayObjects>,
        uptake: Uptake,
        (clock, metrics): (Arc<dyn Clock>, Arc<Metrics>),
    ) -> Self {
        let (ledger, touched) = (Mutex::default(), Notify::new());
        Self { trust_domain, objects, clock, metrics, ledger, touched, uptake }
    }

    /// Takes up what was seen of the objects.
    pub fn see(&self, seen: Seen) {
        self.tell_of_policies(&seen);
        self.ledger().see(seen, self.clock.boot());
        self.touched.notify_one();
    }

    /// Which ConfigMaps of ours are not as they are to be with these roots, so that gateways may go by others; or that nobody has looked yet.
    pub fn behind(&self, roots: &TrustBundle) -> Option<String> {
        let key = ObjectKey { kind: ObjectKind::ConfigMap, object: ObjectName::new("", CA_CONFIG_MAP) };
        let content = Content::Roots { pem: roots.to_pem().into() };
        let print = self.objects.print(&Wanted { key, owner: None, content, only_if_there: false });
        match self.ledger().config_maps_other_than(&print) {
            None => Some(format!("ConfigMap {CA_CONFIG_MAP}, which nobody has looked at yet,")),
            Some(namespaces) if namespaces.is_empty() => None,
            Some(namespaces) => Some(format!("ConfigMap {CA_CONFIG_MAP} in {}", named(&namespaces))),
        }
    }

    /// A policy that is made anew, or changed, is not in force at once, whoever took it away or changed it; nor is one that is not there.
    fn tell_of_policies(&self, seen: &Seen) {
        let enforcement = &self.uptake.enforcement;
        let policy = ObjectKind::BackendTlsPolicy;
        let service = |key: &ObjectKey| DesiredObject::service_of_policy(&key.object).filter(|_| key.kind == policy);
        match seen {
            Seen::Listed { kind, objects, .. } if *kind == policy => {
                let ours = objects.iter().filter(|(_, seen)| seen.ours);
                let by_service =
                    |(object, seen): &(_, SeenObject)| Some((DesiredObject::service_of_policy(object)?, seen.sight()));
                enforcement.see_objects(&ours.filter_map(by_service).collect(), self.clock.now());
            }
            Seen::Put(key, seen) => {
                let sight = seen.ours.then(|| seen.sight());
                service(key).into_iter().for_each(|service| enforcement.see_object(service, sight.as_ref()));
            }
            Seen::Gone(key, _) => service(key).into_iter().for_each(|service| enforcement.see_object(service, None)),
            Seen::Listed { .. } => {}
        }
    }

    /// Writes while this replica is active, which it is while there is a term; `trusted` are the mesh's roots of that, and nothing
    /// is written while they are not known. Never returns. `latch` tells how it stands and is always ready: what can't be written is
    /// no reason to answer no requests.
    pub(crate) async fn run<S: Clone + Send + Sync, T: Trusted>(
        self: Arc<Self>,
        mut terms: watch::Receiver<Option<S>>,
        trusted: impl Fn(&S) -> T,
        plans: Plans,
        latch: Latch,
    ) -> Infallible {
        loop {
            latch.ready("the active replica writes".to_owned());
            let term = terms.borrow_and_update().clone();
            let changed = tokio::select! {
                changed = terms.changed() => changed,
                never = self.write(term.as_ref().map(&trusted), plans.clone(), &latch) => match never {},
            };
            self.ledger().suspend();
            self.metrics.forget_policy_objects();
            if changed.is_err() {
                // an election that has ended says so itself
                std::future::pending::<()>().await;
            }
        }
    }

    async fn write<T: Trusted>(&self, trusted: Option<T>, mut plans: Plans, latch: &Latch) -> Infallible {
        let Some(mut trusted) = trusted else { return std::future::pending().await };
        info!(event = "policy_objects_begin");
        let mut reports = self.uptake.enforcement.changes();
        let mut pace = Pace::new(INTERVAL, BURST, self.clock.boot());
        let mut writes = FuturesUnordered::new();
        let (mut known, mut report) = (Known::default(), Report::default());
        let mut look = interval(REPORT_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.want(&mut known, plans.borrow_and_update().clone(), &trusted);
        loop {
            let now = self.clock.boot();
            let due = self.ledger().next_wake(now);
            let turn = due.map(|due| due.max(pace.free_at()).since(now));
            tokio::select! {
                () = self.touched.notified() => {}
                Ok(()) = plans.changed() => {
                    self.want(&mut known, plans.borrow_and_update().clone(), &trusted);
                }
                () = trusted.changed() => self.want(&mut known, plans.borrow().clone(), &trusted),
                Some((key, outcome)) = writes.next(), if !writes.is_empty() => {
                    self.ledger().done(&key, outcome, self.clock.boot());
                    self.hear();
                }
                Ok(()) = reports.changed() => self.hear(),
                () = pause(turn) => {
                    let now = self.clock.boot();
                    if pace.free_at() <= now && let Some(todo) = self.next(&known, now) {
                        pace.take(now);
                        writes.push(self.perform(todo));
                    }
                }
                _ = look.tick() => {
                    if let Some(status) = report.tell(&self.ledger(), &self.metrics, self.clock.boot()) {
                        latch.ready(status);
                    }
                }
            }
        }
    }

    /// Tells the ledger what has changed in the plan. Without a plan nothing is known to be wanted or not; without roots neither, unless all
    /// is to go, which takes none.
    fn want(&self, known: &mut Known, plan: Option<Arc<GatewayPlan>>, trusted: &impl Trusted) {
        let Some(plan) = plan else { return };
        known.conditions.tell(&plan, &self.metrics);
        known.plan = Some(Arc::clone(&plan));
        let now = self.clock.boot();
        let roots: Option<Arc<str>> = trusted.now().map(|trust| trust.bundle.to_pem().into());
        if known.roots != roots {
            known.namespaces.clear();
            known.roots.clone_from(&roots);
        }
        if roots.is_none() && !plan.must_withdraw {
            // what was known before was that nothing is to be anywhere
            known.namespaces.clear();
            self.ledger().forget_plan();
            return;
        }
        let gone = known.told.iter().filter(|name| !plan.namespaces.contains_key(*name));
        let mut changes: Vec<_> = gone.map(|name| (Arc::clone(name), Vec::new())).collect();
        for (name, namespace) in &plan.namespaces {
            if !known.namespaces.get(name).is_some_and(|before| Arc::ptr_eq(before, namespace)) {
                let all = roots.as_ref().map(|roots| wanted(namespace, &self.trust_domain, roots)).unwrap_or_default();
                let printed = all.into_iter().map(|wanted| {
                    let print = self.objects.print(&wanted);
                    (wanted, print)
                });
                changes.push((Arc::clone(name), printed.collect()));
            }
        }
        let mut ledger = self.ledger();
        ledger.withdraw(plan.must_withdraw, now);
        for (name, wanted) in changes {
            ledger.want(&name, wanted, now);
        }
        ledger.planned(now);
        drop(ledger);
        known.namespaces.clone_from(&plan.namespaces);
        known.told = plan.namespaces.keys().cloned().collect();
    }

    /// Whether proxies are heard to use what was written last, or to use it no more.
    fn hear(&self) {
        let mut ledger = self.ledger();
        if let Some((service, is_used)) = ledger.turns.awaited()
            && self.uptake.enforcement.is_used(service) == Some(*is_used)
        {
            ledger.turns.heard(self.clock.boot());
        }
    }

    fn next(&self, known: &Known, now: BootInstant) -> Option<Todo> {
        let mut ledger = self.ledger();
        // who was awaited may have lost its pods since, and who comes now may have none
        self.expect_who_can_be_heard(&mut ledger, known, now);
        let todo = ledger.next(now);
        self.expect_who_can_be_heard(&mut ledger, known, now);
        todo
    }

    /// A policy that nobody's proxies can be heard to use is not waited for; that one is used no more, nobody need say.
    fn expect_who_can_be_heard(&self, ledger: &mut Ledger, known: &Known, now: BootInstant) {
        let is_carried = |service: &ObjectName| {
            known.plan.as_ref().is_some_and(|plan| plan.is_carried(service)) && (self.uptake.has_ready_pods)(service)
        };
        if ledger.turns.awaited().is_some_and(|(service, is_used)| *is_used && !is_carried(service)) {
            ledger.turns.expect_nobody(now);
        }
    }

    async fn perform(&self, todo: Todo) -> (ObjectKey, Outcome) {
        let (key, outcome) = match todo {
            Todo::Apply { wanted, version } => {
                let applied = timeout(WRITE_LIMIT, self.objects.apply(&wanted, version.as_deref())).await;
                (wanted.key, answered(applied).map_or_else(Outcome::Failed, Outcome::Applied))
            }
            Todo::Remove { key, seen } => {
                let removed = timeout(WRITE_LIMIT, self.objects.remove(&key, seen.as_ref())).await;
                (key, answered(removed).map_or_else(Outcome::Failed, Outcome::Removed))
            }
        };
        let counted = match &outcome {
            Outcome::Applied(_) => ObjectWriteOutcome::Applied,
            Outcome::Removed(_) => ObjectWriteOutcome::Removed,
            Outcome::Failed(WriteError::Outdated(_)) => ObjectWriteOutcome::Outdated,
            Outcome::Failed(WriteError::Refused(_)) => ObjectWriteOutcome::Refused,
            Outcome::Failed(WriteError::Unavailable { .. }) => ObjectWriteOutcome::Unavailable,
        };
        self.metrics.policy_object_written(key.kind, counted);
        report::log(&key, &outcome);
        (key, outcome)
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn answered<T>(answer: Result<Result<T, WriteError>, Elapsed>) -> Result<T, WriteError> {
    answer.unwrap_or_else(|_elapsed| {
        Err(WriteError::Unavailable { why: format!("no answer within {WRITE_LIMIT:?}"), pause: None })
    })
}

#[cfg(test)]
mod tests;
