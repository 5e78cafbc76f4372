//! The Services by which istiods are reached. Needs the right to list and watch Services of their namespace.

use std::{collections::BTreeMap, convert::Infallible};

use kube::Client;
use serde::Deserialize;

use super::list_watch::{Heard, Source, Trimmed, follow};
use crate::{
    domain::policy::Change,
    service::istiod_services::{IstiodService, IstiodServices},
};

/// Keeps `services` at what there is, for ever. While the API server is away they stay as they are.
pub async fn follow_istiod_services(client: &Client, mut services: IstiodServices) -> Infallible {
    let path = format!("/api/v1/namespaces/{}/services", services.namespace());
    let source = Source {
        paths: &[&path],
        labels: "app=istiod",
        event: "istiods_not_watched",
        rights: "rbac-istiod-services.yaml",
        ..Source::ANY
    };
    let hear = |heard| match heard {
        Heard::Listed(all, _) => services.apply(Change::Reset(all)),
        Heard::Put(service) => services.apply(Change::Put(service)),
        Heard::Gone(IstiodService { name, .. }) => services.apply(Change::Gone(name)),
        Heard::Served(_) | Heard::NotServed | Heard::Alive | Heard::Trouble(_) => {}
    };
    follow(client, source, |service| Some(istiod_service(service)), hear).await
}

fn istiod_service(TrimmedService { metadata, spec }: &TrimmedService) -> IstiodService {
    // one that leads out of the cluster is none of its istiods
    let ports = if spec.kind == "ExternalName" { [].iter() } else { spec.ports.iter() };
    IstiodService {
        name: metadata.name.clone(),
        address: spec.cluster_ip.parse().ok(),
        ports: ports.map(|port| port.port).collect(),
        selector: spec.selector.clone(),
        tag: metadata.labels.tag.clone(),
    }
}

#[derive(Clone, Debug, Deserialize)]
struct TrimmedService {
    metadata: Metadata,
    #[serde(default)]
    spec: Spec,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    name: String,
    resource_version: String,
    #[serde(default)]
    labels: Labels,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Labels {
    #[serde(rename = "istio.io/tag")]
    tag: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Spec {
    #[serde(rename = "type")]
    kind: String,
    #[serde(rename = "clusterIP")]
    cluster_ip: String,
    ports: Vec<Port>,
    selector: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Deserialize)]
struct Port {
    port: u16,
}

impl Trimmed for TrimmedService {
    fn version(&self) -> &str {
        &self.metadata.resource_version
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(labels: &str, spec: &str) -> IstiodService {
        let json = format!(r#"{{"metadata": {{"name": "a", "resourceVersion": "7", {labels}}}, "spec": {spec}}}"#);
        istiod_service(&serde_json::from_str(&json).unwrap())
    }

    #[test]
    fn services_are_read_as_the_api_server_writes_them() {
        let labels = r#""labels": {"app": "istiod", "istio.io/rev": "r", "istio.io/tag": "t"}"#;
        let spec = r#"{"type": "ClusterIP", "clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7"], "selector": {"app": "istiod"},
            "ports": [{"name": "https-dns", "port": 15012, "protocol": "TCP", "targetPort": 15012}]}"#;
        let found = read(labels, spec);
        assert_eq!(
            (found.name.as_str(), found.address, found.tag.as_deref()),
            ("a", "10.96.0.7".parse().ok(), Some("t"))
        );
        assert_eq!((found.ports, found.selector), (vec![15012], [("app".to_owned(), "istiod".to_owned())].into()));
        let headless = read(r#""labels": {}"#, r#"{"clusterIP": "None", "ports": [{"port": 15012}]}"#);
        assert_eq!((headless.address, headless.ports), (None, vec![15012]));
        let elsewhere = r#"{"type": "ExternalName", "externalName": "istiod.example", "ports": [{"port": 15012}]}"#;
        assert!(read(r#""labels": {}"#, elsewhere).ports.is_empty());
    }
}
