//! ReferenceGrants: which Routes may lead to Services of another namespace. Without one they lead nowhere.

use std::{collections::BTreeSet, sync::Arc};

use super::{Known, RouteKind};
use crate::domain::policy::{Change, ObjectName};

/// A ReferenceGrant, as far as it lets Routes lead to Services of its namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrantFacts {
    /// Which.
    pub object: ObjectName,
    /// `spec.from`: Routes of these kinds, in these namespaces.
    pub from: Box<[(RouteKind, Arc<str>)]>,
    /// `spec.to`: the Services of these names; `None`: all.
    pub services: Option<Box<[Box<str>]>>,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Grants(Known<ObjectName, GrantFacts>);

impl Grants {
    /// Takes up a change; `changed` hears if it is one.
    pub(super) fn take(&mut self, change: Change<GrantFacts>, mut changed: impl FnMut()) {
        self.0.take(change, |grant| grant.object.clone(), |_, _| changed());
    }

    /// Whether a Route may lead to a Service.
    pub(super) fn allow(&self, kind: RouteKind, route: &ObjectName, service: &ObjectName) -> bool {
        route.namespace == service.namespace || self.0.all().any(|grant| grant.allows(kind, route, service))
    }

    /// Other namespaces whose Routes may lead to a Service.
    pub(super) fn sources(&self, service: &ObjectName) -> BTreeSet<&Arc<str>> {
        self.0.all().filter(|grant| grant.covers(service)).flat_map(GrantFacts::sources).collect()
    }

    /// Whether Routes of a namespace may lead to Services of others.
    pub(super) fn are_for(&self, namespace: &str) -> bool {
        self.0.all().flat_map(GrantFacts::sources).any(|source| **source == *namespace)
    }

    pub(super) const fn is_listed(&self) -> bool {
        self.0.is_listed()
    }
}

impl GrantFacts {
    fn allows(&self, kind: RouteKind, route: &ObjectName, service: &ObjectName) -> bool {
        self.covers(service) && self.from.iter().any(|(from, namespace)| *from == kind && *namespace == route.namespace)
    }

    fn covers(&self, service: &ObjectName) -> bool {
        self.object.namespace == service.namespace
            && self.services.as_ref().is_none_or(|names| names.iter().any(|name| **name == *service.name))
    }

    fn sources(&self) -> impl Iterator<Item = &Arc<str>> {
        self.from.iter().map(|(_, namespace)| namespace)
    }
}
