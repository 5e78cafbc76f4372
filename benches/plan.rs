//! What one change costs in a large cluster: the next plan of objects for gateways, from 5,000 Services of the mesh, 10,000 pods,
//! 20 Gateways and 2,000 Routes. Fails when a change of one object takes longer than a plan may.

#![expect(clippy::disallowed_types, reason = "a benchmark measures real time")]
#![expect(clippy::print_stdout, reason = "a benchmark prints what it measured")]
#![expect(clippy::unwrap_used, reason = "what fails here is a broken benchmark")]

use std::{
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use countersign::domain::policy::{
    Admits, BackendTlsApi, Backing, Change, ClassFacts, ClusterChange, ControlPlanes, Controller, EnvoyGatewaySettings,
    EnvoyProxyFacts, EnvoyWorkload, GatewayApiSafety, GatewayChange, GatewayFacts, GatewayIndex, GatewayPlan,
    ListenerFacts, MeshLabels, NamespaceFacts, NamespaceSelector, ObjectName, Parent, ParentFacts, PodFacts,
    PolicyIndex, PolicySnapshot, PortFacts, RouteBackend, RouteFacts, RouteKinds, SdsSecretFacts, ServiceFacts,
    Sidecar, TargetPort,
};

const NAMESPACES: usize = 1_000;
const SERVICES: usize = 5_000;
const PODS: usize = 10_000;
const GATEWAYS: usize = 20;
const ROUTES: usize = 2_000;
const ROUNDS: usize = 50;
/// Of one change.
const MOST: Duration = Duration::from_millis(20);
/// Of one that every Service may depend on.
const MOST_OF_ALL: Duration = Duration::from_millis(200);

fn main() -> ExitCode {
    let mut cluster = Cluster::default();
    let begin = Instant::now();
    cluster.list();
    let listed = begin.elapsed();
    let begin = Instant::now();
    let plan = cluster.plan();
    let first = begin.elapsed();
    let policies = plan.namespaces.values().flat_map(|namespace| namespace.services.values());
    assert_eq!(policies.filter(|service| service.policy.is_some()).count(), SERVICES);
    println!(
        "{SERVICES} Services, {PODS} pods, {GATEWAYS} Gateways, {ROUTES} Routes: listed {listed:.2?}, first plan {first:.2?}"
    );

    let mut is_good = true;
    let mut measure = |what: &str, most: Duration, change: &dyn Fn(&mut Cluster, usize)| {
        let mut times: Vec<Duration> = (0..ROUNDS)
            .map(|round| {
                let begin = Instant::now();
                change(&mut cluster, round);
                cluster.plan();
                begin.elapsed()
            })
            .collect();
        times.sort_unstable();
        let (median, longest) = (times.get(ROUNDS / 2).copied().unwrap(), times.last().copied().unwrap());
        is_good &= median < most;
        println!("  {what:<44} median {median:>9.2?}, longest {longest:>9.2?} (median at most {most:?})");
    };
    measure("a pod of another account", MOST, &|cluster, round| cluster.pod(round, round + PODS));
    measure("a namespace gets its label, or loses it", MOST, &|cluster, round| {
        cluster.label(round / 2, round % 2 == 1)
    });
    measure("a Route comes or goes", MOST, &|cluster, round| cluster.route(round / 2, round % 2 == 1));
    measure("a Gateway's listeners change", MOST_OF_ALL, &|cluster, round| cluster.gateway(0, round % 2 == 1));
    if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[derive(Default)]
struct Cluster {
    policies: PolicyIndex,
    gateways: GatewayIndex,
    snapshot: Option<(Arc<PolicySnapshot>, Arc<PolicySnapshot>)>,
}

impl Cluster {
    fn list(&mut self) {
        self.see(ClusterChange::Namespaces(Change::Reset(
            (0..NAMESPACES).map(|number| namespace(number, true)).collect(),
        )));
        self.see(ClusterChange::Services(Change::Reset((0..SERVICES).map(service).collect())));
        self.see(ClusterChange::Pods(Change::Reset((0..PODS).map(|number| pod(number, number)).collect())));
        self.see(ClusterChange::Slices(Change::Reset(Vec::new())));
        let class =
            ClassFacts { name: "eg".into(), controller: Controller::EnvoyGateway, parameters: Some(named("proxy")) };
        let proxy = EnvoyProxyFacts {
            object: named("proxy"),
            client_certificate: Some("svid".into()),
            alpn: ["istio-http/1.1".into(), "istio".into()].into(),
            deployment: Some(EnvoyWorkload { patched: Some(true), ..EnvoyWorkload::default() }),
            daemon_set: None,
            telemetry: [].into(),
            merge: None,
        };
        let secret = SdsSecretFacts {
            object: named("svid"),
            resource: "default".into(),
            url: "unix:///var/run/countersign/workload.sock".into(),
        };
        for change in [
            GatewayChange::Classes(Change::Reset(vec![class])),
            GatewayChange::Gateways(Change::Reset((0..GATEWAYS).map(|number| gateway(number, true)).collect())),
            GatewayChange::ListenerSets(Change::Reset(Vec::new())),
            GatewayChange::HttpRoutes(Change::Reset((0..ROUTES).map(route).collect())),
            GatewayChange::GrpcRoutes(Change::Reset(Vec::new())),
            GatewayChange::Grants(Change::Reset(Vec::new())),
            GatewayChange::TlsPolicies(Change::Reset(Vec::new())),
            GatewayChange::EnvoyProxies(Change::Reset(vec![proxy])),
            GatewayChange::SdsSecrets(Change::Reset(vec![secret])),
            GatewayChange::EnvoyBackends(Change::Reset(Vec::new())),
            GatewayChange::Settings(EnvoyGatewaySettings { sds_enabled: Some(true) }),
            GatewayChange::BackendTlsApi(BackendTlsApi::V1),
        ] {
            self.gateways.apply(change);
        }
    }

    fn see(&mut self, change: ClusterChange) {
        self.gateways.see(&change);
        self.policies.apply(change);
    }

    fn pod(&mut self, number: usize, account: usize) {
        self.see(ClusterChange::Pods(Change::Put(pod(number, account))));
    }

    fn label(&mut self, number: usize, is_member: bool) {
        self.see(ClusterChange::Namespaces(Change::Put(namespace(number, is_member))));
    }

    fn route(&mut self, number: usize, is_there: bool) {
        let route = route(number);
        let change = if is_there { Change::Put(route) } else { Change::Gone(route.object) };
        self.gateways.apply(GatewayChange::HttpRoutes(change));
    }

    fn gateway(&mut self, number: usize, admits_all: bool) {
        self.gateways.apply(GatewayChange::Gateways(Change::Put(gateway(number, admits_all))));
    }

    fn plan(&mut self) -> Arc<GatewayPlan> {
        let newest = self.policies.snapshot().unwrap();
        let with = match self.snapshot.take() {
            Some((of, with)) if Arc::ptr_eq(&of, &newest) => with,
            _ => {
                let control_planes = ControlPlanes {
                    istio: GatewayApiSafety::Safe,
                    envoy_gateway: "1.9.1".parse().ok(),
                    istiods: [].into(),
                };
                Arc::new(PolicySnapshot { control_planes: Arc::new(control_planes), ..(*newest).clone() })
            }
        };
        self.snapshot = Some((newest, Arc::clone(&with)));
        self.gateways.plan(&with).unwrap()
    }
}

fn named(name: &str) -> ObjectName {
    ObjectName::new("gateways", name)
}

fn team(number: usize) -> String {
    format!("team-{:04}", number % NAMESPACES)
}

fn namespace(number: usize, is_member: bool) -> NamespaceFacts {
    let injection = if is_member { "enabled" } else { "disabled" };
    NamespaceFacts {
        name: team(number).into(),
        labels: MeshLabels { injection: Some(injection.into()), ..MeshLabels::default() },
        all_labels: [("istio-injection", injection), ("kind", "team")].into_iter().collect(),
    }
}

fn service_name(number: usize) -> ObjectName {
    ObjectName::new(&team(number), &format!("service-{}", number / NAMESPACES))
}

fn service(number: usize) -> ServiceFacts {
    let object = service_name(number);
    let port = PortFacts { name: "http".into(), number: 8080, app_protocol: None, target: TargetPort::Number(8080) };
    ServiceFacts {
        backing: Backing::Selector([("app", object.name.to_string())].into_iter().collect()),
        object,
        uid: number.to_string().into(),
        created: 0,
        ports: [port].into(),
        opt_out: None,
        tag: None,
    }
}

fn pod(number: usize, account: usize) -> PodFacts {
    let of = number / NAMESPACES;
    let labels = [("app", format!("service-{}", of % (SERVICES / NAMESPACES)))];
    PodFacts {
        object: ObjectName::new(&team(number), &format!("pod-{of}")),
        uid: number.to_string().into(),
        labels: Arc::new(labels.into_iter().collect()),
        account: format!("{}/account-{account}", team(number)).parse().unwrap(),
        finished: false,
        sidecar: Sidecar::Injected,
        ready_at: None,
        named_ports: None,
        control_plane: None,
    }
}

/// Every second one goes by labels of namespaces.
fn gateway(number: usize, admits_all: bool) -> GatewayFacts {
    let selector =
        NamespaceSelector { labels: [("kind", "team")].into_iter().collect(), ..NamespaceSelector::default() };
    let admits = match (number % 2, admits_all) {
        (_, false) => Admits::Same,
        (0, true) => Admits::All,
        (_, true) => Admits::Selector(selector),
    };
    let routes = RouteKinds { http: true, grpc: true };
    GatewayFacts {
        object: named(&format!("gateway-{number}")),
        uid: number.to_string().into(),
        class: "eg".into(),
        takes_sets: None,
        listeners: [ListenerFacts { name: "http".into(), port: 80, routes, admits }].into(),
        parameters: None,
        client_certificate: false,
    }
}

fn route(number: usize) -> RouteFacts {
    let service = service_name(number);
    let parent = Parent::Gateway(named(&format!("gateway-{}", number % GATEWAYS)));
    RouteFacts {
        object: ObjectName::new(&service.namespace, &format!("route-{number}")),
        parents: [ParentFacts { parent, section: None, port: None }].into(),
        backends: [RouteBackend::Service(service, Some(8080))].into(),
    }
}
