//! A small cluster that changes, and somebody who follows it.

use std::{collections::BTreeMap, sync::Arc};

use crate::domain::policy::*;

/// How many kinds of things change.
pub(super) const KINDS: u8 = 20;
/// What a plan does not wait for: what else runs, policies by which nothing is written, and PeerAuthentications.
pub(super) const NOT_WAITED_FOR: std::ops::Range<u8> = 15..19;
/// What happens: (kind, namespace, object, variant); every eighth variant deletes.
pub(super) type Step = (u8, u8, u8, u8);

/// What is there, by kind.
#[derive(Clone, Debug, Default)]
pub(super) struct World {
    namespaces: BTreeMap<Arc<str>, NamespaceFacts>,
    services: BTreeMap<ObjectName, ServiceFacts>,
    pods: BTreeMap<ObjectName, PodFacts>,
    classes: BTreeMap<Arc<str>, ClassFacts>,
    gateways: BTreeMap<ObjectName, GatewayFacts>,
    sets: BTreeMap<ObjectName, ListenerSetFacts>,
    http: BTreeMap<ObjectName, RouteFacts>,
    grpc: BTreeMap<ObjectName, RouteFacts>,
    grants: BTreeMap<ObjectName, GrantFacts>,
    pub(super) tls: BTreeMap<ObjectName, TlsPolicyFacts>,
    proxies: BTreeMap<ObjectName, EnvoyProxyFacts>,
    pub(super) secrets: BTreeMap<ObjectName, SdsSecretFacts>,
    backends: BTreeMap<ObjectName, EnvoyBackendFacts>,
    security: BTreeMap<ObjectName, AttachedPolicyFacts>,
    extension: BTreeMap<ObjectName, AttachedPolicyFacts>,
    settings: EnvoyGatewaySettings,
    api: u8,
    control_planes: u8,
    peers: BTreeMap<ObjectName, PeerAuthenticationFacts>,
    slices: BTreeMap<ObjectName, SliceFacts>,
}

/// What is seen of it.
#[derive(Clone, Debug)]
pub(super) enum Seen {
    Cluster(ClusterChange),
    Gateway(GatewayChange),
    ControlPlanes(ControlPlanes),
}

/// Who follows it.
#[derive(Default)]
pub(super) struct Follower {
    policies: PolicyIndex,
    index: GatewayIndex,
    control_planes: ControlPlanes,
    /// As it came out of the index, and with `control_planes`.
    snapshot: Option<(Arc<PolicySnapshot>, Arc<PolicySnapshot>)>,
}

impl Follower {
    /// One who has just started, and lists kinds from `first` on.
    pub(super) fn started(world: &World, first: u8) -> Self {
        let mut follower = Self::default();
        (0..KINDS).for_each(|kind| follower.see(world.list((kind + first) % KINDS)));
        follower
    }

    pub(super) fn see(&mut self, seen: Seen) {
        match seen {
            Seen::Cluster(change) => {
                self.index.see(&change);
                self.policies.apply(change);
            }
            Seen::Gateway(change) => self.index.apply(change),
            Seen::ControlPlanes(seen) => self.control_planes = seen,
        }
    }

    /// What is planned for each namespace, and what a preview of its present policy says.
    pub(super) fn previews(&mut self) -> Vec<[Option<Arc<NamespacePlan>>; 2]> {
        let plan = self.plan().unwrap();
        let (_, policies) = self.snapshot.as_ref().unwrap();
        let both = |policy: &Arc<NamespacePolicy>| {
            [plan.namespaces.get(&policy.name).cloned(), self.index.preview(policy, &policies.control_planes)]
        };
        policies.namespaces.values().map(both).collect()
    }

    pub(super) fn plan(&mut self) -> Option<Arc<GatewayPlan>> {
        let newest = self.policies.snapshot()?;
        let with = match self.snapshot.take() {
            Some((of, with)) if Arc::ptr_eq(&of, &newest) && *with.control_planes == self.control_planes => with,
            _ => {
                let control_planes = Arc::new(self.control_planes.clone());
                Arc::new(PolicySnapshot { control_planes, ..(*newest).clone() })
            }
        };
        self.snapshot = Some((newest, Arc::clone(&with)));
        self.index.plan(&with)
    }
}

/// Puts it there, or takes it away; what is seen of that.
fn step<K: Clone + Ord, T: Clone>(map: &mut BTreeMap<K, T>, key: K, new: Option<T>) -> Change<T, K> {
    match new {
        Some(new) => {
            map.insert(key, new.clone());
            Change::Put(new)
        }
        None => {
            map.remove(&key);
            Change::Gone(key)
        }
    }
}

fn all<K, T: Clone>(map: &BTreeMap<K, T>) -> Vec<T> {
    map.values().cloned().collect()
}

impl World {
    /// One in which everything works: two Gateways of Envoy Gateway, one of which a Route leads from.
    pub(super) fn usual() -> Self {
        const STEPS: [Step; 14] = [
            (0, 0, 0, 1),
            (0, 1, 0, 1),
            (1, 0, 0, 2),
            (1, 1, 0, 3),
            (2, 0, 0, 2),
            (2, 1, 0, 3),
            (3, 0, 0, 21),
            (4, 0, 0, 6),
            (4, 1, 1, 6),
            (6, 0, 0, 1),
            (9, 0, 0, 1),
            (10, 0, 1, 1),
            (12, 0, 0, 4),
            (15, 0, 0, 2),
        ];
        let mut world = Self::default();
        STEPS.into_iter().for_each(|step| drop(world.take(step)));
        world
    }

    pub(super) fn take(&mut self, (kind, namespace, object, variant): Step) -> Seen {
        let there = !variant.is_multiple_of(8);
        let named = |of: char| ObjectName::new(&format!("n{namespace}"), &format!("{of}{object}"));
        match kind {
            0 => {
                let new = labelled(namespace, variant);
                let change = step(&mut self.namespaces, Arc::clone(&new.name), there.then_some(new));
                Seen::Cluster(ClusterChange::Namespaces(change))
            }
            1 => {
                let new = service(named('s'), variant);
                Seen::Cluster(ClusterChange::Services(step(&mut self.services, named('s'), there.then_some(new))))
            }
            2 => {
                let new = pod(named('p'), variant);
                Seen::Cluster(ClusterChange::Pods(step(&mut self.pods, named('p'), there.then_some(new))))
            }
            18 => {
                let new = peers(named('q'), variant);
                let change = step(&mut self.peers, named('q'), there.then_some(new));
                Seen::Cluster(ClusterChange::PeerAuthentications(change))
            }
            19 => {
                let new = slice(named('z'), variant);
                Seen::Cluster(ClusterChange::Slices(step(&mut self.slices, named('z'), there.then_some(new))))
            }
            12 => {
                self.settings.sds_enabled = [Some(true), Some(false), None, Some(true)][usize::from(variant) % 4];
                self.list(kind)
            }
            13 => {
                self.api = variant % 4;
                self.list(kind)
            }
            15 => {
                self.control_planes = variant;
                self.list(kind)
            }
            _ => Seen::Gateway(self.take_of_gateways(kind, object, variant, &named)),
        }
    }

    fn take_of_gateways(
        &mut self,
        kind: u8,
        object: u8,
        variant: u8,
        named: &dyn Fn(char) -> ObjectName,
    ) -> GatewayChange {
        let there = !variant.is_multiple_of(8);
        match kind {
            3 => {
                let new = class(object, variant);
                GatewayChange::Classes(step(&mut self.classes, Arc::clone(&new.name), there.then_some(new)))
            }
            4 => {
                let new = gateway(named('g'), variant);
                GatewayChange::Gateways(step(&mut self.gateways, named('g'), there.then_some(new)))
            }
            5 => {
                let gateway = ObjectName::new(&format!("n{}", variant % 3), &format!("g{}", variant % 2));
                let new = ListenerSetFacts { object: named('l'), gateway, listeners: [listener(variant)].into() };
                GatewayChange::ListenerSets(step(&mut self.sets, named('l'), there.then_some(new)))
            }
            6 => {
                let new = route(named('r'), variant);
                GatewayChange::HttpRoutes(step(&mut self.http, named('r'), there.then_some(new)))
            }
            7 => {
                let new = route(named('r'), variant);
                GatewayChange::GrpcRoutes(step(&mut self.grpc, named('r'), there.then_some(new)))
            }
            8 => {
                let new = tls(named('t'), variant);
                GatewayChange::TlsPolicies(step(&mut self.tls, named('t'), there.then_some(new)))
            }
            9 => {
                let new = proxy(named('e'), variant);
                GatewayChange::EnvoyProxies(step(&mut self.proxies, named('e'), there.then_some(new)))
            }
            10 => {
                let new = secret(named('x'), variant);
                GatewayChange::SdsSecrets(step(&mut self.secrets, new.object.clone(), there.then_some(new)))
            }
            16 => {
                let new = attached(named('a'), variant);
                GatewayChange::SecurityPolicies(step(&mut self.security, named('a'), there.then_some(new)))
            }
            17 => {
                let new = attached(named('a'), variant);
                GatewayChange::ExtensionPolicies(step(&mut self.extension, named('a'), there.then_some(new)))
            }
            14 => {
                let new = grant(named('y'), variant);
                GatewayChange::Grants(step(&mut self.grants, named('y'), there.then_some(new)))
            }
            _ => {
                let (is_tls, has_client_certificate) = (variant & 16 > 0, variant & 32 > 0);
                let new = EnvoyBackendFacts { object: named('b'), is_tls, has_client_certificate };
                GatewayChange::EnvoyBackends(step(&mut self.backends, named('b'), there.then_some(new)))
            }
        }
    }

    /// What a list of one kind says.
    pub(super) fn list(&self, kind: u8) -> Seen {
        let change = match kind {
            0 => return Seen::Cluster(ClusterChange::Namespaces(Change::Reset(all(&self.namespaces)))),
            1 => return Seen::Cluster(ClusterChange::Services(Change::Reset(all(&self.services)))),
            2 => return Seen::Cluster(ClusterChange::Pods(Change::Reset(all(&self.pods)))),
            3 => GatewayChange::Classes(Change::Reset(all(&self.classes))),
            4 => GatewayChange::Gateways(Change::Reset(all(&self.gateways))),
            5 => GatewayChange::ListenerSets(Change::Reset(all(&self.sets))),
            6 => GatewayChange::HttpRoutes(Change::Reset(all(&self.http))),
            7 => GatewayChange::GrpcRoutes(Change::Reset(all(&self.grpc))),
            8 => GatewayChange::TlsPolicies(Change::Reset(all(&self.tls))),
            9 => GatewayChange::EnvoyProxies(Change::Reset(all(&self.proxies))),
            10 => GatewayChange::SdsSecrets(Change::Reset(all(&self.secrets))),
            11 => GatewayChange::EnvoyBackends(Change::Reset(all(&self.backends))),
            12 => GatewayChange::Settings(self.settings),
            13 => GatewayChange::BackendTlsApi(if self.api == 3 { BackendTlsApi::TooOld } else { BackendTlsApi::V1 }),
            14 => GatewayChange::Grants(Change::Reset(all(&self.grants))),
            15 => return Seen::ControlPlanes(control_planes(self.control_planes)),
            16 => GatewayChange::SecurityPolicies(Change::Reset(all(&self.security))),
            17 => GatewayChange::ExtensionPolicies(Change::Reset(all(&self.extension))),
            18 => return Seen::Cluster(ClusterChange::PeerAuthentications(Change::Reset(all(&self.peers)))),
            _ => return Seen::Cluster(ClusterChange::Slices(Change::Reset(all(&self.slices)))),
        };
        Seen::Gateway(change)
    }
}

fn labelled(namespace: u8, variant: u8) -> NamespaceFacts {
    let injection = ["enabled", "enabled", "enabled", "disabled"][usize::from(variant / 8) % 4];
    let labels = MeshLabels { injection: Some(injection.into()), ..MeshLabels::default() };
    let all_labels = [("istio-injection", injection), ("team", ["a", "b"][usize::from(variant) % 2])];
    NamespaceFacts { name: format!("n{namespace}").into(), labels, all_labels: all_labels.into_iter().collect() }
}

pub(super) fn service(object: ObjectName, variant: u8) -> ServiceFacts {
    let name = if variant.is_multiple_of(2) { "http" } else { "grpc" };
    let port = |number| PortFacts { name: name.into(), number, app_protocol: None, target: TargetPort::Number(number) };
    ServiceFacts {
        object,
        uid: (variant % 2).to_string().into(),
        created: 0,
        backing: match variant % 16 {
            9 | 10 => Backing::Slices,
            _ => Backing::Selector([("app", (variant % 2).to_string())].into_iter().collect()),
        },
        ports: [port(80), port(81)].into(),
        opt_out: (variant % 16 == 7).then(|| "disabled".into()),
        tag: None,
    }
}

fn pod(object: ObjectName, variant: u8) -> PodFacts {
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

fn peers(object: ObjectName, variant: u8) -> PeerAuthenticationFacts {
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

fn slice(object: ObjectName, variant: u8) -> SliceFacts {
    let pod = SliceEndpoint::Pod { name: format!("p{}", variant % 2).into(), uid: None };
    SliceFacts {
        object,
        service: (variant % 7 != 3).then(|| format!("s{}", (variant / 2) % 2).into()),
        endpoints: if variant & 16 > 0 { [pod, SliceEndpoint::Other].into() } else { [pod].into() },
    }
}

fn class(number: u8, variant: u8) -> ClassFacts {
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

fn gateway(object: ObjectName, variant: u8) -> GatewayFacts {
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

fn listener(variant: u8) -> ListenerFacts {
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

fn route(object: ObjectName, variant: u8) -> RouteFacts {
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

fn grant(object: ObjectName, variant: u8) -> GrantFacts {
    let kind = if variant & 16 > 0 { RouteKind::Grpc } else { RouteKind::Http };
    let services = (variant & 32 > 0).then(|| [format!("s{}", variant % 2).into()].into());
    GrantFacts { object, from: [(kind, format!("n{}", variant % 3).into())].into(), services }
}

fn tls(object: ObjectName, variant: u8) -> TlsPolicyFacts {
    let section = (variant % 3 == 2).then(|| "http".into());
    let target = |target| PolicyTarget { target, section: section.clone() };
    let service = target(Target::Service(format!("s{}", variant % 2).into()));
    let backend = target(Target::EnvoyBackend("b0".into()));
    let targets = if variant & 8 > 0 { [backend].into() } else { [service, backend].into() };
    TlsPolicyFacts { object, ours: variant & 16 > 0, targets, written: None }
}

fn proxy(object: ObjectName, variant: u8) -> EnvoyProxyFacts {
    let alpn: &[&str] = [&["istio"][..], &["h2"], &[], &["istio", "h2"]][usize::from(variant / 2) % 4];
    EnvoyProxyFacts {
        object,
        client_certificate: (variant % 8 != 7).then(|| format!("x{}", variant % 2).into()),
        alpn: alpn.iter().map(|name| (*name).into()).collect(),
        has_agent: variant % 8 != 6,
        telemetry: upstreams(variant),
        is_merged: variant & 32 > 0,
    }
}

fn attached(object: ObjectName, variant: u8) -> AttachedPolicyFacts {
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

fn secret(object: ObjectName, variant: u8) -> SdsSecretFacts {
    let url = if variant & 16 > 0 { SdsUrl::Path } else { SdsUrl::Unix }.text().into();
    if variant & 32 > 0 {
        let object = ObjectName { name: "countersign-s0".into(), ..object };
        return SdsSecretFacts { resource: DesiredObject::sds_resource(&object).into(), object, url };
    }
    let resource = if variant % 8 == 7 { "ROOTCA" } else { "default" };
    SdsSecretFacts { object, resource: resource.into(), url }
}

fn control_planes(variant: u8) -> ControlPlanes {
    let pod = ObjectName::new("istio-system", "istiod");
    let istio = match variant % 8 {
        0 => GatewayApiSafety::Unknown { pod, why: "".into(), tag: None },
        1 => GatewayApiSafety::Settling,
        _ => GatewayApiSafety::Safe,
    };
    let versions = ["1.9.1", "1.9.0", "1.8.0", "", "1.7.3", "1.5.0"];
    ControlPlanes { istio, envoy_gateway: versions[usize::from(variant / 8) % 6].parse().ok(), istiods: [].into() }
}
