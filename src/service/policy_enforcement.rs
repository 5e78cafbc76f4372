//! Which policies are in force, as a replica knows it: what gateways' agents report, put beside what is wanted.
//!
//! How reports come is `grpc`'s, what follows from them [`EnforcementIndex`]'s. An agent that says nothing for a while is
//! forgotten: what its proxy does then is not known.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep},
};

use super::metrics::Metrics;
use crate::domain::{
    clock::Timestamp,
    identity::{ServiceAccount, SpiffeId, TrustDomain},
    policy::{
        Carriers, Condition, Enforcement, EnforcementIndex, GatewayPlan, IdentitySet, MtlsMode, ObjectName,
        PolicySight, PolicySnapshot, ProbeSight, Report, ReportChange, Reporter, ServicePlan, ServicePolicy,
        Verification,
    },
};

/// An agent confirms every 5 s; two of that may be missed.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(12);
/// An agent that has not confirmed for longer is not confirmed to other replicas either.
const JUST_NOW: Duration = Duration::from_secs(6);
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Changes within this are published together.
const PACE: Duration = Duration::from_millis(20);
/// Agents of one gateway identity that are known at a time.
const AGENTS_OF_ONE: usize = 64;
/// Agents in all.
const AGENTS: usize = 512;
/// Services that one agent may report.
const SERVICES_OF_AN_AGENT: usize = 10_000;

/// What is in force.
#[derive(Debug)]
pub struct PolicyEnforcement {
    trust_domain: TrustDomain,
    /// From which times are counted.
    begun: Instant,
    state: Mutex<State>,
    touched: Notify,
    reported: watch::Sender<()>,
    published: watch::Sender<Option<Judged>>,
}

/// What was looked at together: which of these policies are in force, and not of any later ones.
#[derive(Clone, Debug)]
pub struct Judged {
    /// The policies.
    pub snapshot: Arc<PolicySnapshot>,
    /// The objects for gateways; `None` where none are kept, or nothing is known yet.
    pub plan: Option<Arc<GatewayPlan>>,
    /// Whether the policies are in force.
    pub enforcement: Arc<Enforcement>,
}

#[derive(Debug, Default)]
struct State {
    index: EnforcementIndex,
    agents: BTreeMap<Arc<Reporter>, Agent>,
    /// Whether BackendTLSPolicies were listed.
    has_listed: bool,
}

/// Where a report comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReportOrigin {
    /// The agent itself.
    Agent,
    /// Another replica, to which the agent speaks.
    Replica,
}

/// What is known of an agent.
#[derive(Clone, Copy, Debug)]
struct Agent {
    /// Of its last change.
    sequence: u64,
    heard_at: Instant,
    origin: ReportOrigin,
}

/// What an agent says, or that what it has said still holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reported {
    /// The number of its last change.
    pub sequence: u64,
    /// The number of what this changes; `None` if it is everything.
    pub follows: Option<u64>,
    /// What changes.
    pub change: ReportChange,
}

/// Why a report is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReportError {
    /// What it follows is not known here.
    #[error("what this change follows is not known here: begin anew with everything")]
    NotFollowed,
    /// Too many agents of one identity, or in all.
    #[error("{0} agents report already")]
    TooManyAgents(usize),
    /// Too many Services.
    #[error("an agent may report {SERVICES_OF_AN_AGENT} Services, not more")]
    TooManyServices,
}

impl Judged {
    /// Whether it is the very same.
    pub fn is(&self, other: &Self) -> bool {
        let plans = (self.plan.as_ref(), other.plan.as_ref());
        Arc::ptr_eq(&self.snapshot, &other.snapshot)
            && Arc::ptr_eq(&self.enforcement, &other.enforcement)
            && match plans {
                (Some(one), Some(other)) => Arc::ptr_eq(one, other),
                (one, other) => one.is_none() && other.is_none(),
            }
    }
}

impl PolicyEnforcement {
    /// Of identities in `trust_domain`.
    pub fn new(trust_domain: TrustDomain) -> Self {
        Self {
            trust_domain,
            begun: Instant::now(),
            state: Mutex::default(),
            touched: Notify::new(),
            reported: watch::Sender::new(()),
            published: watch::Sender::new(None),
        }
    }

    /// Takes up what an agent reports. Of what comes by several ways the newest counts.
    ///
    /// # Errors
    ///
    /// When it is not taken. The agent is to begin anew.
    pub fn report(
        &self,
        reporter: &Arc<Reporter>,
        origin: ReportOrigin,
        reported: Reported,
    ) -> Result<(), ReportError> {
        let now = Instant::now();
        let mut state = self.state();
        let known = state.agents.get(reporter).copied();
        if known.is_some_and(|known| reported.sequence < known.sequence) {
            // a later one came by another way
            return Ok(());
        }
        match (known.map(|known| known.sequence), reported.follows) {
            // it came by another way already
            (Some(known), _) if known == reported.sequence => {}
            (None, None) => {
                state.check_room(&reporter.gateway)?;
                state.index.report(reporter, reported.change);
            }
            (Some(known), follows) if follows.is_none_or(|follows| follows == known) => {
                state.index.report(reporter, reported.change);
            }
            (_, Some(_)) | (Some(_), None) => return Err(ReportError::NotFollowed),
        }
        if state.index.services_of(reporter) > SERVICES_OF_AN_AGENT {
            state.index.forget(reporter);
            state.agents.remove(reporter);
            self.touched.notify_one();
            return Err(ReportError::TooManyServices);
        }
        let is_here = |known: Agent| known.sequence == reported.sequence && known.origin == ReportOrigin::Agent;
        let origin = if known.is_some_and(is_here) { ReportOrigin::Agent } else { origin };
        let agent = Agent { sequence: reported.sequence, heard_at: now, origin };
        state.agents.insert(Arc::clone(reporter), agent);
        drop(state);
        if known.is_none_or(|known| known.sequence != reported.sequence) {
            self.touched.notify_one();
            self.reported.send_replace(());
        }
        Ok(())
    }

    /// Which policies are in force, from now on. `None` until the cluster has been listed.
    pub fn follow(&self) -> watch::Receiver<Option<Judged>> {
        self.published.subscribe()
    }

    /// The agents that have spoken to this replica itself just now.
    pub fn heard_here(&self) -> BTreeSet<Arc<Reporter>> {
        let (now, state) = (Instant::now(), self.state());
        let is_new = |agent: &Agent| now.saturating_duration_since(agent.heard_at) <= JUST_NOW;
        let here = state.agents.iter().filter(|(_, agent)| agent.origin == ReportOrigin::Agent && is_new(agent));
        here.map(|(reporter, _)| Arc::clone(reporter)).collect()
    }

    /// All that an agent has said, with the number of its last change; `None` of one that is not known.
    pub fn report_of(&self, reporter: &Reporter) -> Option<(u64, Report)> {
        let state = self.state();
        let agent = state.agents.get(reporter)?;
        Some((agent.sequence, state.index.report_of(reporter)))
    }

    /// Whether proxies use what agents tell them of a Service: all that ask for it, or none; `None` while some have yet to take it up.
    pub fn is_used(&self, service: &ObjectName) -> Option<bool> {
        self.state().index.is_used(service)
    }

    /// Tells of each change of what agents say, from now on.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.reported.subscribe()
    }

    /// A Service's BackendTLSPolicy is seen to be this one; with `None` there is none, or not any more.
    pub fn see_object(&self, service: ObjectName, sight: Option<&PolicySight>) {
        self.state().index.see_object(service, sight, self.begun.elapsed());
        self.touched.notify_one();
    }

    /// These are all the BackendTLSPolicies, by Service. `wall` is the time of now.
    pub fn see_objects(&self, all: &BTreeMap<ObjectName, PolicySight>, wall: Timestamp) {
        let (now, mut state) = (self.begun.elapsed(), self.state());
        if !std::mem::replace(&mut state.has_listed, true) {
            for (service, sight) in all {
                state.index.find_object(service.clone(), sight, wall.since(sight.changed_at), now);
            }
        }
        let gone: Vec<ObjectName> = state.index.objects().filter(|known| !all.contains_key(known)).cloned().collect();
        gone.into_iter().for_each(|service| state.index.see_object(service, None, now));
        all.iter().for_each(|(service, sight)| state.index.see_object(service.clone(), Some(sight), now));
        drop(state);
        self.touched.notify_one();
    }

    /// A probe has seen this of a Service's pods, when its policy was to accept `accounts`.
    pub fn see(&self, service: &ObjectName, accounts: &[ServiceAccount], sight: ProbeSight) {
        let identities = self.set_of(accounts);
        self.state().index.see(service, identities, sight);
        self.touched.notify_one();
    }

    /// Publishes what is in force under the policies of `snapshots`, and the objects of `plans` if any are kept, for ever.
    pub async fn run(
        self: Arc<Self>,
        mut snapshots: watch::Receiver<Option<Arc<PolicySnapshot>>>,
        mut plans: Option<watch::Receiver<Option<Arc<GatewayPlan>>>>,
        metrics: Arc<Metrics>,
    ) -> Infallible {
        let mut wanted: Option<Arc<PolicySnapshot>> = None;
        let mut planned: Option<Arc<GatewayPlan>> = None;
        loop {
            let newest = snapshots.borrow_and_update().clone();
            self.want(wanted.as_deref(), newest.as_deref());
            wanted = newest;
            let newest = plans.as_mut().and_then(|plans| plans.borrow_and_update().clone());
            self.plan(planned.as_deref(), newest.as_deref());
            planned = newest;
            self.forget_silent();
            self.state().index.await_plan(plans.is_some() && planned.is_none());
            self.publish(&metrics, wanted.as_ref(), planned.as_ref());
            sleep(PACE).await;
            tokio::select! {
                Ok(()) = snapshots.changed() => {}
                () = changed(plans.as_mut()) => {}
                () = self.touched.notified() => {}
                () = sleep(LOOK_EVERY) => {}
            }
        }
    }

    fn want(&self, before: Option<&PolicySnapshot>, newest: Option<&PolicySnapshot>) {
        let Some(newest) = newest else { return };
        let mut state = self.state();
        let required =
            |policy: &ServicePolicy| (policy.mode == MtlsMode::Required).then(|| self.set_of(&policy.accounts));
        match before {
            None => {
                newest.services().for_each(|policy| state.index.require(policy.service.clone(), required(policy)));
            }
            Some(before) => {
                let changes = newest.changes_since(before);
                changes.services_gone.into_iter().for_each(|gone| state.index.require(gone, None));
                for policy in changes.services {
                    state.index.require(policy.service.clone(), required(&policy));
                }
            }
        }
    }

    fn plan(&self, before: Option<&GatewayPlan>, newest: Option<&GatewayPlan>) {
        let Some(newest) = newest else { return };
        let (now, mut state) = (self.begun.elapsed(), self.state());
        let carriers_differ = before.is_none_or(|before| !newest.has_carriers_of(before));
        if carriers_differ {
            for plan in newest.namespaces.values().flat_map(|namespace| namespace.services.values()) {
                state.index.carry(plan.service.clone(), self.carriers(plan, newest));
            }
        }
        for (service, plan) in newest.changed_since(before) {
            let carriers = plan.as_deref().map(|plan| self.carriers(plan, newest));
            state.index.carry(service.clone(), carriers.unwrap_or_default());
            state.index.leave_bare(service.clone(), plan.as_deref().map_or(&[], ServicePlan::bare));
            state.index.bind(service.clone(), plan.as_deref().map_or(&[], ServicePlan::bound));
            let portable = plan.and_then(|plan| {
                let Verification::Portable(accounts) = &plan.policy.as_ref()?.verification else { return None };
                Some((self.set_of(accounts), plan.uptake.clone()?))
            });
            state.index.take_up(service, portable, now);
        }
    }

    /// Pods by way of which requests come to a Service, where identities come over SDS. One that carries several Gateways counts once.
    fn carriers(&self, plan: &ServicePlan, newest: &GatewayPlan) -> Carriers {
        let mut carriers: BTreeMap<SpiffeId, BTreeSet<&ObjectName>> = BTreeMap::new();
        let gateways = plan.bound().iter().filter_map(|gateway| newest.gateways.get(gateway));
        for (account, pods) in gateways.flat_map(|gateway| &gateway.carriers) {
            if let Ok(id) = account.spiffe_id(&self.trust_domain) {
                carriers.entry(id).or_default().extend(pods);
            }
        }
        carriers.into_iter().map(|(id, pods)| (id, pods.len())).collect()
    }

    fn set_of(&self, accounts: &[ServiceAccount]) -> IdentitySet {
        let ids = accounts.iter().filter_map(|account| account.spiffe_id(&self.trust_domain).ok());
        IdentitySet::of(&ids.collect::<Vec<SpiffeId>>())
    }

    fn forget_silent(&self) {
        let now = Instant::now();
        let mut state = self.state();
        let is_silent = |agent: &Agent| now.saturating_duration_since(agent.heard_at) > FORGOTTEN_AFTER;
        let silent = state.agents.iter().filter(|(_, agent)| is_silent(agent));
        for reporter in silent.map(|(reporter, _)| Arc::clone(reporter)).collect::<Vec<_>>() {
            state.agents.remove(&reporter);
            state.index.forget(&reporter);
        }
    }

    fn publish(&self, metrics: &Metrics, wanted: Option<&Arc<PolicySnapshot>>, planned: Option<&Arc<GatewayPlan>>) {
        let enforcement = self.state().index.settle(self.begun.elapsed());
        let Some(snapshot) = wanted.cloned() else { return };
        let enforced = enforcement.values().filter(|condition| matches!(condition, Condition::Enforced { .. })).count();
        metrics.set_enforced_services(enforced, enforcement.len() - enforced);
        let newest = Judged { snapshot, plan: planned.cloned(), enforcement };
        self.published.send_if_modified(|published| {
            let is_other = !published.as_ref().is_some_and(|published| published.is(&newest));
            *published = Some(newest);
            is_other
        });
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn check_room(&self, gateway: &SpiffeId) -> Result<(), ReportError> {
        let of_one = self.agents.keys().filter(|reporter| reporter.gateway == *gateway).count();
        if of_one >= AGENTS_OF_ONE {
            return Err(ReportError::TooManyAgents(of_one));
        }
        if self.agents.len() >= AGENTS { Err(ReportError::TooManyAgents(self.agents.len())) } else { Ok(()) }
    }
}

/// Waits for another plan; for ever where there are none.
async fn changed(plans: Option<&mut watch::Receiver<Option<Arc<GatewayPlan>>>>) {
    let is_changed = match plans {
        Some(plans) => plans.changed().await.is_ok(),
        None => false,
    };
    if !is_changed {
        std::future::pending().await
    }
}

#[cfg(test)]
mod tests;
