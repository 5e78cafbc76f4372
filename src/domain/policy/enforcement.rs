//! Whether policies are in force, from what gateways say they hold. Nobody's word that an object was accepted counts here: only
//! that a proxy has taken the very identities that are wanted now. Level-triggered, as the index of policies is.

mod policy_object;
mod portable;
mod report;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use self::{policy_object::PolicyObject, portable::Portable};
pub use self::{
    policy_object::PolicySight,
    report::{ContextReport, Report, ReportChange, Reporter},
};
use super::{Condition, IdentitySet, ObjectName, PortableShortfall, ProbeSight, Shortfall, Uptake};
use crate::domain::identity::SpiffeId;

/// Controllers of Gateways know of a policy before their proxies go by it: half a minute before, where there are many.
const PROXIES_FOLLOW_WITHIN: Duration = Duration::from_secs(60);
/// All clusters of a proxy go by a policy that is new so long after one of them does: Envoy waits 15 s for endpoints that do not come.
const CLUSTERS_FOLLOW_WITHIN: Duration = Duration::from_secs(17);

/// [`Condition::Enforced`] or [`Condition::NotEnforced`] of each Service that requires mutual TLS.
pub type Enforcement = BTreeMap<ObjectName, Condition>;

/// How many pods of Gateways run as whom.
pub type Carriers = BTreeMap<SpiffeId, usize>;

/// What is wanted and what is held.
#[derive(Debug, Default)]
pub struct EnforcementIndex {
    required: BTreeMap<ObjectName, IdentitySet>,
    reports: BTreeMap<ObjectName, BTreeMap<Arc<Reporter>, ContextReport>>,
    reporters: BTreeMap<Arc<Reporter>, BTreeSet<ObjectName>>,
    /// Gateways from which Routes lead to it, though it has no policy that they would go by.
    bare: BTreeMap<ObjectName, Box<[ObjectName]>>,
    /// Gateways from which Routes lead to it and that go by its policy, by which they ask agents.
    bound: BTreeMap<ObjectName, Box<[ObjectName]>>,
    /// Pods of Gateways from which Routes lead to it, by whom they run as.
    carriers: BTreeMap<ObjectName, Carriers>,
    portable: BTreeMap<ObjectName, Portable>,
    /// Names of its ports that Routes lead to and policies of others are for.
    overruled: BTreeMap<ObjectName, Box<[Box<str>]>>,
    /// Those that a proxy has several clusters of; since when one of these is heard to go by the policy that is there.
    split: BTreeMap<ObjectName, Option<Duration>>,
    /// As whom pods of Gateways run; `None` while that is not known.
    gateways: Option<BTreeSet<SpiffeId>>,
    /// By Service.
    objects: BTreeMap<ObjectName, PolicyObject>,
    /// For which time has to pass.
    fresh: BTreeSet<ObjectName>,
    touched: BTreeSet<ObjectName>,
    is_plan_awaited: bool,
    current: Arc<Enforcement>,
}

impl EnforcementIndex {
    /// A Service requires mutual TLS with these; with `None` it does not, or not any more.
    pub fn require(&mut self, service: ObjectName, identities: Option<IdentitySet>) {
        let old = match identities {
            Some(identities) => self.required.insert(service.clone(), identities),
            None => self.required.remove(&service),
        };
        if old != identities {
            self.touched.insert(service);
        }
    }

    /// Routes lead to a Service from these Gateways, and there is no policy that they would go by: whatever agents say, nothing is in
    /// force. With none it is not so, or not any more.
    pub fn leave_bare(&mut self, service: ObjectName, gateways: &[ObjectName]) {
        if replace(&mut self.bare, &service, gateways) {
            self.touched.insert(service);
        }
    }

    /// Routes lead to a Service from these Gateways, which go by its BackendTLSPolicy: while that is not seen to be there, nothing is in
    /// force, whatever agents say. With none it is not so, or not any more.
    pub fn bind(&mut self, service: ObjectName, gateways: &[ObjectName]) {
        if replace(&mut self.bound, &service, gateways) {
            self.touched.insert(service);
        }
    }

    /// At these ports of a Service, to which Routes lead, Gateways go by policies of others, whatever they ask for because of the rest.
    /// With none it is not so, or not any more.
    pub fn overrule(&mut self, service: ObjectName, ports: &[Box<str>]) {
        if replace(&mut self.overruled, &service, ports) {
            self.touched.insert(service);
        }
    }

    /// Whether a proxy has several clusters of a Service. They share what is asked for on the agent's socket, and the first that is in
    /// use answers for all.
    pub fn split(&mut self, service: ObjectName, is_split: bool) {
        if self.split.contains_key(&service) == is_split {
            return;
        }
        if is_split {
            // a cluster that comes later begins with the policy
            let is_in_force = matches!(self.current.get(&service), Some(Condition::Enforced { .. }));
            self.split.insert(service.clone(), is_in_force.then_some(Duration::ZERO));
        } else {
            self.split.remove(&service);
        }
        self.touched.insert(service);
    }

    /// Requests come to a Service by way of these pods. Each of them is to ask for its identities before anything is said to be in
    /// force: a proxy that does not has not heard of the policy yet.
    pub fn carry(&mut self, service: ObjectName, carriers: Carriers) {
        if !carriers.is_empty() {
            self.objects.get_mut(&service).into_iter().for_each(PolicyObject::carry);
        }
        let old = match carriers.is_empty() {
            true => self.carriers.remove(&service).unwrap_or_default(),
            false => self.carriers.insert(service.clone(), carriers.clone()).unwrap_or_default(),
        };
        if old != carriers {
            self.touched.insert(service);
        }
    }

    /// A Service's policy stands in a BackendTLSPolicy, which is to accept these; with `None` it does not, or not any more. Times are
    /// those since any one instant.
    pub fn take_up(&mut self, service: ObjectName, portable: Option<(IdentitySet, Uptake)>, now: Duration) {
        match (portable, self.portable.get_mut(&service)) {
            (Some((identities, uptake)), Some(known)) => known.change(identities, uptake, now),
            (Some((identities, uptake)), None) => {
                self.portable.insert(service.clone(), Portable::new(identities, uptake, now));
            }
            (None, None) => return,
            (None, Some(_)) => drop(self.portable.remove(&service)),
        }
        self.touched.insert(service);
    }

    /// A Service's BackendTLSPolicy is seen to be this one; with `None` there is none, or not any more.
    pub fn see_object(&mut self, service: ObjectName, sight: Option<&PolicySight>, now: Duration) {
        let seen = PolicyObject::seen(self.objects.get(&service), sight, self.carriers.contains_key(&service), now);
        self.know_object(service, seen);
    }

    /// A Service's BackendTLSPolicy was there when this replica began to look, and has been as it is for so long.
    pub fn find_object(&mut self, service: ObjectName, sight: &PolicySight, age: Duration, now: Duration) {
        let found = PolicyObject::found(sight, age, self.carriers.contains_key(&service), now);
        self.know_object(service, Some(found));
    }

    fn know_object(&mut self, service: ObjectName, seen: Option<PolicyObject>) {
        if seen.as_ref() != self.objects.get(&service) {
            // one name for all: there may be thousands
            let service = self.required.get_key_value(&service).map_or(service, |(known, _)| known.clone());
            self.touched.insert(service.clone());
            self.split.get_mut(&service).into_iter().for_each(|since| *since = None);
            seen.map(|seen| self.objects.insert(service, seen));
        }
    }

    /// Of which Services a BackendTLSPolicy is known to be, or to have been a moment ago.
    pub fn objects(&self) -> impl Iterator<Item = &ObjectName> {
        self.objects.keys()
    }

    /// A probe has seen this of a Service's pods, when these were to be accepted.
    pub fn see(&mut self, service: &ObjectName, identities: IdentitySet, sight: ProbeSight) {
        if self.portable.get_mut(service).is_some_and(|portable| portable.see(identities, sight)) {
            self.touched.insert(service.clone());
        }
    }

    /// Takes up what an agent says.
    pub fn report(&mut self, reporter: &Arc<Reporter>, change: ReportChange) {
        let before = self.reporters.remove(reporter).unwrap_or_default();
        let (kept, dropped) = if change.reset { (BTreeSet::new(), before) } else { (before, BTreeSet::new()) };
        let mut services = kept;
        for service in change.gone.iter().chain(&dropped) {
            services.remove(service);
            self.drop_report(service, reporter);
        }
        for (service, report) in change.services {
            services.insert(service.clone());
            self.touched.insert(service.clone());
            self.reports.entry(service).or_default().insert(Arc::clone(reporter), report);
        }
        self.reporters.insert(Arc::clone(reporter), services);
    }

    /// Forgets an agent.
    pub fn forget(&mut self, reporter: &Reporter) {
        for service in self.reporters.remove(reporter).unwrap_or_default() {
            self.drop_report(&service, reporter);
        }
    }

    /// Whether it is not known yet which Gateways lead to which Services: what agents say is not all that counts then.
    pub fn await_plan(&mut self, is_awaited: bool) {
        if std::mem::replace(&mut self.is_plan_awaited, is_awaited) != is_awaited {
            self.touched.extend(self.required.keys().cloned());
        }
    }

    /// Of how many Services an agent says something.
    pub fn services_of(&self, reporter: &Reporter) -> usize {
        self.reporters.get(reporter).map_or(0, BTreeSet::len)
    }

    /// All that an agent says, now.
    pub fn report_of(&self, reporter: &Reporter) -> Report {
        let services = self.reporters.get(reporter).into_iter().flatten();
        let report = |service: &ObjectName| Some((service.clone(), self.reports.get(service)?.get(reporter)?.clone()));
        services.filter_map(report).collect()
    }

    /// Pods of Gateways run as these.
    pub fn know_gateways(&mut self, gateways: BTreeSet<SpiffeId>) {
        self.gateways = Some(gateways);
    }

    /// Whether all proxies of Gateways that ask for the identities of a Service have accepted some; `Some(false)` if none asks, `None`
    /// if some have yet to accept. Others go by no BackendTLSPolicy, and ask or not whatever becomes of one.
    pub fn is_used(&self, service: &ObjectName) -> Option<bool> {
        let counts = |reporter: &Reporter| self.gateways.as_ref().is_none_or(|all| all.contains(&reporter.gateway));
        let all = || self.reports.get(service).into_iter().flatten();
        let reports = || all().filter(|(reporter, _)| counts(reporter)).map(|(_, report)| report);
        if reports().all(|report| report.streams == 0) {
            return Some(false);
        }
        let has_accepted = |report: &ContextReport| report.accepted.values().sum::<u32>() >= report.streams;
        reports().all(has_accepted).then_some(true)
    }

    /// How it stands now: the very one that was given before, if nothing has changed.
    pub fn settle(&mut self, now: Duration) -> Arc<Enforcement> {
        let mut touched = std::mem::take(&mut self.touched);
        touched.append(&mut self.fresh);
        let changed: Vec<(ObjectName, Option<Condition>)> = touched
            .into_iter()
            .map(|service| {
                let required = self.required.get(&service);
                let held = Held {
                    bare: self.bare.get(&service).map(|gateways| &**gateways),
                    bound: self.bound.get(&service).map(|gateways| &**gateways),
                    reports: self.reports.get(&service),
                    carriers: self.carriers.get(&service),
                    portable: self.portable.get(&service),
                    overruled: self.overruled.get(&service).map(|ports| &**ports),
                    object: self.objects.get(&service),
                };
                let heard_since = self.split.get_mut(&service).and_then(|since| {
                    let is_heard = required.is_some_and(|required| held.is_accepted(*required));
                    *since = since.or(is_heard.then_some(now));
                    *since
                });
                let verdict = required.map(|required| {
                    let verdict = held.verdict(*required, heard_since, now);
                    let is_early = self.is_plan_awaited && matches!(verdict, Condition::Enforced { .. });
                    if is_early { Condition::NotEnforced(Shortfall::Unplanned) } else { verdict }
                });
                let is_fresh = matches!(
                    verdict,
                    Some(Condition::NotEnforced(Shortfall::Portable(PortableShortfall::Fresh) | Shortfall::Warming))
                );
                if is_fresh || held.object.is_some_and(|object| object.may_settle(now)) {
                    self.fresh.insert(service.clone());
                } else if held.object.is_some_and(|object| object.is_over(now)) {
                    self.objects.remove(&service);
                }
                (service, verdict)
            })
            .filter(|(service, verdict)| self.current.get(service) != verdict.as_ref())
            .collect();
        if !changed.is_empty() {
            let current = Arc::make_mut(&mut self.current);
            for (service, now) in changed {
                match now {
                    Some(now) => current.insert(service, now),
                    None => current.remove(&service),
                };
            }
        }
        Arc::clone(&self.current)
    }

    fn drop_report(&mut self, service: &ObjectName, reporter: &Reporter) {
        self.touched.insert(service.clone());
        if let Some(reports) = self.reports.get_mut(service) {
            reports.remove(reporter);
            if reports.is_empty() {
                self.reports.remove(service);
            }
        }
    }
}

/// What holds of a Service now, which may be nothing. Returns whether it was something else before.
fn replace<T: Clone + PartialEq>(of: &mut BTreeMap<ObjectName, Box<[T]>>, service: &ObjectName, now: &[T]) -> bool {
    let old = match now {
        [] => of.remove(service).unwrap_or_default(),
        _ => of.insert(service.clone(), now.into()).unwrap_or_default(),
    };
    *old != *now
}

/// What is known of a Service.
struct Held<'a> {
    bare: Option<&'a [ObjectName]>,
    bound: Option<&'a [ObjectName]>,
    reports: Option<&'a BTreeMap<Arc<Reporter>, ContextReport>>,
    carriers: Option<&'a Carriers>,
    portable: Option<&'a Portable>,
    overruled: Option<&'a [Box<str>]>,
    object: Option<&'a PolicyObject>,
}

impl Held<'_> {
    /// `heard_since`: of a Service that a proxy has several clusters of, since when it is accepted.
    fn verdict(&self, required: IdentitySet, heard_since: Option<Duration>, now: Duration) -> Condition {
        if let (None, Some(ports)) = (self.bare, self.overruled) {
            return Condition::NotEnforced(Shortfall::Overruled { ports: ports.into() });
        }
        let by_agents = self.verdict_of_agents(required);
        let is_enforced = matches!(by_agents, Condition::Enforced { .. });
        if is_enforced && self.object.is_some_and(|object| object.is_unsettled(now)) {
            return Condition::NotEnforced(Shortfall::Remade);
        }
        let may_warm = heard_since.is_some_and(|since| now.saturating_sub(since) < CLUSTERS_FOLLOW_WITHIN);
        if is_enforced && may_warm && self.object.is_some_and(PolicyObject::is_there) {
            return Condition::NotEnforced(Shortfall::Warming);
        }
        let Some(portable) = self.portable else { return by_agents };
        let gateways = if let Condition::Enforced { gateways, .. } = by_agents {
            gateways
        } else if by_agents == Condition::NotEnforced(Shortfall::Unasked) {
            0
        } else {
            return by_agents;
        };
        if gateways > 0 && portable.routed() == 0 {
            return by_agents;
        }
        match portable.lacks(now) {
            Some(lacking) => Condition::NotEnforced(Shortfall::Portable(lacking)),
            None => Condition::Enforced { gateways, portable: portable.routed() },
        }
    }

    fn is_accepted(&self, required: IdentitySet) -> bool {
        matches!(self.verdict_of_agents(required), Condition::Enforced { .. })
    }

    fn verdict_of_agents(&self, required: IdentitySet) -> Condition {
        let of = self.asking().count();
        let refusing = self.asking().find_map(|(reporter, report)| Some((reporter, report.refusal.clone()?)));
        let lacks = |report: &ContextReport| report.accepted.get(&required).is_none_or(|has| *has < report.streams);
        let mut lacking = self.asking().filter(|(_, report)| lacks(report)).map(|(reporter, _)| reporter);
        if let Some(gateways) = self.bare {
            Condition::NotEnforced(Shortfall::NoPolicy { gateways: gateways.into() })
        } else if let Some(gateways) = self.bound.filter(|_| !self.object.is_some_and(PolicyObject::is_there)) {
            Condition::NotEnforced(Shortfall::Unwritten { gateways: gateways.into() })
        } else if of == 0 {
            Condition::NotEnforced(Shortfall::Unasked)
        } else if let Some((reporter, message)) = refusing {
            Condition::NotEnforced(Shortfall::Refused { gateway: reporter.gateway.clone(), message })
        } else if let Some(first) = lacking.next() {
            let gateway = first.gateway.clone();
            Condition::NotEnforced(Shortfall::Outdated { lacking: 1 + lacking.count(), of, gateway })
        } else if let Some(unheard) = self.unheard() {
            Condition::NotEnforced(unheard)
        } else {
            Condition::Enforced { gateways: of, portable: 0 }
        }
    }

    fn asking(&self) -> impl Iterator<Item = (&Arc<Reporter>, &ContextReport)> {
        self.reports.into_iter().flatten().filter(|(_, report)| report.streams > 0)
    }

    fn unheard(&self) -> Option<Shortfall> {
        self.carriers.into_iter().flatten().find_map(|(gateway, pods)| {
            let asking = self.asking().filter(|(reporter, _)| reporter.gateway == *gateway).count();
            (asking < *pods).then(|| Shortfall::Unheard { gateway: gateway.clone(), asking, pods: *pods })
        })
    }
}

#[cfg(test)]
mod tests;
