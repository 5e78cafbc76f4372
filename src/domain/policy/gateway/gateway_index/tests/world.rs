//! A small cluster that changes, and somebody who follows it.

mod objects;

use std::{collections::BTreeMap, sync::Arc};

use self::objects::{
    attached, class, control_planes, gateway, grant, labelled, listener, peers, pod, proxy, route, secret, slice, tls,
};
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
                // one that is called as ours for a Service, whatever it is for
                let ours = ObjectName { name: "countersign-s0".into(), ..named('t') };
                let new = tls(if object == 1 { ours } else { named('t') }, variant);
                GatewayChange::TlsPolicies(step(&mut self.tls, new.object.clone(), there.then_some(new)))
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
