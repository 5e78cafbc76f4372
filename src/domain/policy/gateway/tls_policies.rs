//! BackendTLSPolicies, by what they are for.

use std::sync::Arc;

use super::{DesiredObject, IndexOf, Known, PolicyTarget, Target, TlsPolicyFacts, WrittenFacts};
use crate::domain::policy::{Change, ObjectName, Upstream};

/// All BackendTLSPolicies.
#[derive(Debug, Default)]
pub(super) struct TlsPolicies {
    known: Known<ObjectName, TlsPolicyFacts>,
    ours: IndexOf<ObjectName>,
    foreign: IndexOf<ObjectName>,
}

impl TlsPolicies {
    /// Takes up a change; `touched` hears of everything that one is for, or no longer.
    pub(super) fn take(&mut self, change: Change<TlsPolicyFacts>, mut touched: impl FnMut(Upstream)) {
        let mut indices = [(true, &mut self.ours), (false, &mut self.foreign)];
        self.known.take(
            change,
            |policy| policy.object.clone(),
            |old, new| {
                let Some(policy) = new.or(old) else { return };
                DesiredObject::service_of_policy(&policy.object)
                    .map(Upstream::Service)
                    .into_iter()
                    .for_each(&mut touched);
                for (ours, index) in &mut indices {
                    let upstreams = |policy: Option<&TlsPolicyFacts>| -> Vec<Upstream> {
                        policy.filter(|policy| policy.ours == *ours).map(TlsPolicyFacts::upstreams).unwrap_or_default()
                    };
                    index.replace(&policy.object, upstreams(old), upstreams(new), &mut touched);
                }
            },
        );
    }

    /// One of ours that is there for a Service, or was made for it, if its name says so: what somebody else has it be for is put right.
    pub(super) fn held(&self, service: &ObjectName) -> Option<&TlsPolicyFacts> {
        let named = self.known.get(&DesiredObject::policy_of_service(service)).filter(|policy| policy.ours);
        self.ours_for(&Upstream::Service(service.clone())).next().or(named)
    }

    /// What is seen of ours for a Service.
    pub(super) fn written(&self, service: &ObjectName) -> Option<&WrittenFacts> {
        self.ours_for(&Upstream::Service(service.clone())).find_map(|policy| policy.written.as_ref())
    }

    fn ours_for<'a>(&'a self, upstream: &Upstream) -> impl Iterator<Item = &'a TlsPolicyFacts> {
        self.ours.get(upstream).filter_map(|name| self.known.get(name))
    }

    /// Those of others for one thing, with the port that each is for alone; of one policy each port counts.
    pub(super) fn foreign(&self, upstream: &Upstream) -> impl Iterator<Item = (&ObjectName, Option<&str>)> {
        self.foreign.get(upstream).filter_map(|name| self.known.get(name)).flat_map(move |policy| {
            let targets = policy.targets.iter().filter(move |target| target.is(policy, upstream));
            targets.map(|target| (&policy.object, target.section.as_deref()))
        })
    }

    /// Everything that a policy of others is for.
    pub(super) fn foreign_upstreams(&self) -> impl Iterator<Item = &Upstream> {
        self.foreign.upstreams()
    }

    pub(super) const fn is_listed(&self) -> bool {
        self.known.is_listed()
    }
}

impl TlsPolicyFacts {
    fn upstreams(&self) -> Vec<Upstream> {
        let beside = |name: &str| ObjectName { namespace: Arc::clone(&self.object.namespace), name: name.into() };
        let upstream = |target: &PolicyTarget| match &target.target {
            Target::Service(name) => Upstream::Service(beside(name)),
            Target::EnvoyBackend(name) => Upstream::EnvoyBackend(beside(name)),
        };
        self.targets.iter().map(upstream).collect()
    }
}

impl PolicyTarget {
    fn is(&self, policy: &TlsPolicyFacts, upstream: &Upstream) -> bool {
        match (&self.target, upstream) {
            (Target::Service(name), Upstream::Service(object))
            | (Target::EnvoyBackend(name), Upstream::EnvoyBackend(object)) => {
                **name == *object.name && policy.object.namespace == object.namespace
            }
            _ => false,
        }
    }
}
