//! What the words of a row stand for.

use super::*;
use crate::domain::policy::{
    Change, IdentitySet, Labels, MeshLabels, NamespaceFacts, ObjectName, PortFacts, TargetPort, Upstream,
};

pub(super) fn namespace(name: &str, labels: &str) -> NamespaceFacts {
    let labels: Labels = labels
        .split_whitespace()
        .filter(|word| *word != "none")
        .map(|word| if word == "mesh" { "istio-injection=enabled" } else { word })
        .filter_map(|word| word.split_once('='))
        .collect();
    let of = |key: &str| labels.get(key).map(Into::into);
    let mesh = MeshLabels {
        injection: of("istio-injection"),
        revision: of("istio.io/rev"),
        dataplane: of("istio.io/dataplane-mode"),
    };
    NamespaceFacts { name: name.into(), labels: mesh, all_labels: labels }
}

pub(super) fn ports<'a>(words: impl Iterator<Item = &'a str>) -> Box<[PortFacts]> {
    let port = |word: &str| {
        let parts: Vec<&str> = word.split('/').collect();
        let app_protocol = parts.get(2).map(|said| said.replace('~', "/").into());
        let number = parts[1].parse().unwrap();
        PortFacts { name: parts[0].into(), number, app_protocol, target: TargetPort::Number(number) }
    };
    words.map(port).collect()
}

pub(super) fn gateway(name: &str, class: &str, words: &[&str]) -> GatewayFacts {
    let value = |key: &str| words.iter().find_map(|word| word.strip_prefix(key));
    GatewayFacts {
        object: ObjectName::new(value("in=").unwrap_or("infra"), name),
        uid: "u".into(),
        class: class.into(),
        listeners: [listener(words)].into(),
        takes_sets: words.contains(&"sets").then_some(Admits::Same),
        parameters: value("ep=").map(Into::into),
        client_certificate: words.contains(&"cert"),
    }
}

pub(super) fn listener(words: &[&str]) -> ListenerFacts {
    let selector = |labels: &[(&str, &str)], requirements: Vec<Requirement>| {
        let labels = labels.iter().copied().collect();
        Admits::Selector(NamespaceSelector { labels, requirements: requirements.into() })
    };
    let admits = match words.first().copied().unwrap_or("all") {
        "all" => Admits::All,
        "same" => Admits::Same,
        word => match (word.split_once("!="), word.split_once('='), word.strip_prefix('!')) {
            (Some((key, value)), ..) => selector(&[], vec![Requirement::NotIn(key.into(), [value.into()].into())]),
            (_, Some(pair), _) => selector(&[pair], Vec::new()),
            (.., Some(key)) => selector(&[], vec![Requirement::DoesNotExist(key.into())]),
            _ => selector(&[], vec![Requirement::Exists(word.into())]),
        },
    };
    let protocol = if words.contains(&"tcp") { "TCP" } else { "HTTP" };
    ListenerFacts { name: "main".into(), port: 80, routes: RouteKinds::of(protocol, []), admits }
}

pub(super) fn route(name: &str, words: &[&str]) -> RouteFacts {
    let (namespace, name) = name.split_once('/').unwrap();
    let at = words.iter().position(|word| *word == ">").unwrap();
    let parent = |word: &&str| {
        let word = &word[1..];
        let (rest, port) = word.split_once(':').map_or((word, None), |(rest, port)| (rest, port.parse().ok()));
        let (rest, section) = rest.split_once('#').map_or((rest, None), |(rest, name)| (rest, Some(name.into())));
        let parent = match rest.strip_prefix("set/") {
            Some(set) => Parent::ListenerSet(ObjectName::new("infra", set)),
            None => Parent::Gateway(ObjectName::new("infra", rest)),
        };
        ParentFacts { parent, section, port }
    };
    let backend = |word: &&str| match word.strip_prefix("b:") {
        Some(name) => RouteBackend::EnvoyBackend(ObjectName::new("app", name)),
        None => {
            let (name, port) = word.split_once(':').map_or((*word, None), |(name, port)| (name, port.parse().ok()));
            let (namespace, name) = name.split_once('/').unwrap_or(("app", name));
            RouteBackend::Service(ObjectName::new(namespace, name), port)
        }
    };
    RouteFacts {
        object: ObjectName::new(namespace, name),
        parents: words[..at].iter().map(parent).collect(),
        backends: words[at + 1..].iter().map(backend).collect(),
    }
}

pub(super) fn attached(name: &str, words: &[&str]) -> AttachedPolicyFacts {
    let (namespace, name) = name.split_once('/').unwrap();
    let at = words.iter().position(|word| *word == ">").unwrap();
    let attachment = |word: &&str| {
        let (kind, name) = word.split_once('=').unwrap();
        let kind = match kind {
            "gw" => AttachedKind::Gateway,
            "set" => AttachedKind::ListenerSet,
            "http" => AttachedKind::Route(RouteKind::Http),
            _ => AttachedKind::Route(RouteKind::Grpc),
        };
        match name {
            "*" => Attachment::Labelled { kind, anywhere: false },
            "**" => Attachment::Labelled { kind, anywhere: true },
            _ => Attachment::One(kind, name.into()),
        }
    };
    AttachedPolicyFacts {
        object: ObjectName::new(namespace, name),
        attachments: words[..at].iter().map(attachment).collect(),
        upstreams: words[at + 1..].iter().map(|word| upstream(word)).collect(),
    }
}

fn upstream(word: &str) -> Upstream {
    match word.strip_prefix("b:") {
        Some(name) => Upstream::EnvoyBackend(ObjectName::new("app", name)),
        None => Upstream::Service(ObjectName::new("app", word)),
    }
}

pub(super) fn proxy(name: &str, words: &[&str]) -> EnvoyProxyFacts {
    let value = |key: &str| words.iter().find_map(|word| word.strip_prefix(key));
    EnvoyProxyFacts {
        object: name
            .split_once('/')
            .map_or_else(|| ObjectName::new("infra", name), |(at, name)| ObjectName::new(at, name)),
        client_certificate: value("cert=").map(Into::into),
        alpn: value("alpn=").map(|list| list.split(',').map(Into::into).collect()).unwrap_or_default(),
        deployment: Some(workload(words)),
        daemon_set: words.contains(&"daemon").then(EnvoyWorkload::default),
        telemetry: words.iter().filter_map(|word| word.strip_prefix('>')).map(upstream).collect(),
        merge: match value("merge=") {
            Some("strategic") => Some(ProxyMerge::Strategic),
            Some(_) => Some(ProxyMerge::Json),
            None => None,
        },
    }
}

fn workload(words: &[&str]) -> EnvoyWorkload {
    let is = |word| words.contains(&word);
    let mounts = is("mounts=agent").then_some(true).or(is("mounts=other").then_some(false));
    let patched = is("agent").then_some(true).or(is("patch=containers").then_some(false));
    let spec = patched.is_some() || is("patch=volumes");
    let parts = spec.then_some("spec").into_iter().chain(is("patch=labels").then_some("metadata"));
    EnvoyWorkload { mounts, patched, parts: parts.map(Into::into).collect() }
}

pub(super) fn secret(object: ObjectName, resource: &str, url: &str) -> GatewayChange {
    let facts = SdsSecretFacts { object, resource: resource.into(), url: url.into() };
    GatewayChange::SdsSecrets(Change::Put(facts))
}

pub(super) fn tls(name: &str, target: &str, words: &[&str]) -> TlsPolicyFacts {
    let (target, section) = target.split_once('#').map_or((target, None), |(of, port)| (of, Some(port.into())));
    let target = match target.strip_prefix("b:") {
        Some(backend) => Target::EnvoyBackend(backend.into()),
        None => Target::Service(target.into()),
    };
    TlsPolicyFacts {
        object: ObjectName::new("app", name),
        ours: words.contains(&"ours"),
        targets: [PolicyTarget { target, section }].into(),
        written: words.contains(&"ours").then(|| WrittenFacts {
            identities: IdentitySet::of([]),
            is_sds: words.contains(&"sds"),
            accepted_by: [].into(),
        }),
    }
}
