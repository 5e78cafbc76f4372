//! `countersign policy`: which Services need mutual TLS, with which identities, and what won't work.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{self, Write as _},
    io,
};

use serde::Serialize;

mod gateways;

pub use self::gateways::gateways;
use super::{issuance::ListForm, render::escaped};
use crate::service::policy_view::{
    ConditionView, GatewayView, NamespaceListing, NamespacePreview, NamespaceView, PolicyUpdate, ServiceView,
};

/// All that was told, put together.
#[derive(Debug, Default)]
pub struct Policies {
    namespaces: BTreeMap<String, NamespaceView>,
    services: BTreeMap<String, ServiceView>,
    gateways: BTreeMap<String, GatewayView>,
}

/// What differs between two of a namespace.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Difference<'a> {
    now: &'a NamespacePreview,
    then: &'a NamespacePreview,
}

impl Policies {
    /// Takes up what was told.
    pub fn take(&mut self, update: PolicyUpdate) {
        if update.reset {
            *self = Self::default();
        }
        update.namespaces_gone.iter().for_each(|name| drop(self.namespaces.remove(name)));
        update.services_gone.iter().for_each(|name| drop(self.services.remove(name)));
        update.gateways_gone.iter().for_each(|name| drop(self.gateways.remove(name)));
        let gateways = update.gateways.into_iter();
        self.gateways.extend(gateways.map(|gateway| (format!("{}/{}", gateway.namespace, gateway.name), gateway)));
        self.namespaces.extend(update.namespaces.into_iter().map(|namespace| (namespace.name.clone(), namespace)));
        self.services.extend(update.services.into_iter().map(|service| (key(&service), service)));
    }

    /// A namespace with its Services, or with one of them alone; `None` if there is none, or no such Service has a policy.
    pub fn listing(&self, namespace: &str, service: Option<&str>) -> Option<NamespaceListing> {
        let namespace = self.namespaces.get(namespace)?.clone();
        let all = self.services.values().filter(|service| service.namespace == namespace.name);
        let services: Vec<ServiceView> =
            all.filter(|found| service.is_none_or(|wanted| wanted == found.name)).cloned().collect();
        let is_missing = service.is_some() && services.is_empty() && namespace.mode != "not-managed";
        (!is_missing).then_some(NamespaceListing { namespace, services })
    }

    /// Every namespace that is of the mesh, or of which there is something to say; only `namespace`, if that is given.
    fn listings(&self, namespace: Option<&str>) -> Vec<NamespaceListing> {
        let with_services: BTreeSet<&str> = self.services.values().map(|service| service.namespace.as_str()).collect();
        let shown = self.namespaces.values().filter(|found| match namespace {
            Some(wanted) => found.name == wanted,
            None => {
                let is_silent = found.mode == "not-managed" && found.conditions.is_empty();
                !is_silent || with_services.contains(found.name.as_str())
            }
        });
        shown.filter_map(|found| self.listing(&found.name, None)).collect()
    }
}

/// `policy list`.
///
/// # Errors
///
/// When a serializer fails.
pub fn list(policies: &Policies, namespace: Option<&str>, form: ListForm) -> io::Result<String> {
    form.render(&policies.listings(namespace)[..], table)
}

/// `policy explain`.
///
/// # Errors
///
/// When a serializer fails.
pub fn explain(listing: &NamespaceListing, form: ListForm) -> io::Result<String> {
    form.render(listing, explained)
}

/// `policy diff`.
///
/// # Errors
///
/// When a serializer fails.
pub fn diff(now: &NamespacePreview, then: &NamespacePreview, form: ListForm) -> io::Result<String> {
    form.render(&Difference { now, then }, difference)
}

/// `policy watch`: a change, as lines or as one line of JSON.
///
/// # Errors
///
/// When a serializer fails.
pub fn changes(update: &PolicyUpdate, form: ListForm) -> io::Result<String> {
    match form {
        ListForm::Json => Ok(serde_json::to_string(update)? + "\n"),
        ListForm::Yaml => Ok(format!("---\n{}", serde_yaml_ng::to_string(update).map_err(io::Error::other)?)),
        ListForm::Table => changed(update).map_err(io::Error::other),
    }
}

fn table(listings: &[NamespaceListing]) -> Result<String, fmt::Error> {
    let mut rows = vec![["NAMESPACE", "SERVICE", "MODE", "IDENTITIES", "PORTS", "CONDITIONS"].map(str::to_owned)];
    for NamespaceListing { namespace, services } in listings {
        let (name, mode) = (namespace.name.clone(), namespace.mode.clone());
        rows.push([name, "*".into(), mode, "-".into(), "-".into(), reasons(&namespace.conditions)]);
        rows.extend(services.iter().map(|service| {
            let ports = service.ports.iter().map(|port| format!("{}:{}", port.number, port.class));
            [
                service.namespace.clone(),
                service.name.clone(),
                service.mode.clone(),
                service.identities.len().to_string(),
                or_dash(ports.collect::<Vec<_>>().join(",")),
                reasons(&service.conditions),
            ]
        }));
    }
    aligned(&rows)
}

/// Columns as wide as their widest cells.
fn aligned<const COLUMNS: usize>(rows: &[[String; COLUMNS]]) -> Result<String, fmt::Error> {
    let widths: Vec<usize> = (0..COLUMNS)
        .map(|column| rows.iter().filter_map(|row| row.get(column)).map(String::len).max().unwrap_or_default())
        .collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{:width$}", escaped(cell)));
        writeln!(text, "{}", cells.collect::<Vec<_>>().join("  ").trim_end())?;
    }
    Ok(text)
}

fn reasons(conditions: &[ConditionView]) -> String {
    or_dash(conditions.iter().map(|condition| condition.reason.as_str()).collect::<Vec<_>>().join(","))
}

fn or_dash(text: String) -> String {
    if text.is_empty() { "-".to_owned() } else { text }
}

fn explained(NamespaceListing { namespace, services }: &NamespaceListing) -> Result<String, fmt::Error> {
    let mut text = String::new();
    let injector = match namespace.revision.as_str() {
        "" => String::new(),
        revision => format!(", sidecars by revision {}", escaped(revision)),
    };
    writeln!(text, "namespace {}: {}{injector}", escaped(&namespace.name), meaning(&namespace.mode))?;
    tell(&mut text, "  ", &namespace.conditions)?;
    for service in services {
        writeln!(
            text,
            "Service {}/{}: {}",
            escaped(&service.namespace),
            escaped(&service.name),
            meaning(&service.mode)
        )?;
        for id in &service.identities {
            writeln!(text, "  accepts {}", escaped(id))?;
        }
        for port in &service.ports {
            writeln!(
                text,
                "  port {} is {}, PeerAuthentication {}, offer ALPN {}",
                port.number,
                escaped(&port.class),
                escaped(&port.peer_mode),
                escaped(&port.alpn.join(", "))
            )?;
        }
        tell(&mut text, "  ", &service.conditions)?;
    }
    Ok(text)
}

fn meaning(mode: &str) -> String {
    match mode {
        "mutual-tls" => "mutual TLS is required".to_owned(),
        "not-managed" => "nothing is required, the gateway does what its routes and policies say".to_owned(),
        other => escaped(other),
    }
}

fn tell(text: &mut String, before: &str, conditions: &[ConditionView]) -> fmt::Result {
    for condition in conditions {
        let ConditionView { reason, severity, message } = condition;
        writeln!(text, "{before}{} {}: {}", escaped(severity), escaped(reason), escaped(message))?;
    }
    Ok(())
}

fn difference(Difference { now: before, then: after }: &Difference<'_>) -> Result<String, fmt::Error> {
    let mut text = String::new();
    let (now, then) = (&before.listing, &after.listing);
    let name = escaped(&then.namespace.name);
    if before == after {
        writeln!(text, "namespace {name}: nothing would change")?;
        return Ok(text);
    }
    let (gone, new) = (without(&before.objects, &after.objects), without(&after.objects, &before.objects));
    writeln!(text, "namespace {name}: {} -> {}", escaped(&now.namespace.mode), escaped(&then.namespace.mode))?;
    tell(&mut text, "  ", &then.namespace.conditions)?;
    let before: BTreeMap<String, &ServiceView> = now.services.iter().map(|service| (key(service), service)).collect();
    let after: BTreeMap<String, &ServiceView> = then.services.iter().map(|service| (key(service), service)).collect();
    for gone in before.keys().filter(|name| !after.contains_key(*name)) {
        writeln!(text, "- {}: no longer required", escaped(gone))?;
    }
    for (name, service) in after.iter().filter(|(name, service)| before.get(*name) != Some(service)) {
        writeln!(text, "+ {}: {}, {} identities", escaped(name), escaped(&service.mode), service.identities.len())?;
        for id in &service.identities {
            writeln!(text, "    accepts {}", escaped(id))?;
        }
        tell(&mut text, "    ", &service.conditions)?;
    }
    gone.iter().try_for_each(|object| writeln!(text, "- {}", escaped(object)))?;
    new.iter().try_for_each(|object| writeln!(text, "+ {}", escaped(object)))?;
    Ok(text)
}

/// Those of `some` that are not among `others`.
fn without<'a>(some: &'a [String], others: &[String]) -> Vec<&'a String> {
    some.iter().filter(|object| !others.contains(object)).collect()
}

fn changed(update: &PolicyUpdate) -> Result<String, fmt::Error> {
    let mut text = String::new();
    if update.reset {
        writeln!(text, "= everything")?;
    }
    for namespace in &update.namespaces {
        writeln!(text, "+ {}: {} {}", escaped(&namespace.name), namespace.mode, reasons(&namespace.conditions))?;
    }
    for service in &update.services {
        let (mode, ids) = (&service.mode, escaped(&or_dash(service.identities.join(","))));
        writeln!(text, "+ {}: {mode} {ids} {}", escaped(&key(service)), reasons(&service.conditions))?;
    }
    for gateway in &update.gateways {
        let name = format!("{}/{}", gateway.namespace, gateway.name);
        writeln!(text, "+ Gateway {}: {} {}", escaped(&name), readiness(gateway), reasons(&gateway.conditions))?;
    }
    for gone in &update.gateways_gone {
        writeln!(text, "- Gateway {}", escaped(gone))?;
    }
    for gone in update.services_gone.iter().chain(&update.namespaces_gone) {
        writeln!(text, "- {}", escaped(gone))?;
    }
    Ok(text)
}

const fn readiness(gateway: &GatewayView) -> &'static str {
    if gateway.ready { "ready" } else { "not-ready" }
}

fn key(service: &ServiceView) -> String {
    format!("{}/{}", service.namespace, service.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn namespace(name: &str, mode: &str) -> NamespaceView {
        NamespaceView { name: name.into(), mode: mode.into(), revision: String::new(), conditions: Vec::new() }
    }

    fn service(name: &str, identities: &[&str]) -> ServiceView {
        ServiceView {
            namespace: "a".into(),
            name: name.into(),
            mode: "mutual-tls".into(),
            identities: identities.iter().map(|id| (*id).to_owned()).collect(),
            ports: Vec::new(),
            conditions: Vec::new(),
        }
    }

    fn policies() -> Policies {
        let mut policies = Policies::default();
        policies.take(PolicyUpdate {
            reset: true,
            namespaces: vec![namespace("a", "mutual-tls"), namespace("b", "not-managed")],
            services: vec![service("web", &["spiffe://td/ns/a/sa/x"])],
            ..PolicyUpdate::default()
        });
        policies
    }

    #[test]
    fn a_list_shows_members_and_what_there_is_to_say() {
        let mut policies = policies();
        let text = list(&policies, None, ListForm::Table).unwrap();
        assert!(text.contains("a          web      mutual-tls  1") && !text.contains("\nb "), "{text}");
        let gone = PolicyUpdate { services_gone: vec!["a/web".into()], ..PolicyUpdate::default() };
        policies.take(gone);
        assert!(!list(&policies, None, ListForm::Table).unwrap().contains("web"));
        let json: serde_json::Value = serde_json::from_str(&list(&policies, None, ListForm::Json).unwrap()).unwrap();
        assert_eq!((&json[0]["name"], &json[0]["services"]), (&"a".into(), &serde_json::json!([])));
    }

    #[test]
    fn what_has_no_policy_is_explained_if_its_namespace_is_known() {
        let policies = policies();
        assert!(
            explain(&policies.listing("b", Some("web")).unwrap(), ListForm::Table)
                .unwrap()
                .contains("nothing is required")
        );
        assert!(policies.listing("c", None).is_none() && policies.listing("a", Some("other")).is_none());
        let text = explain(&policies.listing("a", Some("web")).unwrap(), ListForm::Table).unwrap();
        assert!(text.contains("Service a/web: mutual TLS is required\n  accepts spiffe://td/ns/a/sa/x\n"), "{text}");
    }

    #[test]
    fn a_difference_names_what_comes_and_goes() {
        let now = NamespaceListing { namespace: namespace("a", "not-managed"), services: Vec::new() };
        let now = NamespacePreview { listing: now, objects: vec!["ConfigMap a/old".into()] };
        let then =
            NamespaceListing { namespace: namespace("a", "mutual-tls"), services: vec![service("web", &["id"])] };
        let then = NamespacePreview { listing: then, objects: vec!["BackendTLSPolicy a/countersign-web".into()] };
        let text = diff(&now, &then, ListForm::Table).unwrap();
        let services = "namespace a: not-managed -> mutual-tls\n+ a/web: mutual-tls, 1 identities\n    accepts id\n";
        assert_eq!(text, format!("{services}- ConfigMap a/old\n+ BackendTLSPolicy a/countersign-web\n"));
        let text = diff(&then, &now, ListForm::Table).unwrap();
        assert!(text.contains("- a/web: no longer required\n- BackendTLSPolicy a/countersign-web\n"), "{text}");
        assert!(diff(&now, &now, ListForm::Table).unwrap().contains("nothing would change"));
    }
}
