//! Which Gateways lead where: by Routes that are attached to their listeners, or by listeners that would take one.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    Admits, GatewayFacts, Known, ListenerFacts, ListenerSetFacts, Parent, ParentFacts, RouteFacts, RouteKind, Standing,
};
use crate::domain::policy::{Labels, ObjectName};

/// Gateways with their listeners, and the labels of namespaces, by which some take Routes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Topology<'a> {
    pub(super) gateways: &'a Known<ObjectName, GatewayFacts>,
    pub(super) sets: &'a Known<ObjectName, ListenerSetFacts>,
    pub(super) namespaces: &'a Known<Arc<str>, LabelledNamespace>,
    /// Of each Gateway that counts.
    pub(super) standings: &'a BTreeMap<ObjectName, Standing>,
}

/// A namespace with its labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LabelledNamespace {
    pub(super) name: Arc<str>,
    pub(super) labels: Labels,
}

impl<'a> Topology<'a> {
    /// Those that a Route is attached to. Host names are not compared: who could get no request counts as well.
    pub(super) fn attached(
        self,
        kind: RouteKind,
        route: &'a RouteFacts,
    ) -> impl Iterator<Item = (&'a ObjectName, &'a Standing)> {
        route.parents.iter().filter_map(move |parent| {
            let (beside, gateway, listeners) = match &parent.parent {
                Parent::Gateway(name) => (&name.namespace, name, &self.gateways.get(name)?.listeners),
                Parent::ListenerSet(name) => {
                    let set = self.sets.get(name).filter(|set| self.takes(set))?;
                    (&name.namespace, &set.gateway, &set.listeners)
                }
            };
            let takes = |listener: &ListenerFacts| {
                parent.names(listener)
                    && listener.routes.has(kind)
                    && self.admits(&listener.admits, beside, &route.object.namespace)
            };
            self.standings.get_key_value(gateway).filter(|_| listeners.iter().any(takes))
        })
    }

    /// Those that a Route names, whether they take it or not: once a listener does, proxies go by the Route at once.
    pub(super) fn named(self, route: &'a RouteFacts) -> impl Iterator<Item = (&'a ObjectName, &'a Standing)> {
        route.parents.iter().filter_map(move |parent| {
            let gateway = match &parent.parent {
                Parent::Gateway(name) => name,
                Parent::ListenerSet(name) => &self.sets.get(name)?.gateway,
            };
            self.standings.get_key_value(gateway)
        })
    }

    /// Those with a listener that would take a Route of a namespace, in order.
    pub(super) fn admitting(self, namespaces: &BTreeSet<&Arc<str>>) -> Arc<[ObjectName]> {
        let takes = |listeners: &[ListenerFacts], beside: &Arc<str>| {
            let takes = |listener: &ListenerFacts| {
                let admits = |namespace: &&Arc<str>| self.admits(&listener.admits, beside, namespace);
                (listener.routes.http || listener.routes.grpc) && namespaces.iter().any(admits)
            };
            listeners.iter().any(takes)
        };
        let own = self.gateways.all().filter(|gateway| takes(&gateway.listeners, &gateway.object.namespace));
        let sets = self.sets.all().filter(|set| self.takes(set));
        let by_sets = sets.filter(|set| takes(&set.listeners, &set.object.namespace));
        let all: BTreeSet<&ObjectName> =
            own.map(|gateway| &gateway.object).chain(by_sets.map(|set| &set.gateway)).collect();
        all.into_iter().filter(|gateway| self.standings.contains_key(*gateway)).cloned().collect()
    }

    /// Whether the Gateway of a ListenerSet takes it.
    pub(super) fn takes(self, set: &ListenerSetFacts) -> bool {
        let gateway = self.gateways.get(&set.gateway);
        let admits = gateway.and_then(|gateway| gateway.takes_sets.as_ref());
        admits.is_some_and(|admits| self.admits(admits, &set.gateway.namespace, &set.object.namespace))
    }

    fn admits(self, admits: &Admits, beside: &Arc<str>, namespace: &Arc<str>) -> bool {
        match admits {
            Admits::Same => beside == namespace,
            Admits::All => true,
            Admits::Selector(selector) => {
                self.namespaces.get(namespace).is_some_and(|namespace| selector.selects(&namespace.labels))
            }
        }
    }
}

impl ParentFacts {
    fn names(&self, listener: &ListenerFacts) -> bool {
        self.section.as_ref().is_none_or(|name| *name == listener.name)
            && self.port.is_none_or(|port| port == listener.port)
    }
}
