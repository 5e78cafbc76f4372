//! Policies of Envoy Gateway by which its proxies ask others than backends of Routes: authorisation, keys, request processing.

use super::{Known, Outlook, RouteKind};
use crate::domain::policy::{Change, ObjectName, Upstream};

/// A SecurityPolicy or an EnvoyExtensionPolicy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttachedPolicyFacts {
    /// Which.
    pub object: ObjectName,
    /// What it is for.
    pub attachments: Box<[Attachment]>,
    /// Whom it has proxies ask, each once. Not compared with ReferenceGrants.
    pub upstreams: Box<[Upstream]>,
}

/// What such a policy is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attachment {
    /// The one of this name, beside the policy.
    One(AttachedKind, Box<str>),
    /// Those with certain labels. Labels are not compared: any of the kind could have them.
    Labelled {
        /// Which kind.
        kind: AttachedKind,
        /// Not beside the policy alone.
        anywhere: bool,
    },
}

/// What such policies are for, of the kinds that count here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachedKind {
    /// Gateways.
    Gateway,
    /// ListenerSets.
    ListenerSet,
    /// Routes.
    Route(RouteKind),
}

/// All of them. A plan does not wait for them: nothing is written by what they say.
#[derive(Debug, Default)]
pub(super) struct AttachedPolicies {
    security: Known<ObjectName, AttachedPolicyFacts>,
    extension: Known<ObjectName, AttachedPolicyFacts>,
}

impl AttachedPolicies {
    /// Takes up a change of SecurityPolicies; `changed` hears if it is one.
    pub(super) fn take_security(&mut self, change: Change<AttachedPolicyFacts>, mut changed: impl FnMut()) {
        self.security.take(change, |policy| policy.object.clone(), |_, _| changed());
    }

    /// Takes up a change of EnvoyExtensionPolicies; `changed` hears if it is one.
    pub(super) fn take_extension(&mut self, change: Change<AttachedPolicyFacts>, mut changed: impl FnMut()) {
        self.extension.take(change, |policy| policy.object.clone(), |_, _| changed());
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &AttachedPolicyFacts> {
        self.security.all().chain(self.extension.all())
    }
}

impl<'a> Outlook<'a> {
    /// Gateways whose proxies do what a policy says.
    pub(super) fn following(self, policy: &'a AttachedPolicyFacts) -> Vec<&'a ObjectName> {
        let beside = &policy.object.namespace;
        let follow = |attachment: &'a Attachment| match attachment {
            Attachment::One(kind, name) => {
                let name = ObjectName { name: name.as_ref().into(), ..policy.object.clone() };
                self.behind(*kind, &|object| *object == name)
            }
            Attachment::Labelled { kind, anywhere } => {
                self.behind(*kind, &|object| *anywhere || object.namespace == *beside)
            }
        };
        policy.attachments.iter().flat_map(follow).collect()
    }

    /// Gateways that objects of one kind belong to.
    fn behind(self, kind: AttachedKind, is_meant: &dyn Fn(&ObjectName) -> bool) -> Vec<&'a ObjectName> {
        let topology = self.topology;
        match kind {
            AttachedKind::Gateway => topology.standings.keys().filter(|gateway| is_meant(gateway)).collect(),
            AttachedKind::ListenerSet => {
                let sets = topology.sets.all().filter(|set| is_meant(&set.object) && topology.takes(set));
                sets.filter_map(|set| topology.standings.get_key_value(&set.gateway)).map(|(name, _)| name).collect()
            }
            AttachedKind::Route(kind) => {
                let routes = self.routes.of_kind(kind).filter(|route| is_meant(&route.object));
                routes.flat_map(|route| topology.attached(kind, route)).map(|(name, _)| name).collect()
            }
        }
    }
}
