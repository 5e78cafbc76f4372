//! The pods of control planes, and what istiods among them said.

use std::collections::{BTreeMap, BTreeSet};

use crate::domain::policy::{
    Condition, ControlPlanePod, ControlPlanes, GatewayApiSafety, IstiodPod, IstiodReport, Labels, MeshCondition,
    ObjectName, PodFacts, PolicySettings, Release, SeenIstiod,
    istio_version::{safety_beside, safety_without, too_old},
};

const DEFAULT_REVISION: &str = "default";

/// Those that have not finished, and pods with sidecars.
#[derive(Debug, Default)]
pub(super) struct ControlPlanePods {
    istiods: BTreeMap<ObjectName, Istiod>,
    envoy_gateways: BTreeMap<ObjectName, Option<Release>>,
    /// With the revisions of whoever has put them in.
    sidecars: BTreeMap<ObjectName, (Option<Box<str>>, Option<Release>)>,
    /// By UID; of pods that left a short while ago, too.
    heard: BTreeMap<Box<str>, IstiodReport>,
}

#[derive(Debug)]
struct Istiod {
    revision: Box<str>,
    uid: Box<str>,
    pod: IstiodPod,
}

impl ControlPlanePods {
    pub(super) fn put(&mut self, facts: &PodFacts) {
        self.remove(&facts.object);
        if facts.finished {
            return;
        }
        let object = facts.object.clone();
        match facts.control_plane.as_deref() {
            None => {}
            Some(ControlPlanePod::Istiod(pod)) => {
                let revision = revision_of(&facts.labels).into();
                self.istiods.insert(object, Istiod { revision, uid: facts.uid.clone(), pod: pod.clone() });
            }
            Some(ControlPlanePod::EnvoyGateway { version }) => drop(self.envoy_gateways.insert(object, *version)),
            Some(ControlPlanePod::Sidecar { revision, version }) => {
                self.sidecars.insert(object, (revision.clone(), *version));
            }
        }
    }

    pub(super) fn remove(&mut self, object: &ObjectName) {
        self.istiods.remove(object);
        self.envoy_gateways.remove(object);
        self.sidecars.remove(object);
    }

    /// All that was heard, in place of what was known.
    pub(super) fn hear(&mut self, reports: Vec<IstiodReport>) {
        self.heard = reports.into_iter().map(|report| (report.uid.clone(), report)).collect();
    }

    /// Of every istiod, wherever it is.
    pub(super) fn revisions(&self) -> BTreeSet<Box<str>> {
        self.istiods.values().map(|istiod| istiod.revision.clone()).collect()
    }

    /// What runs where it is expected to: anybody may give a pod of his own the labels of a control plane, and would have a say
    /// otherwise.
    pub(super) fn seen(&self, settings: &PolicySettings) -> ControlPlanes {
        let namespace = &*settings.istio_namespace;
        let expected = self.istiods.iter().filter(|(object, _)| *object.namespace == *namespace);
        let istiods: Box<[SeenIstiod]> = expected
            .map(|(object, Istiod { revision, uid, pod })| SeenIstiod {
                object: object.clone(),
                uid: uid.clone(),
                revision: revision.clone(),
                pod: pod.clone(),
                version: self.heard.get(uid).map(|report| report.version.clone()).unwrap_or_default(),
            })
            .collect();
        // None is lower than every version
        let is_expected = |object: &ObjectName| *object.namespace == *settings.envoy_gateway_namespace;
        let envoy_gateways = self.envoy_gateways.iter().filter(|(object, _)| is_expected(object));
        let envoy_gateway = envoy_gateways.map(|(_, version)| *version).min().flatten();
        let istio = if istiods.is_empty() { self.safety_without() } else { safety_beside(&istiods, self.left()) };
        ControlPlanes { istio, envoy_gateway, istiods }
    }

    /// With none in Istio's namespace: all there are, are elsewhere.
    fn safety_without(&self) -> GatewayApiSafety {
        let concerned = self.istiods.iter().find(|(_, istiod)| !istiod.pod.gateway_api_off);
        safety_without(self.left(), concerned.map(|(object, _)| object), self.newest_sidecars())
    }

    /// Of each revision.
    fn newest_sidecars(&self) -> BTreeMap<&str, Option<Release>> {
        let mut newest: BTreeMap<&str, Option<Release>> = BTreeMap::new();
        for (revision, version) in self.sidecars.values() {
            let known = newest.entry(revision.as_deref().unwrap_or(DEFAULT_REVISION)).or_default();
            *known = (*known).max(*version);
        }
        newest
    }

    /// Those that were heard of and are not there any more.
    fn left(&self) -> impl Iterator<Item = &IstiodReport> {
        let are_there: BTreeSet<&str> = self.istiods.values().map(|istiod| &*istiod.uid).collect();
        self.heard.values().filter(move |report| !are_there.contains(&*report.uid))
    }

    /// What is worth knowing of it in each namespace of the mesh.
    pub(super) fn conditions(&self, seen: &ControlPlanes, namespace: &str) -> Vec<Condition> {
        let unsafe_to_write = match seen.istio.clone() {
            GatewayApiSafety::Safe | GatewayApiSafety::Settling | GatewayApiSafety::Elsewhere { .. } => None,
            GatewayApiSafety::Unsafe { pod, version } => Some(MeshCondition::UnsafeOnThisIstio { pod, version }),
            GatewayApiSafety::Unseen { revision, newest } => Some(MeshCondition::IstiodUnseen { revision, newest }),
            GatewayApiSafety::Unknown { pod, why, tag } => Some(MeshCondition::IstioVersionUnknown { pod, why, tag }),
        };
        let too_old = too_old(&seen.istiods).map(|(pod, version)| MeshCondition::IstioTooOld { pod, version });
        let elsewhere = self.istiods.keys().find(|object| *object.namespace != *namespace);
        let elsewhere = elsewhere.map(|pod| MeshCondition::IstiodElsewhere {
            pod: pod.clone(),
            expected: namespace.into(),
            decides: matches!(seen.istio, GatewayApiSafety::Elsewhere { .. }),
        });
        [unsafe_to_write, too_old, elsewhere].into_iter().flatten().map(Condition::from).collect()
    }
}

fn revision_of(istiod: &Labels) -> &str {
    istiod.get("istio.io/rev").unwrap_or(DEFAULT_REVISION)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::policy::Sidecar;

    fn of(pods: &[(&str, ControlPlanePod)]) -> ControlPlanePods {
        let mut all = ControlPlanePods::default();
        for (number, (namespace, control_plane)) in pods.iter().enumerate() {
            all.put(&PodFacts {
                object: ObjectName::new(namespace, &number.to_string()),
                uid: number.to_string().into(),
                labels: std::sync::Arc::new(Labels::default()),
                account: format!("{namespace}/default").parse().unwrap(),
                finished: false,
                sidecar: Sidecar::Injected,
                ready_at: None,
                named_ports: None,
                control_plane: Some(Box::new(control_plane.clone())),
            });
        }
        all
    }

    fn envoy_gateway(version: &str) -> ControlPlanePod {
        ControlPlanePod::EnvoyGateway { version: version.parse().ok() }
    }

    fn sidecar(revision: &str, version: &str) -> ControlPlanePod {
        ControlPlanePod::Sidecar {
            revision: (revision != DEFAULT_REVISION).then(|| revision.into()),
            version: version.parse().ok(),
        }
    }

    #[test]
    fn an_envoy_gateway_has_a_say_where_it_is_expected_alone() {
        let own = "envoy-gateway-system";
        for (pods, expected) in [
            (vec![(own, envoy_gateway("1.9.1")), ("team", envoy_gateway("1.5.0"))], Some("1.9.1")),
            (vec![(own, envoy_gateway("1.9.1")), ("team", envoy_gateway("latest"))], Some("1.9.1")),
            (vec![(own, envoy_gateway("1.9.1")), (own, envoy_gateway("1.8.0"))], Some("1.8.0")),
            (vec![(own, envoy_gateway("1.9.1")), (own, envoy_gateway("latest"))], None),
            (vec![("team", envoy_gateway("1.9.1"))], None),
        ] {
            let seen = of(&pods).seen(&PolicySettings::default());
            assert_eq!(seen.envoy_gateway.map(|version| version.to_string()).as_deref(), expected, "{pods:?}");
        }
    }

    /// Anybody can make such a pod, and would else take the policies away from everybody.
    #[test]
    fn a_pod_that_calls_itself_istiod_in_a_namespace_of_its_own_takes_nothing_away() {
        let istiod = || ControlPlanePod::Istiod(IstiodPod::default());
        for pods in [
            vec![("team", istiod())],
            vec![("team", istiod()), ("shop", sidecar("default", "1.31.0"))],
            vec![("team", istiod()), ("shop", sidecar("default", "1.29.0"))],
        ] {
            let all = of(&pods);
            let seen = all.seen(&PolicySettings::default());
            assert!(!seen.istio.must_remove() && !seen.istio.may_write(), "{pods:?}: {:?}", seen.istio);
            let said: Vec<String> = all.conditions(&seen, "istio-system").iter().map(ToString::to_string).collect();
            assert!(matches!(&said[..], [one] if one.contains("--istio-namespace team")), "{said:?}");
        }
    }

    #[test]
    fn the_newest_sidecar_of_each_revision_counts_and_the_oldest_of_those_decides() {
        for (sidecars, is_safe) in [
            (vec![sidecar("default", "1.29.0"), sidecar("default", "1.31.0")], true),
            (vec![sidecar("default", "1.31.0"), sidecar("canary", "1.29.0")], false),
            (vec![sidecar("default", "1.31.0"), sidecar("canary", "?")], false),
        ] {
            let pods: Vec<_> = sidecars.into_iter().map(|sidecar| ("shop", sidecar)).collect();
            let seen = of(&pods).seen(&PolicySettings::default());
            assert_eq!(seen.istio.may_write(), is_safe, "{pods:?}: {:?}", seen.istio);
        }
    }
}
