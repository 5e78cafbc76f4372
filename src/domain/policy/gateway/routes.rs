//! Routes, by where they lead.

use std::sync::Arc;

use super::{IndexOf, Known, RouteBackend, RouteFacts, RouteKind};
use crate::domain::policy::{Change, ObjectName, Upstream};

/// All Routes.
#[derive(Debug, Default)]
pub(super) struct Routes {
    http: Known<ObjectName, RouteFacts>,
    grpc: Known<ObjectName, RouteFacts>,
    leading_to: IndexOf<(RouteKind, ObjectName)>,
}

impl Routes {
    /// Takes up a change; `touched` hears of each place where one leads to, or no longer.
    pub(super) fn take(&mut self, kind: RouteKind, change: Change<RouteFacts>, mut touched: impl FnMut(Upstream)) {
        let leading_to = &mut self.leading_to;
        let known = match kind {
            RouteKind::Http => &mut self.http,
            RouteKind::Grpc => &mut self.grpc,
        };
        known.take(
            change,
            |route| route.object.clone(),
            |old, new| {
                let Some(route) = new.or(old) else { return };
                let upstreams = |route: Option<&RouteFacts>| route.map(RouteFacts::upstreams).unwrap_or_default();
                leading_to.replace(&(kind, route.object.clone()), upstreams(old), upstreams(new), &mut touched);
            },
        );
    }

    /// Those that lead to one place.
    pub(super) fn leading_to(&self, upstream: &Upstream) -> impl Iterator<Item = (RouteKind, &RouteFacts)> {
        self.leading_to.get(upstream).filter_map(|(kind, name)| Some((*kind, self.known(*kind).get(name)?)))
    }

    /// Those of one kind.
    pub(super) fn of_kind(&self, kind: RouteKind) -> impl Iterator<Item = &RouteFacts> {
        self.known(kind).all()
    }

    const fn known(&self, kind: RouteKind) -> &Known<ObjectName, RouteFacts> {
        match kind {
            RouteKind::Http => &self.http,
            RouteKind::Grpc => &self.grpc,
        }
    }

    /// Services that those of a namespace lead to.
    pub(super) fn services_of(&self, namespace: &Arc<str>) -> impl Iterator<Item = ObjectName> {
        let routes = [&self.http, &self.grpc].into_iter().flat_map(|known| known.in_namespace(namespace));
        routes.flat_map(RouteFacts::upstreams).filter_map(|upstream| match upstream {
            Upstream::Service(service) => Some(service),
            Upstream::EnvoyBackend(_) => None,
        })
    }

    /// Backends of Envoy Gateway that some lead to.
    pub(super) fn envoy_backends(&self) -> impl Iterator<Item = &Upstream> {
        self.leading_to.upstreams().rev().take_while(|upstream| matches!(upstream, Upstream::EnvoyBackend(_)))
    }

    pub(super) const fn is_listed(&self) -> bool {
        self.http.is_listed() && self.grpc.is_listed()
    }
}

impl RouteFacts {
    fn upstreams(&self) -> Vec<Upstream> {
        let upstream = |backend: &RouteBackend| match backend {
            RouteBackend::Service(service, _) => Upstream::Service(service.clone()),
            RouteBackend::EnvoyBackend(object) => Upstream::EnvoyBackend(object.clone()),
        };
        self.backends.iter().map(upstream).collect()
    }
}
