//! Labels, Services and pods in; mode, identities and conditions out. One row each.

use std::sync::Arc;

use super::*;
use crate::domain::identity::ServiceAccount;

/// Labels of the namespace; the Service; pods, with `;` between them; mode; accounts; reasons, those of the namespace first.
type Row = (&'static str, &'static str, &'static str, &'static str, &'static str, &'static str);

/// An istiod of revision `default` runs, unless the labels begin with `!` (none) or `REVISION!` (of that one), and there is a
/// Service of tag `stable`. A Service is made of `KEY=VALUE` (selector), `slice:POD`, `slice:POD@UID`, `slice:-` (no pod), the same with
/// `slice6` for its other address family, `external`, `port:NUMBER/NAME/APPPROTOCOL[/TARGET]`, `opt:VALUE`; a pod of a name, labels,
/// `sa:ACCOUNT`, `-` (no sidecar yet), `x` (never one), `done`, `tls` (labelled as one that speaks mutual TLS), `port:NAME/NUMBER`.
const ROWS: &[Row] = &[
    // membership by labels
    ("", "app=a", "p app=a", "not-managed", "", ""),
    ("team=x", "app=a", "p app=a", "not-managed", "", ""),
    ("istio-injection=enabled", "app=a", "p app=a sa:x", "mutual-tls", "x", ""),
    ("istio-injection=disabled", "app=a", "p app=a", "not-managed", "", "InjectionDisabled"),
    ("istio-injection=Enabled", "app=a", "p app=a sa:x", "mutual-tls", "x", "InjectionValueUnknown"),
    ("istio-injection=true", "app=a", "p app=a sa:x", "mutual-tls", "x", "InjectionValueUnknown"),
    ("istio-injection=", "app=a", "p app=a sa:x", "mutual-tls", "x", "InjectionValueUnknown"),
    ("istio.io/rev=default", "app=a", "p app=a sa:x", "mutual-tls", "x", ""),
    ("istio.io/rev=stable", "app=a", "p app=a sa:x", "mutual-tls", "x", ""),
    ("istio.io/rev=1-30", "app=a", "p app=a sa:x", "mutual-tls", "x", "RevisionNotDetected"),
    ("1-30! istio.io/rev=1-30", "app=a", "p app=a sa:x", "mutual-tls", "x", ""),
    ("1-30! istio.io/rev=stable", "app=a", "p app=a sa:x", "mutual-tls", "x", ""),
    ("1-30! istio-injection=enabled", "app=a", "p app=a sa:x", "mutual-tls", "x", "RevisionNotDetected"),
    ("istio.io/rev=", "app=a", "p app=a", "not-managed", "", "RevisionEmpty"),
    ("istio-injection=enabled istio.io/rev=1-30", "app=a", "p app=a sa:x", "mutual-tls", "x", "RevisionIgnored"),
    ("istio-injection=enabled istio.io/rev=", "app=a", "p app=a sa:x", "mutual-tls", "x", "RevisionIgnored"),
    ("istio-injection=disabled istio.io/rev=default", "app=a", "p app=a", "not-managed", "", "InjectionDisabled"),
    (
        "istio-injection=on istio.io/rev=default",
        "app=a",
        "p app=a sa:x",
        "mutual-tls",
        "x",
        "InjectionValueUnknown RevisionIgnored",
    ),
    ("istio.io/dataplane-mode=ambient", "app=a", "p app=a", "not-managed", "", "AmbientUnsupported"),
    ("istio.io/dataplane-mode=none", "app=a", "p app=a", "not-managed", "", ""),
    ("istio.io/dataplane-mode=Ambient", "app=a", "p app=a", "not-managed", "", "DataplaneModeUnknown"),
    ("istio.io/dataplane-mode=", "app=a", "p app=a", "not-managed", "", "DataplaneModeUnknown"),
    (
        "istio-injection=enabled istio.io/dataplane-mode=AMBIENT",
        "app=a",
        "p app=a sa:x",
        "mutual-tls",
        "x",
        "DataplaneModeUnknown",
    ),
    (
        "istio-injection=enabled istio.io/dataplane-mode=ambient",
        "app=a",
        "p app=a sa:x",
        "mutual-tls",
        "x",
        "AmbientUnsupported",
    ),
    ("istio-injection=enabled istio.io/dataplane-mode=none", "app=a", "p app=a sa:x", "mutual-tls", "x", ""),
    (
        "istio-injection=disabled istio.io/dataplane-mode=ambient",
        "app=a",
        "p app=a",
        "not-managed",
        "",
        "InjectionDisabled AmbientUnsupported",
    ),
    (
        "istio.io/rev= istio.io/dataplane-mode=ambient",
        "app=a",
        "p app=a",
        "not-managed",
        "",
        "RevisionEmpty AmbientUnsupported",
    ),
    ("! istio-injection=enabled", "app=a", "p app=a sa:x", "mutual-tls", "x", "IstioNotDetected"),
    ("! istio.io/rev=1-30", "app=a", "p app=a sa:x", "mutual-tls", "x", "IstioNotDetected"),
    ("! istio-injection=disabled", "app=a", "p app=a", "not-managed", "", "InjectionDisabled"),
    ("kube-system: istio-injection=enabled", "app=a", "p app=a sa:x", "mutual-tls", "x", "NamespaceNeverInjected"),
    ("kube-system:", "app=a", "p app=a", "not-managed", "", ""),
    // whom the pods run as
    ("istio-injection=enabled", "app=a", "", "mutual-tls", "", "NoPods"),
    ("istio-injection=enabled", "app=a", "p app=b", "mutual-tls", "", "NoPods"),
    ("istio-injection=enabled", "app=a", "p app=a done", "mutual-tls", "", "NoPods"),
    ("istio-injection=enabled", "app=a", "p app=a", "mutual-tls", "default", ""),
    ("istio-injection=enabled", "app=a", "p app=a sa:x; q app=a sa:y", "mutual-tls", "x y", ""),
    ("istio-injection=enabled", "app=a", "p app=a sa:x; q app=a sa:x", "mutual-tls", "x", ""),
    ("istio-injection=enabled", "app=a", "p app=a sa:y; q app=a sa:x; r app=a sa:w", "mutual-tls", "w x y", ""),
    ("istio-injection=enabled", "app=a", "p app=a sa:x; q app=a sa:y done", "mutual-tls", "x", ""),
    ("istio-injection=enabled", "app=a", "p app=a sa:x; q app=b sa:y", "mutual-tls", "x", ""),
    (
        "istio-injection=enabled",
        "app=a version=v1",
        "p app=a version=v1 sa:x; q app=a version=v2 sa:y",
        "mutual-tls",
        "x",
        "",
    ),
    ("istio-injection=enabled", "app=a version=v1", "p app=a sa:x", "mutual-tls", "", "NoPods"),
    ("istio-injection=enabled", "app=a", "p app=a-b sa:x", "mutual-tls", "", "NoPods"),
    (
        "istio-injection=enabled",
        "app=a",
        "a app=a sa:1; b app=a sa:2; c app=a sa:3; d app=a sa:4; e app=a sa:5; f app=a sa:6; g app=a sa:7; h app=a sa:8",
        "mutual-tls",
        "1 2 3 4 5 6 7 8",
        "",
    ),
    // without a selector
    ("istio-injection=enabled", "slice:p", "p app=z sa:x", "mutual-tls", "x", ""),
    ("istio-injection=enabled", "slice:p@uid-p", "p sa:x", "mutual-tls", "x", ""),
    ("istio-injection=enabled", "slice:p@uid-before", "p sa:x", "mutual-tls", "", "NoPods"),
    ("istio-injection=enabled", "slice:p slice:q", "p sa:x; q sa:y", "mutual-tls", "x y", ""),
    (
        "istio-injection=enabled",
        "slice:p slice:q slice6:p slice6:r",
        "p sa:x; q sa:y; r sa:z",
        "mutual-tls",
        "x y z",
        "",
    ),
    ("istio-injection=enabled", "slice:p slice6:-", "p sa:x", "mutual-tls", "x", "EndpointsNotPods"),
    ("istio-injection=enabled", "slice:gone", "p sa:x", "mutual-tls", "", "NoPods"),
    ("istio-injection=enabled", "slice:p", "p sa:x done", "mutual-tls", "", "NoPods"),
    ("istio-injection=enabled", "slice:-", "p sa:x", "mutual-tls", "", "EndpointsNotPods"),
    ("istio-injection=enabled", "slice:p slice:-", "p sa:x", "mutual-tls", "x", "EndpointsNotPods"),
    ("istio-injection=enabled", "", "p sa:x", "mutual-tls", "", "NoPods"),
    ("istio-injection=enabled", "app=a slice:q", "p app=a sa:x; q app=b sa:y", "mutual-tls", "x", ""),
    ("istio-injection=enabled", "external", "p sa:x", "mutual-tls", "", "ExternalName"),
    ("istio-injection=enabled", "external opt:disabled", "", "not-managed", "", "OptedOut"),
    // our annotation
    ("istio-injection=enabled", "app=a opt:disabled", "p app=a sa:x -", "not-managed", "x", "OptedOut"),
    ("istio-injection=enabled", "app=a opt:Disabled", "p app=a sa:x", "mutual-tls", "x", "OptOutUnknown"),
    ("istio-injection=enabled", "app=a opt:", "p app=a sa:x", "mutual-tls", "x", "OptOutUnknown"),
    ("", "app=a opt:disabled", "p app=a sa:x", "not-managed", "", ""),
    // sidecars
    ("istio-injection=enabled", "app=a", "p app=a sa:x -", "mutual-tls", "x", "SidecarMissing"),
    ("istio-injection=enabled", "app=a", "p app=a sa:x -; q app=a sa:x", "mutual-tls", "x", "SidecarMissing"),
    ("istio-injection=enabled", "app=a", "p app=a sa:x x", "mutual-tls", "x", "SidecarExcluded"),
    (
        "istio-injection=enabled",
        "app=a",
        "p app=a sa:x x; q app=a sa:x -",
        "mutual-tls",
        "x",
        "SidecarMissing SidecarExcluded",
    ),
    ("istio-injection=enabled", "app=a", "p app=a sa:x; q app=a sa:x - done", "mutual-tls", "x", ""),
    ("istio-injection=enabled", "app=a", "p app=a sa:x; q app=b sa:x -", "mutual-tls", "x", ""),
    // ports
    ("istio-injection=enabled", "app=a port:80/http/", "p app=a sa:x", "mutual-tls", "x", ""),
    ("istio-injection=enabled", "app=a port:80//", "p app=a sa:x", "mutual-tls", "x", "PortProtocolUndeclared"),
    (
        "istio-injection=enabled",
        "app=a port:80/http/ port:81/web/",
        "p app=a sa:x",
        "mutual-tls",
        "x",
        "PortProtocolUndeclared",
    ),
    ("istio-injection=enabled", "app=a port:80/web/http", "p app=a sa:x", "mutual-tls", "x", ""),
    (
        "istio-injection=enabled",
        "app=a port:80/http/example.com~odd",
        "p app=a sa:x",
        "mutual-tls",
        "x",
        "PortProtocolUndeclared",
    ),
    ("istio-injection=enabled", "app=a port:443/https/", "p app=a sa:x", "mutual-tls", "x", "PortSpeaksTls"),
    (
        "istio-injection=enabled",
        "app=a port:443//tls port:80/x/",
        "p app=a sa:x",
        "mutual-tls",
        "x",
        "PortProtocolUndeclared PortSpeaksTls",
    ),
    ("istio-injection=enabled", "app=a port:53//", "p app=a sa:x", "mutual-tls", "x", ""),
    (
        "istio-injection=enabled",
        "app=a port:9000/grpc/ port:80/http-web/ port:6379/redis/",
        "p app=a sa:x",
        "mutual-tls",
        "x",
        "",
    ),
    ("istio-injection=enabled", "app=a port:80// opt:disabled", "p app=a sa:x -", "not-managed", "x", "OptedOut"),
];

#[test]
fn each_row_comes_out_as_it_says() {
    assert!(ROWS.len() >= 60, "{}", ROWS.len());
    let wrong: Vec<String> = ROWS.iter().filter_map(|row| wrong(*row)).collect();
    assert_eq!(wrong, [""; 0], "{} of {} rows", wrong.len(), ROWS.len());
}

fn wrong(row: Row) -> Option<String> {
    let (labels, service, pods, mode, accounts, reasons) = row;
    let (name, labels) = labels.split_once(':').unwrap_or(("ns", labels));
    let (istiod, labels) = labels.split_once('!').unwrap_or(("default", labels));
    let mut index = PolicyIndex::default();
    let namespace = NamespaceFacts { name: name.into(), labels: mesh_labels(labels), all_labels: Labels::default() };
    let (facts, slices) = service_facts(name, service);
    let tag = RevisionTag { tag: "stable".into(), revision: "default".into() };
    let of_tag = ServiceFacts {
        object: ObjectName::new("istio-system", "istiod-revision-tag-stable"),
        uid: "".into(),
        created: 0,
        backing: Backing::Slices,
        ports: [].into(),
        opt_out: None,
        tag: Some(tag),
    };
    let mut all: Vec<PodFacts> =
        pods.split(';').filter(|pod| !pod.trim().is_empty()).map(|pod| pod_facts(name, pod)).collect();
    if !istiod.is_empty() {
        all.push(pod_facts("istio-system", &format!("istiod app=istiod istio.io/rev={istiod}")));
    }
    index.apply(ClusterChange::Pods(Change::Reset(all)));
    index.apply(ClusterChange::Slices(Change::Reset(slices.into())));
    index.apply(ClusterChange::Services(Change::Reset(vec![facts, of_tag])));
    index.apply(ClusterChange::Namespaces(Change::Reset(vec![namespace])));
    let snapshot = index.snapshot().unwrap();
    let (namespace, policy) = (&snapshot.namespaces[name], snapshot.service(name, "svc"));
    let conditions =
        namespace.membership.conditions.iter().chain(policy.iter().flat_map(|policy| policy.conditions.iter()));
    let found_reasons: Vec<&str> = conditions.clone().map(Condition::reason).collect();
    for condition in conditions {
        assert!(condition.to_string().len() > 20, "{condition:?} says nothing");
    }
    let found_mode = policy.map_or(namespace.membership.mode, |policy| policy.mode);
    let found: Vec<&str> = policy.iter().flat_map(|policy| policy.accounts.iter().map(ServiceAccount::name)).collect();
    let found = (found_mode.as_str(), found.join(" "), found_reasons.join(" "));
    (found != (mode, accounts.to_owned(), reasons.to_owned())).then(|| format!("{row:?}: {found:?}"))
}

pub(super) fn mesh_labels(text: &str) -> MeshLabels {
    let value = |key: &str| text.split(' ').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('=')).map(Into::into);
    MeshLabels {
        injection: value("istio-injection"),
        revision: value("istio.io/rev"),
        dataplane: value("istio.io/dataplane-mode"),
    }
}

pub(super) fn service_facts(namespace: &str, text: &str) -> (ServiceFacts, [SliceFacts; 2]) {
    let (mut selector, mut endpoints, mut ports, mut opt_out) =
        (Vec::new(), [Vec::new(), Vec::new()], Vec::new(), None);
    for word in text.split(' ').filter(|word| !word.is_empty() && *word != "external") {
        match word.split_once(':') {
            Some((slice @ ("slice" | "slice6"), pod)) => {
                let (name, uid) = pod.split_once('@').map_or((pod, None), |(name, uid)| (name, Some(uid.into())));
                let endpoint = match name {
                    "-" => SliceEndpoint::Other,
                    name => SliceEndpoint::Pod { name: name.into(), uid },
                };
                endpoints[usize::from(slice == "slice6")].push(endpoint);
            }
            Some(("port", port)) => {
                let parts: Vec<&str> = port.split('/').collect();
                let app_protocol =
                    Some(parts[2]).filter(|said| !said.is_empty()).map(|said| said.replace('~', "/").into());
                let number = parts[0].parse().unwrap();
                let target = match parts.get(3) {
                    Some(target) => target.parse().map_or(TargetPort::Name((*target).into()), TargetPort::Number),
                    None => TargetPort::Number(number),
                };
                ports.push(PortFacts { name: parts[1].into(), number, app_protocol, target });
            }
            Some(("opt", value)) => opt_out = Some(value.into()),
            _ => selector.push(word.split_once('=').unwrap()),
        }
    }
    let backing = match selector {
        _ if text.contains("external") => Backing::ExternalName,
        selector if selector.is_empty() => Backing::Slices,
        selector => Backing::Selector(selector.into_iter().collect()),
    };
    let object = ObjectName::new(namespace, "svc");
    let [own, other] = endpoints;
    let slice = |name: &str, endpoints: Vec<SliceEndpoint>| SliceFacts {
        object: ObjectName::new(namespace, name),
        service: Some("svc".into()),
        endpoints: endpoints.into(),
    };
    let slices = [slice("slice", own), slice("slice6", other)];
    (
        ServiceFacts { object, uid: "uid-svc".into(), created: 0, backing, ports: ports.into(), opt_out, tag: None },
        slices,
    )
}

pub(super) fn pod_facts(namespace: &str, text: &str) -> PodFacts {
    let mut words = text.split(' ').filter(|word| !word.is_empty());
    let name = words.next().unwrap();
    let mut facts = PodFacts {
        object: ObjectName::new(namespace, name),
        uid: format!("uid-{name}").into(),
        labels: Arc::default(),
        account: format!("{namespace}/default").parse().unwrap(),
        finished: false,
        sidecar: Sidecar::Injected,
        ready_at: None,
        named_ports: None,
        control_plane: None,
    };
    let mut labels = Vec::new();
    for word in words {
        match word {
            "done" => facts.finished = true,
            "-" => facts.sidecar = Sidecar::Missing,
            "x" => facts.sidecar = Sidecar::Excluded,
            "app=istiod" => {
                labels.push(("app", "istiod"));
                facts.control_plane = Some(Box::new(ControlPlanePod::Istiod(IstiodPod::default())));
            }
            "tls" => labels.push(("security.istio.io/tlsMode", "istio")),
            _ if word.starts_with("port:") => {
                let (name, number) = word["port:".len()..].split_once('/').unwrap();
                facts.named_ports = Some([(name.into(), number.parse().unwrap())].into());
            }
            _ => match word.strip_prefix("sa:") {
                Some(account) => facts.account = format!("{namespace}/{account}").parse().unwrap(),
                None => labels.push(word.split_once('=').unwrap()),
            },
        }
    }
    facts.labels = Arc::new(labels.into_iter().collect());
    facts
}
