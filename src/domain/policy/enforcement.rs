//! Whether policies are in force, from what gateways say they hold. Nobody's word that an object was accepted counts here: only
//! that a proxy has taken the very identities that are wanted now. Level-triggered, as the index of policies is.

mod policy_object;
mod portable;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

pub use self::policy_object::PolicySight;
use self::{policy_object::PolicyObject, portable::Portable};
use super::{Condition, IdentitySet, ObjectName, PortableShortfall, ProbeSight, Shortfall, Uptake};
use crate::domain::identity::SpiffeId;

/// Controllers of Gateways know of a policy before their proxies go by it: half a minute before, where there are many.
const PROXIES_FOLLOW_WITHIN: Duration = Duration::from_secs(60);

/// An agent of a gateway that says what its proxy holds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reporter {
    /// As whom it has proven itself.
    pub gateway: SpiffeId,
    /// The process, of its own choice: a gateway may have many pods.
    pub instance: Box<str>,
}

/// What an agent says of one Service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContextReport {
    /// How many subscriptions there are for its identities.
    pub streams: u32,
    /// What was accepted last, and by how many of them.
    pub accepted: BTreeMap<IdentitySet, u32>,
    /// What the newest was refused with.
    pub refusal: Option<Box<str>>,
}

/// All that an agent says: of Services that its proxy asks for.
pub type Report = BTreeMap<ObjectName, ContextReport>;

/// What differs between two of an agent's reports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReportChange {
    /// Whether everything before is to be forgotten.
    pub reset: bool,
    /// New and changed.
    pub services: Vec<(ObjectName, ContextReport)>,
    /// Nobody asks for them any more.
    pub gone: Vec<ObjectName>,
}

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
    /// By Service.
    objects: BTreeMap<ObjectName, PolicyObject>,
    /// For which time has to pass.
    fresh: BTreeSet<ObjectName>,
    touched: BTreeSet<ObjectName>,
    is_plan_awaited: bool,
    current: Arc<Enforcement>,
}

impl ReportChange {
    /// What leads who was told `before`, or nothing, to `now`; `None` if that is nothing.
    pub fn between(before: Option<&Report>, now: &Report) -> Option<Self> {
        let Some(before) = before else {
            let services = now.iter().map(|(service, report)| (service.clone(), report.clone())).collect();
            return Some(Self { reset: true, services, gone: Vec::new() });
        };
        let changed = now.iter().filter(|(service, report)| before.get(service) != Some(report));
        let services: Vec<_> = changed.map(|(service, report)| (service.clone(), report.clone())).collect();
        let gone: Vec<_> = before.keys().filter(|service| !now.contains_key(service)).cloned().collect();
        (!services.is_empty() || !gone.is_empty()).then_some(Self { reset: false, services, gone })
    }
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
        if lead(&mut self.bare, &service, gateways) {
            self.touched.insert(service);
        }
    }

    /// Routes lead to a Service from these Gateways, which go by its BackendTLSPolicy: while that is not seen to be there, nothing is in
    /// force, whatever agents say. With none it is not so, or not any more.
    pub fn bind(&mut self, service: ObjectName, gateways: &[ObjectName]) {
        if lead(&mut self.bound, &service, gateways) {
            self.touched.insert(service);
        }
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

    /// Whether all proxies that ask for the identities of a Service have accepted some; `Some(false)` if none asks, `None` if some
    /// have yet to accept.
    pub fn is_used(&self, service: &ObjectName) -> Option<bool> {
        let reports = || self.reports.get(service).into_iter().flat_map(BTreeMap::values);
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
                    object: self.objects.get(&service),
                };
                let verdict = required.map(|required| {
                    let verdict = held.verdict(*required, now);
                    let is_early = self.is_plan_awaited && matches!(verdict, Condition::Enforced { .. });
                    if is_early { Condition::NotEnforced(Shortfall::Unplanned) } else { verdict }
                });
                let is_fresh = verdict == Some(Condition::NotEnforced(Shortfall::Portable(PortableShortfall::Fresh)));
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

/// From these Gateways Routes lead to a Service. Returns whether it was others before.
fn lead(of: &mut BTreeMap<ObjectName, Box<[ObjectName]>>, service: &ObjectName, gateways: &[ObjectName]) -> bool {
    let old = match gateways {
        [] => of.remove(service).unwrap_or_default(),
        _ => of.insert(service.clone(), gateways.into()).unwrap_or_default(),
    };
    *old != *gateways
}

/// What is known of a Service.
struct Held<'a> {
    bare: Option<&'a [ObjectName]>,
    bound: Option<&'a [ObjectName]>,
    reports: Option<&'a BTreeMap<Arc<Reporter>, ContextReport>>,
    carriers: Option<&'a Carriers>,
    portable: Option<&'a Portable>,
    object: Option<&'a PolicyObject>,
}

impl Held<'_> {
    fn verdict(&self, required: IdentitySet, now: Duration) -> Condition {
        let by_agents = self.verdict_of_agents(required);
        let is_enforced = matches!(by_agents, Condition::Enforced { .. });
        if is_enforced && self.object.is_some_and(|object| object.is_unsettled(now)) {
            return Condition::NotEnforced(Shortfall::Remade);
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
