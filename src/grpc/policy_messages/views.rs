//! Messages as what is shown of them.

use crate::{
    domain::policy::MtlsMode,
    proto::countersign::policy::v1::{
        Condition, Gateway, Mode, Namespace, Port, PreviewResponse, Service, ServiceName, WatchResponse,
    },
    service::policy_view::{
        ConditionView, GatewayView, NamespaceListing, NamespacePreview, NamespaceView, PolicyUpdate, PortView,
        ServiceView,
    },
};

/// What was said, to be shown.
pub(in crate::grpc) fn update_view(message: WatchResponse) -> PolicyUpdate {
    PolicyUpdate {
        reset: message.reset,
        version: message.version,
        namespaces: message.namespaces.into_iter().map(namespace_view).collect(),
        namespaces_gone: message.namespaces_gone,
        services: message.services.into_iter().map(service_view).collect(),
        services_gone: message.services_gone.iter().map(path_of).collect(),
        services_deleted: message.services_deleted.iter().map(path_of).collect(),
        gateways: message.gateways.into_iter().map(gateway_view).collect(),
        gateways_gone: message.gateways_gone.iter().map(path_of).collect(),
    }
}

fn path_of(object: &ServiceName) -> String {
    format!("{}/{}", object.namespace, object.name)
}

fn gateway_view(message: Gateway) -> GatewayView {
    let ServiceName { namespace, name } = message.gateway.unwrap_or_default();
    GatewayView {
        namespace,
        name,
        ready: message.ready,
        identities: message.identities,
        conditions: message.conditions.into_iter().map(condition_view).collect(),
    }
}

/// As it is, and as it would be.
pub(in crate::grpc) fn preview_view(message: PreviewResponse) -> (NamespacePreview, NamespacePreview) {
    let preview = |namespace: Option<Namespace>, services: Vec<Service>, objects| {
        let services = services.into_iter().map(service_view).collect();
        let listing = NamespaceListing { namespace: namespace_view(namespace.unwrap_or_default()), services };
        NamespacePreview { listing, objects }
    };
    let now = preview(message.now, message.services_now, message.objects_now);
    (now, preview(message.then, message.services_then, message.objects_then))
}

fn namespace_view(message: Namespace) -> NamespaceView {
    NamespaceView {
        mode: mode_text(message.mode()),
        name: message.name,
        revision: message.revision,
        conditions: message.conditions.into_iter().map(condition_view).collect(),
    }
}

fn service_view(message: Service) -> ServiceView {
    let mode = mode_text(message.mode());
    let ServiceName { namespace, name } = message.service.unwrap_or_default();
    let port = |port: Port| {
        let Port { number, name, class, alpn, peer_mode } = port;
        PortView { number, name, class, alpn, peer_mode }
    };
    ServiceView {
        namespace,
        name,
        mode,
        identities: message.identities,
        ports: message.ports.into_iter().map(port).collect(),
        conditions: message.conditions.into_iter().map(condition_view).collect(),
    }
}

fn condition_view(message: Condition) -> ConditionView {
    ConditionView { reason: message.reason, severity: message.severity, message: message.message }
}

fn mode_text(mode: Mode) -> String {
    match mode {
        Mode::MutualTls => MtlsMode::Required.as_str(),
        Mode::NotManaged => MtlsMode::NotManaged.as_str(),
        Mode::Unspecified => "unknown",
    }
    .to_owned()
}
