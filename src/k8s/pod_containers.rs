//! What of a pod's containers counts for policies: the names of their ports, and what control planes are. Trimmed while it is
//! decoded; of variables only those that are looked for are kept.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, SeqAccess, Visitor},
};

use crate::domain::policy::{ControlPlanePod, IstiodPod, Labels, NamedPorts};

/// `spec.containers` and the like.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Container {
    name: Box<str>,
    image: Box<str>,
    ports: Vec<ContainerPort>,
    env: Variables,
    /// `Always` makes a sidecar of an init container.
    restart_policy: Option<Box<str>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ContainerPort {
    name: Box<str>,
    container_port: u16,
    protocol: Option<Box<str>>,
}

/// `status.containerStatuses`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ContainerStatus {
    name: Box<str>,
    #[serde(rename = "containerID")]
    container_id: Option<Box<str>>,
    state: State,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct State {
    running: Option<IgnoredAny>,
}

/// Of istiod, those that say whether it follows the Gateway API.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Variables {
    gateway_api: Option<Value>,
    alpha_gateway_api: Option<Value>,
}

/// Of a variable that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Value {
    True,
    False,
    /// Counts as if it were not there.
    Meaningless,
    /// It is somewhere else.
    NotSeen,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Variable {
    name: String,
    #[serde(default)]
    value: String,
    value_from: Option<IgnoredAny>,
}

/// The container that Istio puts in, among the others or as a native sidecar.
const SIDECAR: &str = "istio-proxy";
/// Where an istiod says its version, unless it declares another port.
const MONITORING: u16 = 15014;
const MONITORING_NAME: &str = "http-monitoring";

/// Its TCP ports that have names.
pub(super) fn named_ports(containers: &[Container], init: &[Container]) -> Option<NamedPorts> {
    let sidecars = init.iter().filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let ports = containers.iter().chain(sidecars).flat_map(|container| &container.ports);
    let tcp = ports.filter(|port| port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP"));
    let named: Vec<_> =
        tcp.filter(|port| !port.name.is_empty()).map(|port| (port.name.clone(), port.container_port)).collect();
    (!named.is_empty()).then(|| named.into())
}

/// What a pod is by its labels, if it is part of a control plane.
pub(super) fn control_plane(
    labels: &Labels,
    containers: &[Container],
    statuses: &[ContainerStatus],
    ip: Option<IpAddr>,
) -> Option<Box<ControlPlanePod>> {
    if labels.get("app") == Some("istiod") {
        Some(Box::new(ControlPlanePod::Istiod(istiod(containers, statuses, ip))))
    } else if labels.get("control-plane") == Some("envoy-gateway") {
        let own = named(containers, "envoy-gateway");
        let version = own.and_then(|own| tag(&own.image)).and_then(|tag| tag.parse().ok());
        Some(Box::new(ControlPlanePod::EnvoyGateway { version }))
    } else {
        None
    }
}

/// What the sidecar of a pod says of who has put it in.
pub(super) fn injected_by(
    containers: &[Container],
    init: &[Container],
    revision: Option<Box<str>>,
) -> Option<Box<ControlPlanePod>> {
    let sidecar = containers.iter().chain(init).find(|container| &*container.name == SIDECAR)?;
    let version = tag(&sidecar.image).and_then(|tag| tag.parse().ok());
    Some(Box::new(ControlPlanePod::Sidecar { revision, version }))
}

fn istiod(containers: &[Container], statuses: &[ContainerStatus], ip: Option<IpAddr>) -> IstiodPod {
    let Some(own) = named(containers, "discovery") else { return IstiodPod::default() };
    let status = statuses.iter().find(|status| status.name == own.name);
    let is_running = status.is_some_and(|status| status.state.running.is_some());
    let port =
        own.ports.iter().find(|port| &*port.name == MONITORING_NAME).map_or(MONITORING, |port| port.container_port);
    IstiodPod {
        place: ip.filter(|_| is_running).map(|ip| SocketAddr::new(ip, port)),
        instance: status.and_then(|status| status.container_id.clone()).unwrap_or_default(),
        tag: tag(&own.image).map(Into::into),
        gateway_api_off: own.env.gateway_api == Some(Value::False),
        alpha_gateway_api: matches!(own.env.alpha_gateway_api, Some(Value::True | Value::NotSeen)),
    }
}

/// The one of that name, or the only one.
fn named<'a>(containers: &'a [Container], name: &str) -> Option<&'a Container> {
    let only = || containers.first().filter(|_| containers.len() == 1);
    containers.iter().find(|container| *container.name == *name).or_else(only)
}

/// Of `HOST:PORT/NAME:TAG@DIGEST`.
fn tag(image: &str) -> Option<&str> {
    let (named, _digest) = image.split_once('@').unwrap_or((image, ""));
    let last = named.rsplit('/').next()?;
    last.split_once(':').map(|(_, tag)| tag)
}

impl Variable {
    /// As Go's `strconv.ParseBool` reads it, with which istiod does.
    fn read(&self) -> Value {
        match self.value.as_str() {
            _ if self.value_from.is_some() => Value::NotSeen,
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Value::True,
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Value::False,
            _ => Value::Meaningless,
        }
    }
}

impl<'de> Deserialize<'de> for Variables {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Each;

        impl<'de> Visitor<'de> for Each {
            type Value = Variables;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of variables")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut all: A) -> Result<Variables, A::Error> {
                let mut found = Variables::default();
                while let Some(variable) = all.next_element::<Variable>()? {
                    // of two of one name the last one counts
                    match variable.name.as_str() {
                        "PILOT_ENABLE_GATEWAY_API" => found.gateway_api = Some(variable.read()),
                        "PILOT_ENABLE_ALPHA_GATEWAY_API" => found.alpha_gateway_api = Some(variable.read()),
                        _ => {}
                    }
                }
                Ok(found)
            }
        }

        from.deserialize_seq(Each)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read<T: serde::de::DeserializeOwned>(json: &str) -> T {
        serde_json::from_str(json).unwrap()
    }

    fn istiod_with(variables: &str, state: &str) -> IstiodPod {
        let containers: Vec<Container> = read(&format!(
            r#"[{{"name": "side", "image": "x"}}, {{"name": "discovery", "image": "registry.example:5000/pilot:1.30.1-distroless@sha256:0",
                "ports": [{{"containerPort": 8080, "protocol": "TCP", "name": "http-debug"}}], "env": [{variables}]}}]"#
        ));
        let statuses: Vec<ContainerStatus> = read(&format!(
            r#"[{{"name": "side", "containerID": "no"}}, {{"name": "discovery", "containerID": "containerd://1", "state": {{{state}}}}}]"#
        ));
        let labels: Labels = [("app", "istiod")].into_iter().collect();
        match *control_plane(&labels, &containers, &statuses, Some("10.0.0.1".parse().unwrap())).unwrap() {
            ControlPlanePod::Istiod(pod) => pod,
            other @ (ControlPlanePod::EnvoyGateway { .. } | ControlPlanePod::Sidecar { .. }) => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_istiod_is_where_it_runs_and_what_its_variables_make_it() {
        let running = r#""running": {"startedAt": "2026-11-27T00:00:00Z"}"#;
        let pod = istiod_with("", running);
        assert_eq!(pod.place, Some("10.0.0.1:15014".parse().unwrap()));
        assert_eq!((&*pod.instance, pod.tag.as_deref()), ("containerd://1", Some("1.30.1-distroless")));
        assert_eq!((pod.gateway_api_off, pod.alpha_gateway_api), (false, false));
        assert_eq!(istiod_with("", r#""waiting": {"reason": "CrashLoopBackOff"}"#).place, None);
        let from = r#"{"name": "NAME", "valueFrom": {"configMapKeyRef": {"name": "x", "key": "y"}}}"#;
        for (variable, off, alpha) in [
            (r#"{"name": "NAME", "value": "false"}"#, true, false),
            (r#"{"name": "NAME", "value": "0"}"#, true, false),
            (r#"{"name": "NAME", "value": "true"}"#, false, true),
            (r#"{"name": "NAME", "value": "no"}"#, false, false),
            (r#"{"name": "NAME"}"#, false, false),
            (r#"{"name": "NAME", "value": "false"}, {"name": "NAME", "value": "true"}"#, false, true),
            (r#"{"name": "OTHER", "value": "false"}"#, false, false),
            (from, false, true),
        ] {
            let gateway_api = istiod_with(&variable.replace("NAME", "PILOT_ENABLE_GATEWAY_API"), running);
            assert_eq!(gateway_api.gateway_api_off, off, "{variable}");
            let alpha_api = istiod_with(&variable.replace("NAME", "PILOT_ENABLE_ALPHA_GATEWAY_API"), running);
            assert_eq!(alpha_api.alpha_gateway_api, alpha, "{variable}");
        }
    }

    #[test]
    fn an_istiod_may_say_its_version_at_another_port_and_have_another_container() {
        let containers: Vec<Container> = read(
            r#"[{"name": "pilot", "image": "pilot", "ports": [{"containerPort": 7, "name": "http-monitoring"}]}]"#,
        );
        let statuses: Vec<ContainerStatus> = read(r#"[{"name": "pilot", "state": {"running": {}}}]"#);
        let pod = istiod(&containers, &statuses, Some("fd00::1".parse().unwrap()));
        assert_eq!(pod.place, Some("[fd00::1]:7".parse().unwrap()));
        assert_eq!((pod.tag, &*pod.instance), (None, ""));
    }

    #[test]
    fn an_envoy_gateway_is_of_the_version_of_its_image() {
        let labels: Labels = [("control-plane", "envoy-gateway")].into_iter().collect();
        for (image, expected) in [
            ("docker.io/envoyproxy/gateway:v1.9.1", Some("1.9.1")),
            ("envoyproxy/gateway:v1.8.0-rc.1", Some("1.8.0-pre")),
            ("envoyproxy/gateway:latest", None),
            ("envoyproxy/gateway", None),
            ("registry.example:5000/gateway", None),
            ("envoyproxy/gateway@sha256:0", None),
        ] {
            let containers: Vec<Container> = read(&format!(r#"[{{"name": "envoy-gateway", "image": "{image}"}}]"#));
            let ControlPlanePod::EnvoyGateway { version } = *control_plane(&labels, &containers, &[], None).unwrap()
            else {
                panic!("an istiod");
            };
            assert_eq!(version.map(|version| version.to_string()).as_deref(), expected, "{image}");
        }
        assert_eq!(control_plane(&Labels::default(), &[], &[], None), None);
    }

    #[test]
    fn a_sidecar_is_of_the_version_of_its_image() {
        let of = |name: &str, image: &str| -> Vec<Container> {
            read(&format!(r#"[{{"name": "app", "image": "app:7"}}, {{"name": "{name}", "image": "{image}"}}]"#))
        };
        let version = |found: Option<Box<ControlPlanePod>>| match found.as_deref() {
            Some(ControlPlanePod::Sidecar { version: Some(version), .. }) => version.to_string(),
            Some(ControlPlanePod::Sidecar { version: None, .. }) => "not said".into(),
            _ => "none".into(),
        };
        assert_eq!(version(injected_by(&of("istio-proxy", "docker.io/istio/proxyv2:1.31.0"), &[], None)), "1.31.0");
        assert_eq!(
            version(injected_by(&[], &of("istio-proxy", "proxyv2:1.29.1-distroless"), None)),
            "1.29.1",
            "a native one"
        );
        assert_eq!(version(injected_by(&of("istio-proxy", "proxyv2@sha256:0"), &[], None)), "not said");
        assert_eq!(version(injected_by(&of("other", "proxyv2:1.31.0"), &[], None)), "none");
    }

    #[test]
    fn ports_are_those_of_tcp_that_have_names() {
        let containers: Vec<Container> = read(
            r#"[{"name": "a", "ports": [{"containerPort": 80, "name": "http"}, {"containerPort": 81}]},
                {"name": "b", "ports": [{"containerPort": 53, "name": "dns", "protocol": "UDP"}]}]"#,
        );
        let init: Vec<Container> = read(
            r#"[{"name": "c", "ports": [{"containerPort": 1, "name": "once"}]},
                {"name": "d", "restartPolicy": "Always", "ports": [{"containerPort": 2, "name": "side"}]}]"#,
        );
        let found = named_ports(&containers, &init).unwrap();
        assert_eq!(*found, [("http".into(), 80), ("side".into(), 2)]);
        assert_eq!(named_ports(&[], &[]), None);
    }
}
