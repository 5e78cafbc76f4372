//! The trust bundle in the cluster, and istiod's certificate: written by the active with the shipped rights alone.

mod config_maps;
mod istiod;
mod many;
mod replica;
mod rules;
mod trust_bundle;

use std::{
    fmt::Display,
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api,
    api::{ObjectMeta, PostParams},
};

use crate::{
    cluster::{AuditedRequest, Cluster},
    pair::{NAMESPACE, shipped},
};

const KEY: &str = "root-cert.pem";
const OWN: &str = "countersign-root-cert";
const MESH: &str = "istio-ca-root-cert";
const SOON: Duration = Duration::from_secs(10);

/// A server with namespace `countersign` and the rights of `files`.
async fn cluster(files: &[&str]) -> Cluster {
    let cluster = tokio::task::spawn_blocking(Cluster::start).await.unwrap();
    cluster.namespace_named(NAMESPACE, &[]).await;
    for file in files {
        cluster.apply_file(&shipped(file)).await;
    }
    cluster
}

/// Asks again and again. Fails after `within` with what was seen last.
async fn until<T, E: Display>(within: Duration, what: &str, probe: impl AsyncFn() -> Result<T, E>) -> T {
    let begin = Instant::now();
    loop {
        match probe().await {
            Ok(value) => return value,
            Err(seen) if begin.elapsed() > within => panic!("{what}: not within {within:?}; last seen: {seen}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

fn config_maps(cluster: &Cluster, namespace: &str) -> Api<ConfigMap> {
    Api::namespaced(cluster.admin(), namespace)
}

/// Makes a ConfigMap as somebody else would.
async fn put(cluster: &Cluster, namespace: &str, name: &str, data: &[(&str, &str)]) {
    let data = data.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let object = ConfigMap {
        metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
        data: Some(data),
        ..ConfigMap::default()
    };
    config_maps(cluster, namespace).create(&PostParams::default(), &object).await.unwrap();
}

/// A value of a ConfigMap; in words, if there is none.
async fn value(cluster: &Cluster, namespace: &str, name: &str, key: &str) -> Result<String, String> {
    match config_maps(cluster, namespace).get_opt(name).await {
        Ok(Some(object)) => object.data.unwrap_or_default().remove(key).ok_or_else(|| format!("no {key}")),
        Ok(None) => Err(format!("no {name} in {namespace}")),
        Err(error) => Err(error.to_string()),
    }
}

/// Waits until the roots of a namespace are these.
async fn has(cluster: &Cluster, namespace: &str, name: &str, roots: &str, within: Duration) {
    until(within, &format!("{name} of {namespace}"), async || match value(cluster, namespace, name, KEY).await {
        Ok(found) if found == roots => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
}

/// What the replicas asked for so far.
fn own_requests(cluster: &Cluster) -> Vec<AuditedRequest> {
    let account = format!("system:serviceaccount:{NAMESPACE}:countersign");
    cluster.requests().into_iter().filter(|request| request.user == account).collect()
}

fn writes(cluster: &Cluster) -> usize {
    own_requests(cluster).iter().filter(|request| ["create", "patch", "update"].contains(&&*request.verb)).count()
}

fn nothing_was_denied(cluster: &Cluster) {
    let denied: Vec<_> = own_requests(cluster).into_iter().filter(|request| request.denied).collect();
    assert!(denied.is_empty(), "{denied:#?}");
}
