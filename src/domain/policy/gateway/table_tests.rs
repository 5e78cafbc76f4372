//! Labels, pods and Routes in; mode, identities, conditions and objects out. The rows, and how they are written: `table_tests/rows.txt`.

mod words;

use std::{fmt::Write as _, sync::Arc, time::Duration};

use self::words::{attached, gateway, listener, namespace, ports, proxy, route, secret, tls};
use super::*;
use crate::domain::policy::{
    Backing, Change, ClusterChange, Condition, ContextReport, ControlPlanes, EnforcementIndex, GatewayApiSafety,
    IdentitySet, Labels, NamespaceFacts, ObjectName, PeerAuthenticationFacts, PeerMode, PodFacts, PolicyIndex,
    PolicySnapshot, ReportChange, Reporter, ServiceFacts, Shortfall, Sidecar,
};

const ROWS: &str = include_str!("table_tests/rows.txt");

#[test]
fn each_row_comes_out_as_it_says() {
    let rows: Vec<(usize, &str)> =
        ROWS.lines().enumerate().filter(|(_, row)| row.contains('|') && !row.starts_with('#')).collect();
    assert!(rows.len() >= 60, "{}", rows.len());
    let wrong: Vec<String> = rows.iter().filter_map(|(line, row)| wrong(line + 1, row)).collect();
    assert!(wrong.is_empty(), "{} of {} rows:\n{}", wrong.len(), rows.len(), wrong.join("\n"));
}

fn wrong(line: usize, row: &str) -> Option<String> {
    let columns: Vec<&str> = row.split('|').map(str::trim).collect();
    let [labels, pods, cluster, expected @ ..] = &columns[..] else { panic!("line {line}: {row}") };
    let mut world = World::new(labels, pods);
    cluster.split(';').map(str::trim).filter(|said| !said.is_empty()).for_each(|said| world.take(said));
    let found = world.outcome();
    (found != *expected).then(|| format!("line {line}: {row}\n   found {}", found.join(" | ")))
}

/// A cluster as a row says it.
struct World {
    policies: PolicyIndex,
    index: GatewayIndex,
    control_planes: ControlPlanes,
    service: ServiceFacts,
    namespaces: Vec<NamespaceFacts>,
    peers: Vec<PeerAuthenticationFacts>,
    pods: Vec<PodFacts>,
}

impl World {
    fn new(labels: &str, pods: &str) -> Self {
        let mut world = Self {
            policies: PolicyIndex::default(),
            index: GatewayIndex::default(),
            control_planes: ControlPlanes {
                istio: GatewayApiSafety::Safe,
                envoy_gateway: Some("1.9.1".parse().unwrap()),
                istiods: [].into(),
            },
            service: ServiceFacts {
                object: ObjectName::new("app", "svc"),
                uid: "uid-svc".into(),
                created: 0,
                backing: Backing::Selector([("a", "1")].into_iter().collect()),
                ports: ports(["http/80"].into_iter()),
                opt_out: None,
                tag: None,
            },
            namespaces: vec![namespace("app", labels), namespace("infra", ""), namespace("evil", "")],
            peers: Vec::new(),
            pods: Vec::new(),
        };
        for account in pods.split_whitespace() {
            let (account, count) = account.split_once('*').unwrap_or((account, "1"));
            (0..count.parse().unwrap()).for_each(|_| world.add_pod("app", account, &[("a", "1")], Sidecar::Injected));
        }
        let istiod = [("app", "istiod"), ("istio.io/rev", "canary")];
        world.add_pod("istio-system", "istiod", &istiod, Sidecar::Excluded);
        world.add_pod("istio-system", "istiod", &[("app", "istiod")], Sidecar::Excluded);
        world.apply_all();
        world
    }

    /// What every row has, and of the rest that there is nothing yet.
    fn apply_all(&mut self) {
        let classes = [
            ("eg", "gateway.envoyproxy.io/gatewayclass-controller"),
            ("kg", "kgateway.dev/kgateway"),
            ("ag", "agentgateway.dev/agentgateway"),
            ("ngf", "gateway.nginx.org/nginx-gateway-controller"),
            ("istio", "istio.io/gateway-controller"),
        ];
        let class = |(name, controller): (&str, &str)| ClassFacts {
            name: name.into(),
            controller: Controller::of(controller),
            parameters: (name == "eg").then(|| ObjectName::new("infra", "ep")),
        };
        let here = [
            GatewayChange::Classes(Change::Reset(classes.map(class).into())),
            GatewayChange::Settings(EnvoyGatewaySettings { sds_enabled: Some(true) }),
        ];
        nothing_there().into_iter().chain(here).for_each(|change| self.index.apply(change));
        self.take("ep ep agent cert=svid alpn=istio-http/1.1,istio");
        self.take("secret svid default");
    }

    fn add_pod(&mut self, namespace: &str, account: &str, labels: &[(&str, &str)], sidecar: Sidecar) {
        let name = format!("pod-{}", self.pods.len());
        self.pods.push(PodFacts {
            object: ObjectName::new(namespace, &name),
            uid: name.into(),
            labels: Arc::new(labels.iter().copied().collect()),
            account: format!("{namespace}/{account}").parse().unwrap(),
            finished: false,
            sidecar,
            ready_at: None,
            named_ports: None,
            control_plane: None,
        });
    }

    fn take(&mut self, said: &str) {
        let words: Vec<&str> = said.split_whitespace().collect();
        let change = match words[..] {
            ["gw", name, class, ref rest @ ..] => GatewayChange::Gateways(Change::Put(gateway(name, class, rest))),
            ["set", name, gateway, ref rest @ ..] => {
                let object = ObjectName::new("infra", name);
                let (gateway, listeners) = (ObjectName::new("infra", gateway), [listener(rest)].into());
                GatewayChange::ListenerSets(Change::Put(ListenerSetFacts { object, gateway, listeners }))
            }
            ["http", name, ref rest @ ..] => GatewayChange::HttpRoutes(Change::Put(route(name, rest))),
            ["grpc", name, ref rest @ ..] => GatewayChange::GrpcRoutes(Change::Put(route(name, rest))),
            ["grant", from, kind, ref names @ ..] => {
                let kind = if kind == "grpc" { RouteKind::Grpc } else { RouteKind::Http };
                let services = (!names.is_empty()).then(|| names.iter().map(|name| (*name).into()).collect());
                let object = ObjectName::new("app", &format!("from-{from}"));
                GatewayChange::Grants(Change::Put(GrantFacts { object, from: [(kind, from.into())].into(), services }))
            }
            ["ep", name, ref rest @ ..] => GatewayChange::EnvoyProxies(Change::Put(proxy(name, rest))),
            ["secret", name, resource] => secret(ObjectName::new("infra", name), resource, "unix:///elsewhere"),
            ["secret", name, resource, "path"] => secret(ObjectName::new("infra", name), resource, "/elsewhere"),
            ["own", "path"] => {
                let name = ObjectName::new("other", "countersign-else");
                secret(name, "validation/other/else", "/var/run/countersign/workload.sock")
            }
            ["own", "url"] => {
                let name = ObjectName::new("other", "countersign-else");
                secret(name, "validation/other/else", "unix:///var/run/countersign/workload.sock")
            }
            ["tls", name, target, ref rest @ ..] => GatewayChange::TlsPolicies(Change::Put(tls(name, target, rest))),
            ["backend", name, ref rest @ ..] => GatewayChange::EnvoyBackends(Change::Put(EnvoyBackendFacts {
                object: ObjectName::new("app", name),
                is_tls: rest.contains(&"tls"),
                has_client_certificate: rest.contains(&"cert"),
            })),
            ["security", name, ref rest @ ..] => GatewayChange::SecurityPolicies(Change::Put(attached(name, rest))),
            ["extension", name, ref rest @ ..] => GatewayChange::ExtensionPolicies(Change::Put(attached(name, rest))),
            ["sds", said] => {
                let sds_enabled = (said != "unknown").then_some(false);
                GatewayChange::Settings(EnvoyGatewaySettings { sds_enabled })
            }
            ["api", "old"] => GatewayChange::BackendTlsApi(BackendTlsApi::TooOld),
            _ => return self.take_other(&words),
        };
        self.index.apply(change);
    }

    fn take_other(&mut self, words: &[&str]) {
        match *words {
            ["pod", gateway, account, ref rest @ ..] => {
                let labels = [
                    ("gateway.envoyproxy.io/owning-gateway-namespace", "infra"),
                    ("gateway.envoyproxy.io/owning-gateway-name", gateway),
                ];
                let sidecar = if rest.contains(&"injected") { Sidecar::Injected } else { Sidecar::Excluded };
                self.add_pod("envoy-gateway-system", account, &labels, sidecar);
            }
            ["merged", class, account, ref rest @ ..] => {
                let sidecar = if rest.contains(&"injected") { Sidecar::Injected } else { Sidecar::Excluded };
                let labels = [("gateway.envoyproxy.io/owning-gatewayclass", class)];
                self.add_pod("envoy-gateway-system", account, &labels, sidecar);
            }
            ["svc", "opt-out"] => self.service.opt_out = Some("disabled".into()),
            ["svc", ref rest @ ..] => self.service.ports = ports(rest.iter().copied()),
            ["eg", version] => self.control_planes.envoy_gateway = version.parse().ok(),
            ["peers", mode] => {
                let mode = match mode {
                    "strict" => PeerMode::Strict,
                    "disable" => PeerMode::Disable,
                    _ => PeerMode::Permissive,
                };
                self.peers.push(PeerAuthenticationFacts {
                    object: ObjectName::new("app", "default"),
                    created: 0,
                    selector: Labels::default(),
                    mode: Some(mode),
                    ports: [].into(),
                });
            }
            ["istio", said] => {
                let pod = ObjectName::new("istio-system", "pod");
                self.control_planes.istio = match said {
                    "settling" => GatewayApiSafety::Settling,
                    "unsafe" => GatewayApiSafety::Unsafe { pod, version: "1.29.0".parse().unwrap() },
                    _ => GatewayApiSafety::Unknown { pod, why: "it does not answer".into(), tag: None },
                };
            }
            _ => panic!("{words:?}"),
        }
    }

    fn plan(mut self) -> (PolicySnapshot, Arc<GatewayPlan>) {
        for change in [
            ClusterChange::Namespaces(Change::Reset(self.namespaces)),
            ClusterChange::Services(Change::Reset(vec![self.service])),
            ClusterChange::Pods(Change::Reset(self.pods)),
            ClusterChange::Slices(Change::Reset(Vec::new())),
            ClusterChange::PeerAuthentications(Change::Reset(self.peers)),
        ] {
            self.index.see(&change);
            self.policies.apply(change);
        }
        let snapshot = self.policies.snapshot().unwrap();
        let snapshot = PolicySnapshot { control_planes: Arc::new(self.control_planes), ..(*snapshot).clone() };
        let plan = self.index.plan(&Arc::new(snapshot.clone())).unwrap();
        (snapshot, plan)
    }

    /// The columns that a row expects.
    fn outcome(self) -> [String; 4] {
        let (snapshot, plan) = self.plan();
        let policy = snapshot.service("app", "svc");
        let mode = policy.map_or(snapshot.namespaces["app"].membership.mode, |policy| policy.mode).to_string();
        let accounts = policy.iter().flat_map(|policy| policy.accounts.iter());
        let identities: Vec<&str> = accounts.map(crate::domain::identity::ServiceAccount::name).collect();
        let objects = plan.namespaces.get("app").map(|namespace| namespace.objects()).unwrap_or_default();
        let withdrawn = plan.must_withdraw.then(|| "withdraw".to_owned());
        let objects: Vec<String> = objects.iter().map(written).chain(withdrawn).collect();
        let mut conditions = String::new();
        for condition in plan.service("app", "svc").iter().flat_map(|service| service.conditions.iter()) {
            said(condition);
            write!(conditions, " {}", condition.reason()).unwrap();
        }
        for (gateway, state) in &plan.gateways {
            for condition in &state.conditions {
                said(condition);
                write!(conditions, " {}:{}", gateway.name, condition.reason()).unwrap();
            }
        }
        [mode, identities.join(" "), objects.join(" "), conditions.trim_start().to_owned()]
    }
}

/// One that goes by no Gateway may have accepted the identities all the same.
#[test]
fn nothing_is_in_force_where_routes_lead_and_no_policy_is_whoever_has_accepted_the_identities() {
    for (cluster, is_bare) in [
        ("gw a ngf; http app/r @a > svc", true),
        ("gw a eg; api old; http app/r @a > svc", true),
        ("gw a eg; istio unsafe; http app/r @a > svc", true),
        ("gw a eg; tls theirs svc; http app/r @a > svc", true),
        ("gw a eg; ep ep; http app/r @a > svc", true),
        ("gw a eg; http app/r @a > svc", false),
        ("gw a eg; ep ep", false),
    ] {
        let mut world = World::new("mesh", "x");
        cluster.split("; ").for_each(|said| world.take(said));
        let (_, plan) = world.plan();
        let (service, gateway) = (ObjectName::new("app", "svc"), ObjectName::new("infra", "a"));
        let mut index = EnforcementIndex::default();
        let identities = IdentitySet::of([&"spiffe://td/ns/app/sa/x".parse().unwrap()]);
        index.require(service.clone(), Some(identities));
        index.leave_bare(service.clone(), plan.service("app", "svc").unwrap().bare());
        let reporter = Reporter { gateway: "spiffe://td/ns/edge/sa/envoy".parse().unwrap(), instance: "one".into() };
        let report = ContextReport { streams: 1, accepted: [(identities, 1)].into(), refusal: None };
        let services = vec![(service.clone(), report)];
        index.report(&Arc::new(reporter), ReportChange { reset: true, services, gone: Vec::new() });
        let expected = match is_bare {
            true => Condition::NotEnforced(Shortfall::NoPolicy { gateways: [gateway].into() }),
            false => Condition::Enforced { gateways: 1, portable: 0 },
        };
        let found = index.settle(Duration::ZERO)[&service].clone();
        said(&found);
        assert_eq!(found, expected, "{cluster}");
        index.leave_bare(service.clone(), &[]);
        assert_eq!(index.settle(Duration::ZERO)[&service].reason(), "Enforced", "{cluster}");
    }
}

/// Gateways ask for the identities all the same, because of the other port; where they have no agent, because pods are asked.
#[test]
fn nothing_is_in_force_where_routes_lead_to_a_port_that_somebody_elses_policy_is_for() {
    let two = "svc http/80 web/81";
    for (cluster, expected) in [
        ("tls theirs svc#http; http app/r @a > svc:80 svc:81", "http"),
        ("tls theirs svc#http; http app/r @a > svc:80", "http"),
        ("tls theirs svc#http; grpc app/r @a > svc:80", "http"),
        ("tls theirs svc#http; http app/r @a > svc:81", ""),
        ("tls theirs svc#http; http app/r @a > svc", "http"),
        ("tls theirs svc#http; tls more svc#web; http app/r @a > svc:80; http app/s @a > svc:81", "http web"),
        ("tls theirs svc#http; http app/r @other > svc:80 svc:81", ""),
        ("tls theirs svc#http", ""),
        ("tls theirs svc#gone; http app/r @a > svc:80", ""),
        ("tls theirs other#http; http app/r @a > svc:80", ""),
        ("tls ours svc#http ours; http app/r @a > svc:80", ""),
    ] {
        for class in ["eg", "kg cert"] {
            let mut world = World::new("mesh", "x");
            [two, &format!("gw a {}", class.replace(' ', " all "))].iter().for_each(|said| world.take(said));
            cluster.split("; ").for_each(|said| world.take(said));
            let (_, plan) = world.plan();
            let plan = plan.service("app", "svc").unwrap();
            let what = format!("{class}: {cluster}");
            assert!(plan.policy.is_some(), "{what}");
            assert_eq!(plan.overruled.join(" "), expected, "{what}");
        }
    }
}

#[test]
fn a_proxy_has_a_cluster_for_each_rule_that_leads_to_a_service() {
    for (cluster, is_split) in [
        ("gw a eg", false),
        ("gw a eg; http app/r @a > svc other", false),
        ("gw a eg; gw b eg; http app/r @a @b > svc", false),
        ("gw a eg; http app/r @a > svc svc", true),
        ("gw a eg; http app/r @a > svc; http app/s @a > svc", true),
        ("gw a eg; http app/r @a > svc; grpc app/r @a > svc", true),
        ("gw a eg; http app/r @a > svc; http app/s @gone > svc", false),
    ] {
        let mut world = World::new("mesh", "x");
        cluster.split("; ").for_each(|said| world.take(said));
        assert_eq!(world.plan().1.service("app", "svc").unwrap().is_split, is_split, "{cluster}");
    }
}

/// A text that says something, and does not come from another kind of condition.
fn said(condition: &Condition) {
    assert!(condition.to_string().len() > 60, "{condition:?}: {condition}");
}

fn written(object: &DesiredObject) -> String {
    match object {
        DesiredObject::CaConfigMap { namespace } => {
            assert_eq!(&**namespace, "app");
            "cm".to_owned()
        }
        DesiredObject::SdsSecret { service, owner, url } => {
            assert_eq!((service.to_string().as_str(), &**owner), ("app/svc", "uid-svc"));
            assert_eq!(object.object().to_string(), "app/countersign-svc");
            format!("secret:{}", if url.text().starts_with("unix:///") { "url" } else { "path" })
        }
        DesiredObject::BackendTlsPolicy(policy) => {
            assert_eq!((policy.service.to_string().as_str(), &*policy.owner), ("app/svc", "uid-svc"));
            let by = match &policy.verification {
                Verification::Sds(_) => "sds".to_owned(),
                Verification::Portable(accounts) if accounts.is_empty() => "nobody".to_owned(),
                Verification::Portable(accounts) => {
                    let names: Vec<&str> = accounts.iter().map(|account| account.name()).collect();
                    names.join(",")
                }
            };
            format!("{}:{by}", if policy.only_if_there { "kept" } else { "policy" })
        }
    }
}
