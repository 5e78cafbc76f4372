//! What the tests read back from the cluster.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{
    Api,
    api::{DeleteParams, ListParams},
};

use super::istiod;
use crate::{
    cluster::{Cluster, block_on},
    pair::NAMESPACE,
    support::wait::wait_until,
};

/// In which every pod of a mesh finds its roots.
pub(crate) const MESH_ROOTS: &str = "istio-ca-root-cert";
const SERVING: &str = "istiod-tls";
const ROOTS_KEY: &str = "root-cert.pem";
const SOON: Duration = Duration::from_secs(15);

/// Waits for a ConfigMap with roots.
pub(crate) fn roots_of(cluster: &Cluster, namespace: &str, name: &str) -> String {
    wait_until(SOON, &format!("ConfigMap {namespace}/{name}"), || {
        let config_maps = || Api::<ConfigMap>::namespaced(cluster.admin(), namespace);
        let found = block_on(async { config_maps().get_opt(name).await }).map_err(|error| error.to_string())?;
        let data = found.and_then(|found| found.data).unwrap_or_default();
        data.get(ROOTS_KEY).cloned().ok_or_else(|| format!("{data:?}"))
    })
}

/// Waits for Secret `istiod-tls` with another certificate than `before`: its files.
pub(crate) fn serving_files(cluster: &Cluster, before: Option<&Files>) -> Files {
    wait_until(SOON, "a new Secret istiod-tls", || {
        let found = block_on(async { secrets(cluster).get_opt(SERVING).await }).map_err(|error| error.to_string())?;
        let data = found.and_then(|found| found.data).unwrap_or_default();
        let files: Files = data.into_iter().map(|(name, content)| (name, content.0)).collect();
        match files.get("tls.crt") {
            Some(certificate) if before.and_then(|before| before.get("tls.crt")) != Some(certificate) => Ok(files),
            _ => Err(format!("{:?}", files.keys())),
        }
    })
}

/// The keys of an object and what they hold.
pub(crate) type Files = BTreeMap<String, Vec<u8>>;

/// Deletes Secret `istiod-tls`.
pub(crate) fn delete_serving_files(cluster: &Cluster) {
    block_on(async { secrets(cluster).delete(SERVING, &DeleteParams::default()).await.map(drop) }).unwrap();
}

fn secrets(cluster: &Cluster) -> Api<Secret> {
    Api::namespaced(cluster.admin(), istiod::NAMESPACE)
}

/// All ConfigMaps with the mesh's roots, as they are: version, who wrote what and when, content. Then istiod's Secrets.
pub(crate) fn istios_own(cluster: &Cluster) -> Vec<String> {
    block_on(async {
        let named = ListParams::default().fields(&format!("metadata.name={MESH_ROOTS}"));
        let config_maps = Api::<ConfigMap>::all(cluster.admin()).list(&named).await.unwrap().items;
        let secrets = secrets(cluster).list(&ListParams::default()).await.unwrap().items;
        let as_text = |object: serde_json::Result<String>| object.unwrap();
        let config_maps = config_maps.iter().map(|object| as_text(serde_json::to_string(object)));
        config_maps.chain(secrets.iter().map(|object| as_text(serde_json::to_string(object)))).collect()
    })
}

/// Fails when the API server has refused a replica anything.
pub(crate) fn check_nothing_was_refused(cluster: &Cluster) {
    let requests = cluster.requests();
    let ours: Vec<_> = requests.iter().filter(|request| is_a_replica(&request.user)).collect();
    assert!(ours.len() > 10, "the audit log has only {} requests of the replicas", ours.len());
    let refused: Vec<_> = ours.iter().filter(|request| request.denied).collect();
    assert!(refused.is_empty(), "{refused:#?}");
}

/// Fails when a replica has asked for anything of Istio's, be it to read it.
pub(crate) fn check_nothing_of_istio_was_asked_for(cluster: &Cluster) {
    let requests = cluster.requests();
    let of_istio = requests.iter().filter(|request| {
        is_a_replica(&request.user) && (request.namespace == istiod::NAMESPACE || request.name.contains("istio"))
    });
    let of_istio: Vec<_> = of_istio.collect();
    assert!(of_istio.is_empty(), "{of_istio:#?}");
}

fn is_a_replica(user: &str) -> bool {
    user == format!("system:serviceaccount:{NAMESPACE}:countersign")
}
