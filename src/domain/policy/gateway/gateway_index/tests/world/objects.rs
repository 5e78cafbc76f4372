//! Each kind of object in its variants.

use std::sync::Arc;

use crate::domain::policy::*;

pub(super) fn labelled(namespace: u8, variant: u8) -> NamespaceFacts {
    let injection = ["enabled", "enabled", "enabled", "disabled"][usize::from(variant / 8) % 4];
    let labels = MeshLabels { injection: Some(injection.into()), ..MeshLabels::default() };
    let all_labels = [("istio-injection", injection), ("team", ["a", "b"][usize::from(variant) % 2])];
    NamespaceFacts { name: format!("n{namespace}").into(), labels, all_labels: all_labels.into_iter().collect() }
}

pub(super) fn pod(object: ObjectName, variant: u8) -> PodFacts {
    let mut labels = vec![("app", (variant % 2).to_string())];
    if variant & 8 > 0 {
        labels.push(("gateway.networking.k8s.io/gateway-name", format!("g{}", variant % 3)));
    }
    PodFacts {
        account: format!("{}/a{}", object.namespace, variant % 8).parse().unwrap(),
        object,
        uid: variant.to_string().into(),
        labels: Arc::new(labels.into_iter().collect()),
        finished: variant & 16 > 0,
        sidecar: if variant & 32 > 0 { Sidecar::Injected } else { Sidecar::Missing },
        ready_at: None,
        named_ports: None,
        control_plane: None,
    }
}

pub(super) fn peers(object: ObjectName, variant: u8) -> PeerAuthenticationFacts {
    let mode = |variant: u8| {
        [None, Some(PeerMode::Disable), Some(PeerMode::Permissive), Some(PeerMode::Strict)][usize::from(variant) % 4]
    };
    let app = (variant % 2).to_string();
    PeerAuthenticationFacts {
        object,
        created: i64::from(variant % 2),
        selector: if variant & 16 > 0 { [("app", app.as_str())].into_iter().collect() } else { Labels::default() },
        mode: mode(variant),
        ports: [(80, mode(variant / 4)), (81, mode(variant / 8))].into(),
    }
}

pub(super) fn slice(object: ObjectName, variant: u8) -> SliceFacts {
    let pod = SliceEndpoint::Pod { name: format!("p{}", variant % 2).into(), uid: None };
    SliceFacts {
        object,
        service: (variant % 7 != 3).then(|| format!("s{}", (variant / 2) % 2).into()),
        endpoints: if variant & 16 > 0 { [pod, SliceEndpoint::Other].into() } else { [pod].into() },
    }
}

pub(super) fn class(number: u8, variant: u8) -> ClassFacts {
    let controllers = [
        "gateway.envoyproxy.io/gatewayclass-controller",
        "gateway.envoyproxy.io/gatewayclass-controller",
        "kgateway.dev/kgateway",
        "example.com/other",
        "istio.io/gateway-controller",
    ];
    ClassFacts {
        name: format!("c{number}").into(),
        controller: Controller::of(controllers[usize::from(variant) % 5]),
        parameters: (variant & 16 > 0).then(|| ObjectName::new("n0", "e0")),
    }
}

pub(super) fn gateway(object: ObjectName, variant: u8) -> GatewayFacts {
    GatewayFacts {
        object,
        uid: "u".into(),
        class: format!("c{}", variant % 3).into(),
        listeners: [listener(variant), listener(variant / 2)].into(),
        takes_sets: [Some(Admits::All), Some(Admits::Same), None][usize::from(variant) % 3].clone(),
        parameters: (variant & 8 > 0).then(|| format!("e{}", variant % 2).into()),
        client_certificate: variant & 32 > 0,
    }
}

pub(super) fn listener(variant: u8) -> ListenerFacts {
    let admits = match variant % 4 {
        0 => Admits::Same,
        1 => {
            Admits::Selector(NamespaceSelector { labels: [("team", "a")].into_iter().collect(), ..Default::default() })
        }
        _ => Admits::All,
    };
    let routes = RouteKinds { http: variant % 8 != 5, grpc: variant % 8 != 6 };
    ListenerFacts { name: format!("l{}", variant % 2).into(), port: 80 + u16::from(variant % 2), routes, admits }
}

pub(super) fn route(object: ObjectName, variant: u8) -> RouteFacts {
    let parent = match variant % 5 {
        4 => Parent::ListenerSet(ObjectName::new(&format!("n{}", variant % 3), "l0")),
        _ => Parent::Gateway(ObjectName::new(&format!("n{}", variant % 3), &format!("g{}", variant % 2))),
    };
    let section = (variant % 7 == 3).then(|| "l0".into());
    let port = (variant % 9 == 3).then_some(80);
    let to = ObjectName::new(&format!("n{}", (variant / 8) % 3), &format!("s{}", (variant / 3) % 2));
    let backend = RouteBackend::EnvoyBackend(ObjectName { name: "b0".into(), ..object.clone() });
    let service = RouteBackend::Service(to, (variant & 1 > 0).then_some(80));
    let backends = match variant % 3 {
        0 => [backend].into(),
        _ => [service, backend].into(),
    };
    RouteFacts { object, parents: [ParentFacts { parent, section, port }].into(), backends }
}

pub(super) fn grant(object: ObjectName, variant: u8) -> GrantFacts {
    let kind = if variant & 16 > 0 { RouteKind::Grpc } else { RouteKind::Http };
    let services = (variant & 32 > 0).then(|| [format!("s{}", variant % 2).into()].into());
    GrantFacts { object, from: [(kind, format!("n{}", variant % 3).into())].into(), services }
}

pub(super) fn tls(object: ObjectName, variant: u8) -> TlsPolicyFacts {
    let section = (variant % 3 == 2).then(|| "http".into());
    let target = |target| PolicyTarget { target, section: section.clone() };
    let service = target(Target::Service(format!("s{}", variant % 2).into()));
    let backend = target(Target::EnvoyBackend("b0".into()));
    let targets = if variant & 8 > 0 { [backend].into() } else { [service, backend].into() };
    let ours = variant & 16 > 0;
    let written = ours.then(|| WrittenFacts {
        identities: IdentitySet::of([]),
        is_sds: variant & 32 > 0,
        accepted_by: [].into(),
    });
    TlsPolicyFacts { object, ours, targets, written }
}

pub(super) fn proxy(object: ObjectName, variant: u8) -> EnvoyProxyFacts {
    let alpn: &[&str] = [&["istio"][..], &["h2"], &[], &["istio", "h2"]][usize::from(variant / 2) % 4];
    EnvoyProxyFacts {
        object,
        client_certificate: (variant % 8 != 7).then(|| format!("x{}", variant % 2).into()),
        alpn: alpn.iter().map(|name| (*name).into()).collect(),
        deployment: (variant % 8 != 6).then(|| EnvoyWorkload { mounts: Some(true), ..EnvoyWorkload::default() }),
        daemon_set: None,
        telemetry: upstreams(variant),
        merge: (variant & 32 > 0).then_some(ProxyMerge::Strategic),
    }
}

pub(super) fn attached(object: ObjectName, variant: u8) -> AttachedPolicyFacts {
    let kind = [
        AttachedKind::Gateway,
        AttachedKind::Route(RouteKind::Http),
        AttachedKind::Route(RouteKind::Grpc),
        AttachedKind::ListenerSet,
    ][usize::from(variant) % 4];
    let name = ["g0", "r0", "r0", "l0"][usize::from(variant) % 4];
    let attachment = match variant % 3 {
        0 => Attachment::Labelled { kind, anywhere: variant & 16 > 0 },
        _ => Attachment::One(kind, name.into()),
    };
    AttachedPolicyFacts { object, attachments: [attachment].into(), upstreams: upstreams(variant) }
}

/// Such as policies of others are for.
fn upstreams(variant: u8) -> Box<[Upstream]> {
    let namespace = format!("n{}", (variant / 8) % 3);
    match variant % 4 {
        0 => [].into(),
        1 => [Upstream::EnvoyBackend(ObjectName::new(&namespace, "b0"))].into(),
        _ => [Upstream::Service(ObjectName::new(&namespace, &format!("s{}", variant % 2)))].into(),
    }
}

pub(super) fn secret(object: ObjectName, variant: u8) -> SdsSecretFacts {
    let url = if variant & 16 > 0 { SdsUrl::Path } else { SdsUrl::Unix }.text().into();
    if variant & 32 > 0 {
        let object = ObjectName { name: "countersign-s0".into(), ..object };
        return SdsSecretFacts { resource: DesiredObject::sds_resource(&object).into(), object, url };
    }
    let resource = if variant % 8 == 7 { "ROOTCA" } else { "default" };
    SdsSecretFacts { object, resource: resource.into(), url }
}

pub(super) fn control_planes(variant: u8) -> ControlPlanes {
    let pod = ObjectName::new("istio-system", "istiod");
    let istio = match variant % 8 {
        0 => GatewayApiSafety::Unknown { pod, why: "".into(), tag: None },
        1 => GatewayApiSafety::Settling,
        _ => GatewayApiSafety::Safe,
    };
    let versions = ["1.9.1", "1.9.0", "1.8.0", "", "1.7.3", "1.5.0"];
    ControlPlanes { istio, envoy_gateway: versions[usize::from(variant / 8) % 6].parse().ok(), istiods: [].into() }
}
