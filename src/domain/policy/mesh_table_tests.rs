//! PeerAuthentications and what pods show; modes of ports and conditions out. One row each.

use super::{
    table_tests::{mesh_labels, pod_facts, service_facts},
    *,
};

/// Labels of the namespace; the Service, its pods and PeerAuthentications; the mode of its ports; reasons, those of the namespace
/// first. Labels that begin with `auto` are of a cluster in which pods count.
type Row = (&'static str, &'static str, &'static str, &'static str, &'static str, &'static str);

/// A PeerAuthentication is made of a name, its place (`mesh`, `ns`, `other`), labels, `t=SECONDS`, `MODE`, `PORT:MODE`. With `?`
/// none are known yet.
const ROWS: &[Row] = &[
    // who says what
    (IN, "app=a port:80/http/", POD, "?", "unknown", ""),
    (IN, "app=a port:80/http/", POD, "", "permissive", ""),
    (IN, "app=a port:80/http/", POD, "p mesh STRICT", "strict", ""),
    (IN, "app=a port:80/http/", POD, "p ns STRICT", "strict", ""),
    (IN, "app=a port:80/http/", POD, "p other STRICT", "permissive", ""),
    (IN, "app=a port:80/http/", POD, "p mesh STRICT; q ns PERMISSIVE", "permissive", ""),
    (IN, "app=a port:80/http/", POD, "p mesh STRICT; q ns UNSET", "strict", ""),
    (IN, "app=a port:80/http/", POD, "p mesh UNSET", "permissive", ""),
    (IN, "app=a port:80/http/", POD, "p mesh app=a STRICT", "permissive", ""),
    (IN, "app=a port:80/http/", POD, "p ns STRICT; q ns app=a PERMISSIVE", "permissive", ""),
    (IN, "app=a port:80/http/", POD, "p ns STRICT; q ns app=b PERMISSIVE", "strict", ""),
    (IN, "app=a port:80/http/", POD, "p ns STRICT; q ns app=a UNSET", "strict", ""),
    // the oldest of a level, and of two of one second that of the lower name
    (IN, "app=a port:80/http/", POD, "p ns t=2 STRICT; q ns t=1 PERMISSIVE", "permissive", ""),
    (IN, "app=a port:80/http/", POD, "p ns t=1 STRICT; q ns t=1 PERMISSIVE", "strict", ""),
    (IN, "app=a port:80/http/", POD, "p mesh STRICT; q ns t=1 UNSET; r ns t=2 PERMISSIVE", "strict", ""),
    (IN, "app=a port:80/http/", POD, "p ns app=a t=2 STRICT; q ns app=a t=1 PERMISSIVE", "permissive", ""),
    // ports are those of the pods
    (IN, "app=a port:80/http/", POD, "p ns STRICT 80:PERMISSIVE", "strict", ""),
    (IN, "app=a port:80/http/", POD, "p ns app=a STRICT 80:PERMISSIVE", "permissive", ""),
    (IN, "app=a port:80/http//8080", POD, "p ns app=a STRICT 80:PERMISSIVE", "strict", ""),
    (IN, "app=a port:80/http//8080", POD, "p ns app=a STRICT 8080:PERMISSIVE", "permissive", ""),
    (IN, "app=a port:80/http//web", "p app=a port:web/7", "p ns app=a STRICT 7:PERMISSIVE", "permissive", ""),
    (IN, "app=a port:80/http//web", "p app=a port:other/7", "p ns app=a STRICT 7:PERMISSIVE", "strict", ""),
    (IN, "app=a port:80/http/", POD, "p ns app=a STRICT 80:UNSET", "strict", ""),
    (IN, "app=a port:80/http/", POD, "p ns STRICT; q ns app=a 80:UNSET", "strict", ""),
    (IN, "app=a port:80/http/ port:81/http/", POD, "p ns app=a STRICT 81:PERMISSIVE", "strict permissive", ""),
    // pods of one Service that differ
    (IN, "app=a port:80/http/", "p app=a v=1; q app=a v=2", "p ns v=1 STRICT", "permissive/strict", ""),
    (IN, "app=a port:80/http/", "p app=a v=1; q app=a v=2 done", "p ns v=1 STRICT", "strict", ""),
    (IN, "app=a port:80/http/", "p app=a v=1; q app=a v=2", "p ns v=1 DISABLE", "disable/permissive", DISABLED),
    // where nobody is
    (IN, "app=a port:80/http/", "", "p ns app=a STRICT", "permissive", "NoPods"),
    (IN, "app=a port:80/http/", "", "p ns STRICT", "strict", "NoPods"),
    (IN, "slice:p port:80/http/", "p v=1", "p ns v=1 STRICT", "strict", ""),
    // refused
    (IN, "app=a port:80/http/", POD, "p mesh DISABLE", "disable", DISABLED),
    (IN, "app=a port:80/http/", POD, "p ns app=a 80:DISABLE", "disable", DISABLED),
    (IN, "app=a port:80/http/", POD, "p ns app=a 81:DISABLE", "permissive", ""),
    (IN, "app=a port:80/http/", "p app=a v=1; q app=a v=2", "p ns v=1 DISABLE; q ns v=2 DISABLE", "disable", TWICE),
    (IN, "app=a opt:disabled port:80/http/", POD, "p ns DISABLE", "disable", "OptedOut"),
    (IN, "app=a opt:disabled port:80/http/", "p app=a tls", "p ns STRICT", "strict", "OptedOut StrictButNotManaged"),
    (IN, "app=a opt:disabled port:80/http/", "p app=a", "p ns STRICT", "strict", "OptedOut"),
    // outside the mesh
    ("", "app=a port:80/http/", "p app=a tls", "p ns STRICT", "", "StrictButNotManaged"),
    ("", "app=a port:80/http/", "p app=a tls", "p mesh STRICT", "", "StrictButNotManaged"),
    ("", "app=a port:80/http/", "p app=a tls", "p ns app=a STRICT", "", "StrictButNotManaged"),
    ("", "app=a port:80/http/", "p app=a tls", "p ns app=b STRICT", "", ""),
    ("", "app=a port:80/http/", "p app=a tls", "p mesh STRICT; q ns PERMISSIVE", "", ""),
    ("", "app=a port:80/http/", "p app=a tls done", "p ns STRICT", "", ""),
    ("", "app=a port:80/http/", "p app=a", "p ns STRICT", "", ""),
    ("", "app=a port:80/http/", "p app=a tls", "?", "", ""),
    (
        "istio-injection=disabled",
        "app=a port:80/http/",
        "p app=a tls",
        "p ns STRICT",
        "",
        "InjectionDisabled StrictButNotManaged",
    ),
    // by what pods show
    ("", "app=a port:80/http/", "p app=a tls", "", "", ""),
    ("auto", "app=a port:80/http/", "p app=a tls", "", "permissive", "MemberByPods"),
    ("auto", "app=a port:80/http/", "p app=a tls; q app=a tls", "p ns STRICT", "strict", "MemberByPods"),
    ("auto", "app=a port:80/http/", "p app=a tls; q app=a", "", "", ""),
    ("auto", "app=a port:80/http/", "p app=a tls; q app=a done", "", "permissive", "MemberByPods"),
    ("auto", "app=a port:80/http/", "p app=a security.istio.io/tlsMode=disabled", "", "", ""),
    ("auto", "app=a port:80/http/", "p app=b tls", "", "", ""),
    ("auto", "external port:80/http/", "p app=a tls", "", "", ""),
    ("auto", "slice:p port:80/http/", "p tls", "", "permissive", "MemberByPods"),
    ("auto", "slice:p slice:- port:80/http/", "p tls", "", "", ""),
    ("auto", "app=a opt:disabled port:80/http/", "p app=a tls", "", "permissive", "MemberByPods OptedOut"),
    ("auto istio-injection=disabled", "app=a port:80/http/", "p app=a tls", "", "", "InjectionDisabled"),
    ("auto istio.io/rev=", "app=a port:80/http/", "p app=a tls", "", "permissive", "RevisionEmpty MemberByPods"),
    ("auto istio.io/dataplane-mode=ambient", "app=a port:80/http/", "p app=a tls", "", "", "AmbientUnsupported"),
    ("auto istio-injection=enabled", "app=a port:80/http/", "p app=a tls", "", "permissive", ""),
];

const IN: &str = "istio-injection=enabled";
const POD: &str = "p app=a";
const DISABLED: &str = "PolicyModeDisabled";
const TWICE: &str = "PolicyModeDisabled PolicyModeDisabled";

#[test]
fn each_row_comes_out_as_it_says() {
    let wrong: Vec<String> = ROWS.iter().filter_map(|row| wrong(*row)).collect();
    assert_eq!(wrong, [""; 0], "{} of {} rows", wrong.len(), ROWS.len());
}

fn wrong(row: Row) -> Option<String> {
    let (labels, service, pods, peers, modes, reasons) = row;
    let (by_pods, labels) = labels.strip_prefix("auto").map_or((false, labels), |labels| (true, labels.trim()));
    let mut index = PolicyIndex::new(PolicySettings { by_pods, ..PolicySettings::default() });
    let (facts, slices) = service_facts("ns", service);
    let each = |text: &'static str| text.split(';').map(str::trim).filter(|each| !each.is_empty());
    let istiod = pod_facts("istio-system", "istiod app=istiod istio.io/rev=default");
    let pods: Vec<PodFacts> = each(pods).map(|pod| pod_facts("ns", pod)).chain([istiod]).collect();
    let namespace = NamespaceFacts { name: "ns".into(), labels: mesh_labels(labels), all_labels: Labels::default() };
    index.apply(ClusterChange::Pods(Change::Reset(pods)));
    index.apply(ClusterChange::Slices(Change::Reset(slices.into())));
    index.apply(ClusterChange::Services(Change::Reset(vec![facts])));
    index.apply(ClusterChange::Namespaces(Change::Reset(vec![namespace])));
    if peers != "?" {
        let all = each(peers).map(peer_facts).collect();
        index.apply(ClusterChange::PeerAuthentications(Change::Reset(all)));
    }
    let snapshot = index.snapshot().unwrap();
    let (namespace, policy) = (&snapshot.namespaces["ns"], snapshot.service("ns", "svc"));
    let conditions =
        namespace.membership.conditions.iter().chain(policy.iter().flat_map(|policy| policy.conditions.iter()));
    let found_reasons: Vec<&str> = conditions.map(Condition::reason).collect();
    let ports = policy.iter().flat_map(|policy| policy.ports.iter());
    let found_modes: Vec<String> = ports.map(|port| port.peers.to_string()).collect();
    let found = (found_modes.join(" "), found_reasons.join(" "));
    (found != (modes.to_owned(), reasons.to_owned())).then(|| format!("{row:?}: {found:?}"))
}

fn peer_facts(text: &str) -> PeerAuthenticationFacts {
    let mut words = text.split(' ');
    let (name, place) = (words.next().unwrap(), words.next().unwrap());
    let namespace = if place == "mesh" { "istio-system" } else { place };
    let (mut created, mut selector, mut mode, mut ports) = (0, Vec::new(), None, Vec::new());
    for word in words {
        match (word.split_once('='), word.split_once(':')) {
            (Some(("t", seconds)), _) => created = seconds.parse().unwrap(),
            (Some(label), _) => selector.push(label),
            (None, Some((port, of_port))) => ports.push((port.parse().unwrap(), peer_mode(of_port))),
            (None, None) => mode = peer_mode(word),
        }
    }
    let (object, selector) = (ObjectName::new(namespace, name), selector.into_iter().collect());
    PeerAuthenticationFacts { object, created, selector, mode, ports: ports.into() }
}

fn peer_mode(text: &str) -> Option<PeerMode> {
    match text {
        "STRICT" => Some(PeerMode::Strict),
        "PERMISSIVE" => Some(PeerMode::Permissive),
        "DISABLE" => Some(PeerMode::Disable),
        _ => None,
    }
}

#[test]
fn what_keeps_mutual_tls_away_is_named_with_the_fix() {
    let by = Some(ObjectName::new("ns", "plain"));
    let disabled = MeshCondition::PolicyModeDisabled { ports: [80, 81].into(), pods: 1, of: 2, by: by.clone() };
    assert_eq!(
        Condition::from(disabled).to_string(),
        "PeerAuthentication ns/plain: DISABLE holds on port 80, 81 at 1 of 2 pods, where sidecars take plaintext alone: mutual TLS is \
         refused there; make the mode PERMISSIVE or STRICT, or annotate the Service countersign.io/mtls: disabled"
    );
    let strict = Condition::from(MeshCondition::StrictButNotManaged { by });
    assert!(strict.to_string().contains("a gateway sends plaintext"), "{strict}");
    assert!(strict.to_string().contains("PeerAuthentication ns/plain: STRICT refuses it"), "{strict}");
    assert_eq!((strict.reason(), strict.severity()), ("StrictButNotManaged", Severity::Error));
}

/// Istiods as `NAME NAMESPACE VERSION`, where `!` says nothing; conditions of a member.
#[test]
fn every_member_is_told_what_is_wrong_with_istio_itself() {
    for (istiods, reasons) in [
        ("a istio-system 1.31.0", ""),
        ("a istio-system 1.29.0", "UnsafeOnThisIstio"),
        ("a istio-system !", "IstioVersionUnknown"),
        ("a istio-system 1.20.0", "IstioTooOld"),
        ("a istio-system 1.20.0; b istio-system 1.29.0", "UnsafeOnThisIstio IstioTooOld"),
        ("a istio-system 1.31.0; b elsewhere 1.29.0", "IstiodElsewhere"),
        ("b elsewhere 1.29.0", "IstiodElsewhere"),
        ("b elsewhere 1.31.0", "IstiodElsewhere"),
    ] {
        let mut index = PolicyIndex::default();
        let (mut pods, mut heard) = (Vec::new(), Vec::new());
        for istiod in istiods.split("; ") {
            let words: Vec<&str> = istiod.split(' ').collect();
            let mut pod = pod_facts(words[1], &format!("{} app=istiod", words[0]));
            let place = Some("10.0.0.1:15014".parse().unwrap());
            pod.control_plane = Some(Box::new(ControlPlanePod::Istiod(IstiodPod { place, ..IstiodPod::default() })));
            let silent = IstiodVersion::Silent { why: "it hangs".into() };
            let version = words[2].parse().map_or(silent, IstiodVersion::Known);
            heard.push(IstiodReport { uid: pod.uid.clone(), version, is_unsafe: false });
            pods.push(pod);
        }
        index.apply(ClusterChange::Pods(Change::Reset(pods)));
        index.apply(ClusterChange::Slices(Change::Reset(Vec::new())));
        index.apply(ClusterChange::Services(Change::Reset(Vec::new())));
        let namespace = |name: &str, labels| NamespaceFacts {
            name: name.into(),
            labels: mesh_labels(labels),
            all_labels: Labels::default(),
        };
        let namespaces = vec![namespace("in", IN), namespace("out", "")];
        index.apply(ClusterChange::Namespaces(Change::Reset(namespaces)));
        let before = index.snapshot().unwrap();
        assert!(!before.control_planes.istio.may_write(), "{istiods}: before it was heard");
        index.apply(ClusterChange::Istiods(heard));
        let snapshot = index.snapshot().unwrap();
        let of = |name: &str| {
            let all = snapshot.namespaces[name].membership.conditions.iter();
            all.map(Condition::reason).collect::<Vec<_>>().join(" ")
        };
        assert_eq!((of("in"), of("out")), (reasons.to_owned(), String::new()), "{istiods}");
    }
}
