//! What plans for gateways are worked out from: objects of the Gateway API and of Envoy Gateway. Users install these kinds, at any
//! time and in any version, so each may be absent. Objects are trimmed while they are decoded.

mod attached_policies;
mod envoy_gateway;
mod gateways;
mod grants;
mod routes;
mod tls_policies;

use std::convert::Infallible;

use kube::Client;
use serde::Deserialize;

pub use self::{
    attached_policies::{follow_extension_policies, follow_security_policies},
    envoy_gateway::{follow_envoy_backends, follow_envoy_gateway_settings, follow_envoy_proxies, follow_sds_secrets},
    gateways::{follow_gateway_classes, follow_gateways, follow_listener_sets},
    grants::follow_reference_grants,
    routes::{follow_grpc_routes, follow_http_routes},
    tls_policies::{follow_root_config_maps, follow_tls_policies},
};
use super::list_watch::{Heard, Source, Trimmed, follow};
use crate::domain::policy::{Change, GatewayChange, ObjectName, RouteBackend};

/// Who is told what was seen.
pub type Tell<'a> = &'a (dyn Fn(GatewayChange) + Send + Sync);

const GATEWAY_API: &str = "gateway.networking.k8s.io";
const ENVOY_GATEWAY: &str = "gateway.envoyproxy.io";
const RIGHTS: &str = "rbac-policy-objects.yaml";
/// What the kinds have in common.
const OPTIONAL: Source<'static> = Source { rights: RIGHTS, is_optional: true, ..Source::ANY };

/// Lists and watches one kind, for ever.
async fn follow_kind<R: Trimmed, T, K>(
    client: &Client,
    source: Source<'_>,
    read: impl Fn(&R) -> Option<T> + Sync,
    key: impl Fn(T) -> K,
    tell: impl FnMut(Change<T, K>),
) -> Infallible {
    let mut tell = tell;
    let hear = |heard| {
        if let Some(change) = change_of(heard, &key) {
            tell(change);
        }
    };
    follow(client, source, read, hear).await
}

fn change_of<T, K>(heard: Heard<T>, key: impl Fn(T) -> K) -> Option<Change<T, K>> {
    match heard {
        Heard::Served(_) | Heard::Alive | Heard::Trouble(_) => None,
        Heard::NotServed => Some(Change::Reset(Vec::new())),
        Heard::Listed(all, _) => Some(Change::Reset(all)),
        Heard::Put(facts) => Some(Change::Put(facts)),
        Heard::Gone(facts) => Some(Change::Gone(key(facts))),
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Metadata {
    namespace: String,
    name: String,
    uid: Box<str>,
    resource_version: String,
}

impl Metadata {
    fn object(&self) -> ObjectName {
        ObjectName::new(&self.namespace, &self.name)
    }
}

/// An object with a `spec`.
#[derive(Clone, Debug, Deserialize)]
#[serde(bound = "S: Default + Deserialize<'de>")]
struct Object<S> {
    metadata: Metadata,
    #[serde(default)]
    spec: S,
}

impl<S: Clone + std::fmt::Debug + Default + for<'de> Deserialize<'de> + Send + 'static> Trimmed for Object<S> {
    fn version(&self) -> &str {
        &self.metadata.resource_version
    }
}

/// One that names another; what is not said is the default of the place where it stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Reference {
    group: Option<String>,
    kind: Option<String>,
    namespace: Option<String>,
    name: String,
    section_name: Option<Box<str>>,
    port: Option<u16>,
}

impl Reference {
    fn is(&self, group: &str, kind: &str, default_group: &str, default_kind: &str) -> bool {
        self.group.as_deref().unwrap_or(default_group) == group && self.kind.as_deref().unwrap_or(default_kind) == kind
    }

    fn object(&self, default_namespace: &str) -> ObjectName {
        ObjectName::new(self.namespace.as_deref().unwrap_or(default_namespace), &self.name)
    }

    /// What it names, if that is something that requests are sent to.
    fn backend(&self, default_namespace: &str) -> Option<RouteBackend> {
        let object = self.object(default_namespace);
        if self.is("", "Service", "", "Service") {
            Some(RouteBackend::Service(object, self.port))
        } else if self.is(ENVOY_GATEWAY, "Backend", "", "Service") {
            Some(RouteBackend::EnvoyBackend(object))
        } else {
            None
        }
    }

    /// What it names, if that is an EnvoyProxy.
    fn is_envoy_proxy(&self) -> bool {
        self.is(ENVOY_GATEWAY, "EnvoyProxy", "", "")
    }
}
