//! Whatever order things are seen in, the end is the same.

use proptest::prelude::*;

use super::*;
use crate::domain::policy::{
    Backing, ControlPlanePod, IstiodPod, IstiodVersion, Labels, MtlsMode, PeerMode, PortFacts, Release, Sidecar,
    SliceEndpoint, TargetPort,
};

/// A small cluster that changes: what is there, by kind.
#[derive(Clone, Debug, Default)]
struct World {
    namespaces: BTreeMap<u8, NamespaceFacts>,
    services: BTreeMap<(u8, u8), ServiceFacts>,
    pods: BTreeMap<(u8, u8), PodFacts>,
    slices: BTreeMap<(u8, u8), SliceFacts>,
    peers: BTreeMap<(u8, u8), PeerAuthenticationFacts>,
    /// By UID.
    heard: BTreeMap<Box<str>, IstiodVersion>,
}

/// Kinds of objects; what was heard of istiods is the last of them.
const KINDS: u8 = 6;

/// What happens in it: (kind, namespace, object, variant); the variant 0 deletes.
type Step = (u8, u8, u8, u8);

impl World {
    /// What is seen of a step.
    fn take(&mut self, (kind, namespace, object, variant): Step) -> ClusterChange {
        let at = (namespace, object);
        match (kind, variant) {
            (0, 0) => {
                self.namespaces.remove(&namespace);
                ClusterChange::Namespaces(Change::Gone(name('n', namespace)))
            }
            (0, _) => ClusterChange::Namespaces(Change::Put(put(
                &mut self.namespaces,
                namespace,
                labelled(namespace, variant),
            ))),
            (1, 0) => {
                self.services.remove(&at);
                ClusterChange::Services(Change::Gone(object_name(namespace, 's', object)))
            }
            (1, _) => ClusterChange::Services(Change::Put(put(&mut self.services, at, service(at, variant)))),
            (2, 0) => {
                self.pods.remove(&at);
                ClusterChange::Pods(Change::Gone(object_name(namespace, 'p', object)))
            }
            (2, _) => ClusterChange::Pods(Change::Put(put(&mut self.pods, at, pod(at, variant)))),
            (3, 0) => {
                self.slices.remove(&at);
                ClusterChange::Slices(Change::Gone(object_name(namespace, 'e', object)))
            }
            (3, _) => ClusterChange::Slices(Change::Put(put(&mut self.slices, at, slice(at, variant)))),
            (4, 0) => {
                self.peers.remove(&at);
                ClusterChange::PeerAuthentications(Change::Gone(object_name(namespace, 'a', object)))
            }
            (4, _) => ClusterChange::PeerAuthentications(Change::Put(put(&mut self.peers, at, peers(at, variant)))),
            _ => {
                let version = match variant % 4 {
                    0 => IstiodVersion::Asked,
                    1 => IstiodVersion::Silent { why: "no answer".into() },
                    even => IstiodVersion::Known(Release::new(1, 28 + u16::from(even), 0)),
                };
                // pods of istiod are of variant 7, which is their UID too
                self.heard.insert(if variant < 6 { "7" } else { "6" }.into(), version);
                self.list(5)
            }
        }
    }

    /// What a list of one kind says.
    fn list(&self, kind: u8) -> ClusterChange {
        match kind {
            0 => ClusterChange::Namespaces(Change::Reset(self.namespaces.values().cloned().collect())),
            1 => ClusterChange::Services(Change::Reset(self.services.values().cloned().collect())),
            2 => ClusterChange::Pods(Change::Reset(self.pods.values().cloned().collect())),
            3 => ClusterChange::Slices(Change::Reset(self.slices.values().cloned().collect())),
            4 => ClusterChange::PeerAuthentications(Change::Reset(self.peers.values().cloned().collect())),
            _ => {
                let heard = self.heard.iter();
                let reports = heard.map(|(uid, version)| IstiodReport {
                    uid: uid.clone(),
                    version: version.clone(),
                    is_unsafe: matches!(version, IstiodVersion::Silent { .. }),
                });
                ClusterChange::Istiods(reports.collect())
            }
        }
    }

    /// What one who has just started sees, in one order of kinds or another.
    fn seen_anew(&self, first: u8) -> Arc<PolicySnapshot> {
        let mut index = index();
        (0..KINDS).for_each(|kind| index.apply(self.list((kind + first) % KINDS)));
        index.snapshot().unwrap()
    }
}

/// Istio is in one of the namespaces, and pods count.
fn index() -> PolicyIndex {
    PolicyIndex::new(PolicySettings {
        istio_namespace: "n0".into(),
        envoy_gateway_namespace: "n1".into(),
        by_pods: true,
    })
}

fn put<K: Ord, V: Clone>(map: &mut BTreeMap<K, V>, key: K, value: V) -> V {
    map.insert(key, value.clone());
    value
}

fn name(kind: char, number: u8) -> Arc<str> {
    format!("{kind}{number}").into()
}

fn object_name(namespace: u8, kind: char, number: u8) -> ObjectName {
    ObjectName { namespace: name('n', namespace), name: name(kind, number) }
}

fn labelled(namespace: u8, variant: u8) -> NamespaceFacts {
    let label = |value: &str| Some(value.into());
    let labels = match variant % 5 {
        0 => MeshLabels { injection: label("enabled"), ..MeshLabels::default() },
        1 => MeshLabels { revision: label("canary"), ..MeshLabels::default() },
        2 => MeshLabels { injection: label("disabled"), ..MeshLabels::default() },
        3 => MeshLabels { dataplane: label("ambient"), ..MeshLabels::default() },
        _ => MeshLabels::default(),
    };
    NamespaceFacts { name: name('n', namespace), labels, all_labels: Labels::default() }
}

fn service((namespace, number): (u8, u8), variant: u8) -> ServiceFacts {
    let app = (variant % 3).to_string();
    let backing = match variant % 4 {
        0 => Backing::Slices,
        1 if variant > 4 => Backing::ExternalName,
        _ => Backing::Selector([("app", app.as_str())].into_iter().collect()),
    };
    let opt_out = (variant == 7).then(|| "disabled".into());
    let tag = (variant == 6).then(|| super::super::RevisionTag { tag: "canary".into(), revision: "1-30".into() });
    let target = if variant.is_multiple_of(2) { TargetPort::Number(1) } else { TargetPort::Name("web".into()) };
    let port_name = if (variant + number).is_multiple_of(2) { "http" } else { "grpc" };
    let port = PortFacts { name: port_name.into(), number: 80, app_protocol: None, target };
    ServiceFacts {
        object: object_name(namespace, 's', number),
        uid: (variant % 2).to_string().into(),
        created: i64::from((variant / 2 + number) % 2),
        backing,
        ports: [port].into(),
        opt_out,
        tag,
    }
}

fn pod((namespace, number): (u8, u8), variant: u8) -> PodFacts {
    let app = if variant == 7 { "istiod".to_owned() } else { (variant % 3).to_string() };
    let tls = if variant > 2 { "istio" } else { "disabled" };
    let place = (number > 0).then(|| "10.0.0.1:15014".parse().unwrap());
    let control_plane = match variant {
        5 => Some(ControlPlanePod::EnvoyGateway { version: (number > 0).then(|| Release::new(1, number.into(), 0)) }),
        7 => Some(ControlPlanePod::Istiod(IstiodPod { place, ..IstiodPod::default() })),
        2 | 4 => {
            let version = (number > 0).then(|| Release::new(1, 28 + u16::from(variant), 0));
            Some(ControlPlanePod::Sidecar { revision: (number > 1).then(|| "canary".into()), version })
        }
        _ => None,
    };
    PodFacts {
        object: object_name(namespace, 'p', number),
        uid: variant.to_string().into(),
        labels: Arc::new([("app", app.as_str()), ("security.istio.io/tlsMode", tls)].into_iter().collect()),
        account: format!("n{namespace}/a{}", variant % 2).parse().unwrap(),
        finished: variant == 6,
        sidecar: if variant.is_multiple_of(2) { Sidecar::Injected } else { Sidecar::Missing },
        ready_at: None,
        named_ports: (variant > 3).then(|| [("web".into(), u16::from(variant))].into()),
        control_plane: control_plane.map(Box::new),
    }
}

fn peers((namespace, number): (u8, u8), variant: u8) -> PeerAuthenticationFacts {
    let mode = |variant: u8| match variant % 4 {
        0 => None,
        1 => Some(PeerMode::Disable),
        2 => Some(PeerMode::Permissive),
        _ => Some(PeerMode::Strict),
    };
    let app = (variant % 3).to_string();
    PeerAuthenticationFacts {
        object: object_name(namespace, 'a', number),
        created: i64::from(variant % 2),
        selector: if variant > 4 { [("app", app.as_str())].into_iter().collect() } else { Default::default() },
        mode: mode(variant),
        ports: [(1, mode(variant + 1)), (5, mode(variant + 2))].into(),
    }
}

fn slice((namespace, number): (u8, u8), variant: u8) -> SliceFacts {
    let named = |pod: u8| SliceEndpoint::Pod {
        name: format!("p{pod}").into(),
        uid: (variant > 4).then(|| variant.to_string().into()),
    };
    SliceFacts {
        object: object_name(namespace, 'e', number),
        service: (variant != 7).then(|| format!("s{}", variant % 3).into()),
        endpoints: [named(variant % 4), SliceEndpoint::Other].into(),
    }
}

fn steps(most: usize) -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec((0..KINDS, 0u8..3, 0u8..3, 0u8..8), 0..most)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    /// Steps, with lists in between, and looks at what comes out at any time.
    #[test]
    fn whatever_was_seen_the_end_is_that_of_a_fresh_start(
        before in steps(20),
        first in 0u8..4,
        steps in prop::collection::vec((any::<prop::sample::Index>(), 0u8..8, (0..KINDS, 0u8..3, 0u8..3, 0u8..8)), 0..60),
    ) {
        let mut world = World::default();
        before.into_iter().for_each(|step| drop(world.take(step)));
        let mut index = index();
        for kind in 0..4 {
            prop_assert!(index.snapshot().is_none(), "before everything was listed");
            index.apply(world.list((kind + first) % 4));
        }
        (4..KINDS).for_each(|kind| index.apply(world.list(kind)));
        let mut read = index.snapshot().unwrap();
        for (_, what, step) in steps {
            // a list that is late by a step is followed by that step again, as a watch from its version is
            match what {
                0..2 => index.apply(world.list(step.0)),
                2 => {
                    let stale = world.list(step.0);
                    index.apply(world.take(step));
                    index.apply(stale);
                    index.apply(world.list(step.0));
                }
                3..6 => {
                    index.apply(world.take(step));
                    let new = index.snapshot().unwrap();
                    if new == read {
                        prop_assert!(Arc::ptr_eq(&new, &read), "nothing has changed, and yet there is a new one");
                    } else {
                        prop_assert_eq!(new.revision, read.revision + 1);
                    }
                    read = apart(&read, &new);
                }
                _ => index.apply(world.take(step)),
            }
        }
        let end = index.snapshot().unwrap();
        prop_assert_eq!(&end, &world.seen_anew(first));
        prop_assert!(Arc::ptr_eq(&end, &index.snapshot().unwrap()));
    }

    /// Who follows changes knows what who reads everything knows.
    #[test]
    fn changes_lead_from_any_snapshot_to_any_later_one(before in steps(30), after in steps(30)) {
        let mut world = World::default();
        before.into_iter().for_each(|step| drop(world.take(step)));
        let old = world.seen_anew(0);
        after.into_iter().for_each(|step| drop(world.take(step)));
        let new = world.seen_anew(1);
        let changes = new.changes_since(&old);
        let mut services: BTreeMap<_, _> = old.services().map(|policy| (policy.service.clone(), Arc::clone(policy))).collect();
        for gone in &changes.services_gone {
            prop_assert!(services.remove(gone).is_some(), "{gone} was not there");
        }
        services.extend(changes.services.iter().map(|policy| (policy.service.clone(), Arc::clone(policy))));
        prop_assert!(services.values().eq(new.services()));
        let mut heads: BTreeMap<_, _> = old.namespaces.iter().map(|(name, of)| (Arc::clone(name), of.membership.clone())).collect();
        changes.namespaces_gone.iter().for_each(|name| drop(heads.remove(name)));
        heads.extend(changes.namespaces.iter().map(|of| (Arc::clone(&of.name), of.membership.clone())));
        prop_assert!(heads.into_iter().eq(new.namespaces.iter().map(|(name, of)| (Arc::clone(name), of.membership.clone()))));
    }
}

/// `new`, after it was made sure that what has not changed is shared with `old`.
fn apart(old: &PolicySnapshot, new: &Arc<PolicySnapshot>) -> Arc<PolicySnapshot> {
    for policy in new.services() {
        if let Some(before) = old.service(&policy.service.namespace, &policy.service.name) {
            assert_eq!(
                before == policy,
                Arc::ptr_eq(before, policy),
                "{}: worked out again for nothing",
                policy.service
            );
        }
    }
    Arc::clone(new)
}

#[test]
fn a_pod_of_one_namespace_leaves_every_other_as_it_is() {
    let mut world = World::default();
    for namespace in 0..2 {
        drop(world.take((0, namespace, 0, 5)));
        drop(world.take((1, namespace, 0, 1)));
    }
    let mut index = PolicyIndex::default();
    (0..KINDS).for_each(|kind| index.apply(world.list(kind)));
    let old = index.snapshot().unwrap();
    assert_eq!(old.service("n0", "s0").unwrap().mode, MtlsMode::Required);
    index.apply(world.take((2, 0, 0, 1)));
    let new = index.snapshot().unwrap();
    assert_eq!(new.service("n0", "s0").unwrap().accounts.len(), 1);
    assert!(Arc::ptr_eq(&old.namespaces["n1"], &new.namespaces["n1"]));
    assert_eq!(new.revision, 2);
}

#[test]
fn a_preview_shows_what_a_label_would_do_and_changes_nothing() {
    let mut world = World::default();
    drop(world.take((0, 0, 0, 4)));
    drop(world.take((1, 0, 0, 1)));
    drop(world.take((2, 0, 0, 1)));
    let mut index = PolicyIndex::default();
    (0..KINDS).for_each(|kind| index.apply(world.list(kind)));
    let before = index.snapshot().unwrap();
    assert_eq!(before.services().count(), 0);
    let labels = MeshLabels { injection: Some("enabled".into()), ..MeshLabels::default() };
    let preview = index.preview("n0", labels.clone()).unwrap();
    let reasons: Vec<_> = preview.services["s0"].conditions.iter().map(super::super::Condition::reason).collect();
    assert_eq!(reasons, ["SidecarMissing"]);
    assert_eq!(index.preview("elsewhere", labels.clone()), None);
    assert!(Arc::ptr_eq(&before, &index.snapshot().unwrap()));
    index.apply(ClusterChange::Namespaces(Change::Put(NamespaceFacts {
        name: "n0".into(),
        labels,
        all_labels: Labels::default(),
    })));
    assert_eq!(*index.snapshot().unwrap().namespaces["n0"], preview);
}
