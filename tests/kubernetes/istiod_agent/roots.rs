//! The object that is the source of the trust bundle: its set is published exactly, and each change at once.

use std::{fs, time::Duration};

use k8s_openapi::api::{core::v1::ConfigMap, rbac::v1::ClusterRoleBinding};
use kube::{
    Api, Resource,
    api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ObjectMeta, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

use super::gateway::{Agent, Pod, check_requests};
use crate::{
    cluster::{Account, Cluster, Place, block_on},
    istio::{
        istiod::{self, Ca, Istiod},
        objects::MESH_ROOTS,
    },
    pair::shipped,
    support::{
        authority::{Authority, Kind},
        certificate::Certificate,
        http::free_port,
        wait::wait_until,
    },
};

pub(crate) const BUNDLE: &str = "istio.io:istiod-ca:root-cert";
const FOLLOWED: [&str; 2] = ["--bundle-source", "cluster-trust-bundle"];
/// No renewal comes in between.
const TTL: Duration = Duration::from_secs(3600);
/// From the write to the socket.
const AT_ONCE: Duration = Duration::from_secs(1);
const SOON: Duration = Duration::from_secs(10);

/// As istiod's chart has it for that.
const WRITES_BUNDLES: &str = r#"
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata:
  name: istiod-cluster-trust-bundles
rules:
  - apiGroups: [certificates.k8s.io]
    resources: [clustertrustbundles]
    verbs: [create, update, delete]
  - apiGroups: [certificates.k8s.io]
    resources: [signers]
    resourceNames: [istio.io/istiod-ca]
    verbs: [attest]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata:
  name: istiod-cluster-trust-bundles
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: ClusterRole
  name: istiod-cluster-trust-bundles
subjects:
  - kind: ServiceAccount
    name: istiod
    namespace: istio-system
"#;

fn bundles(cluster: &Cluster, version: &str) -> Api<DynamicObject> {
    Api::all_with(cluster.admin(), &resource(version))
}

fn resource(version: &str) -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk("certificates.k8s.io", version, "ClusterTrustBundle"))
}

fn create_bundle(cluster: &Cluster, version: &str, roots: &str) {
    let spec = json!({ "spec": { "signerName": "istio.io/istiod-ca", "trustBundle": roots } });
    let object = DynamicObject::new(BUNDLE, &resource(version)).data(spec);
    block_on(async { bundles(cluster, version).create(&PostParams::default(), &object).await }).unwrap();
}

fn config_maps(cluster: &Cluster) -> Api<ConfigMap> {
    Api::namespaced(cluster.admin(), "default")
}

/// Changes a part of an object.
fn change<K>(
    cluster: &Cluster,
    api: impl FnOnce(&Cluster) -> Api<K> + Send,
    name: &str,
    part: &Value,
) -> Result<(), String>
where
    K: Resource + Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send,
{
    let change = async { api(cluster).patch(name, &PatchParams::default(), &Patch::Merge(part)).await };
    block_on(change).map(|_| ()).map_err(|error| error.to_string())
}

/// Waits until just these roots are published.
fn wait_for_roots(agent: &Agent, roots: &str, within: Duration) {
    wait_until(within, "the set of roots", || {
        let bundle = agent.served()?.bundle;
        let found: String = bundle.iter().map(|root| root.to_pem()).collect();
        if serials(&found) == serials(roots) { Ok(()) } else { Err(format!("{:?}", serials(&found))) }
    });
}

fn serials(roots: &str) -> Vec<String> {
    let mut serials: Vec<String> = Certificate::from_pem(roots).into_iter().map(|root| root.serial).collect();
    serials.sort();
    serials
}

/// Waits until the agent has said so.
fn wait_for_event(agent: &Agent, event: &str) {
    wait_until(SOON, event, || if agent.said(event) > 0 { Ok(()) } else { Err(agent.process.errors()) });
}

/// An istiod whose roots are in a ClusterTrustBundle, and in no ConfigMap.
pub(crate) fn start_istiod(cluster: &Cluster, account: &Account, port: u16, root: &Authority) -> Istiod {
    block_on(cluster.apply(WRITES_BUNDLES));
    let files = root.below("istiod", Kind::P256).cacerts(&root.certificate);
    let variables = [("ENABLE_CLUSTER_TRUST_BUNDLE_API", "true")];
    Istiod::start_with(port, cluster, account, Ca::Own(&files), &Default::default(), &variables)
}

#[test]
fn the_set_of_a_cluster_trust_bundle_is_published_exactly_and_each_change_at_once() {
    let cluster = Cluster::start();
    let pod = Pod::new(&cluster);
    let account = block_on(istiod::prepare(&cluster));
    let port = free_port();
    let mut agent = pod.start_with(port, TTL, &FOLLOWED);
    agent.wait_for_readiness(&format!("ClusterTrustBundle {BUNDLE}: not found"), SOON);

    // istiod is verified by it, and there is nothing else to verify it by
    let (root, other) = (Authority::root("mesh"), Authority::root("another"));
    let istiod = start_istiod(&cluster, &account, port, &root);
    wait_for_roots(&agent, &root.certificate, SOON);
    assert!(block_on(async { config_maps(&cluster).get_opt(MESH_ROOTS).await }).unwrap().is_none());

    // from here on it is written by hand
    drop(istiod);
    let write = |roots: &str| {
        let part = json!({ "spec": { "trustBundle": roots } });
        change(&cluster, |cluster| bundles(cluster, "v1beta1"), BUNDLE, &part)
    };
    let both = root.certificate.clone() + &other.certificate;
    for roots in [&both, &other.certificate, &both, &root.certificate] {
        write(roots).unwrap();
        wait_for_roots(&agent, roots, AT_ONCE);
    }
    write("no PEM").expect_err("the API server has none that is none");
    block_on(async { bundles(&cluster, "v1beta1").delete(BUNDLE, &DeleteParams::default()).await }).unwrap();
    wait_for_event(&agent, "mesh_roots_gone");
    wait_for_roots(&agent, &root.certificate, AT_ONCE);
    create_bundle(&cluster, "v1beta1", &other.certificate);
    wait_for_roots(&agent, &other.certificate, AT_ONCE);
    assert_eq!(agent.process.ended(), None);
    check_requests(&cluster, "clustertrustbundles", "");
}

#[test]
fn the_set_of_a_config_map_is_published_exactly_and_a_bad_one_never() {
    let cluster = Cluster::start();
    let pod = Pod::new(&cluster);
    let account = block_on(istiod::prepare(&cluster));
    let port = free_port();
    let (root, other) = (Authority::root("mesh"), Authority::root("another"));
    let files = root.cacerts(&root.certificate);
    let istiod = Istiod::start_on(port, &cluster, &account, Ca::Own(&files), &Default::default());
    let followed = ["--bundle-source", "config-map", "--root-config-map", MESH_ROOTS, "--namespace", "default"];
    let mut agent = pod.start_with(port, TTL, &followed);
    wait_for_roots(&agent, &root.certificate, SOON);

    drop(istiod);
    let write = |roots: &str| {
        change(&cluster, config_maps, MESH_ROOTS, &json!({ "data": { "root-cert.pem": roots } })).unwrap();
    };
    let both = root.certificate.clone() + &other.certificate;
    for roots in [&both, &other.certificate] {
        write(roots);
        wait_for_roots(&agent, roots, AT_ONCE);
    }
    write("no PEM");
    wait_for_event(&agent, "mesh_roots_unusable");
    wait_for_roots(&agent, &other.certificate, AT_ONCE);
    block_on(async { config_maps(&cluster).delete(MESH_ROOTS, &DeleteParams::default()).await }).unwrap();
    wait_for_event(&agent, "mesh_roots_gone");
    wait_for_roots(&agent, &other.certificate, AT_ONCE);
    let object = ConfigMap {
        metadata: ObjectMeta { name: Some(MESH_ROOTS.to_owned()), ..ObjectMeta::default() },
        data: Some([("root-cert.pem".to_owned(), root.certificate.clone())].into()),
        ..ConfigMap::default()
    };
    block_on(async { config_maps(&cluster).create(&PostParams::default(), &object).await }).unwrap();
    wait_for_roots(&agent, &root.certificate, AT_ONCE);
    assert_eq!(agent.process.ended(), None);
    check_requests(&cluster, "configmaps", "");
}

#[test]
fn an_svid_that_the_named_source_does_not_verify_is_published_when_it_does() {
    let cluster = Cluster::start();
    let pod = Pod::new(&cluster);
    let account = block_on(istiod::prepare(&cluster));
    let port = free_port();
    let (root, other) = (Authority::root("mesh"), Authority::root("another"));
    let _istiod =
        Istiod::start_on(port, &cluster, &account, Ca::Own(&root.cacerts(&root.certificate)), &Default::default());
    create_bundle(&cluster, "v1beta1", &other.certificate);
    // istiod itself is verified by the file
    fs::create_dir_all(cluster.folder().join("istio")).unwrap();
    fs::write(cluster.folder().join("istio/root-cert.pem"), &root.certificate).unwrap();
    let agent = pod.start_with(port, TTL, &FOLLOWED);
    agent.wait_for_readiness("failed in a handshake with itself by the trust bundle of now", SOON);
    // what was had before the object was read stays as well
    let held = agent.served().map(|served| served.leaf.serial().to_string()).unwrap_or_default();
    let both = root.certificate.clone() + &other.certificate;
    let part = json!({ "spec": { "trustBundle": both } });
    change(&cluster, |cluster| bundles(cluster, "v1beta1"), BUNDLE, &part).unwrap();
    wait_for_roots(&agent, &both, AT_ONCE);
    agent.wait_for_another(&held, AT_ONCE);
}

#[test]
fn a_missing_right_is_named_and_waited_for() {
    let cluster = Cluster::start();
    let pod = Pod::new(&cluster);
    let granted = "system:cluster-trust-bundle-discovery";
    let bindings = async { Api::<ClusterRoleBinding>::all(cluster.admin()).delete(granted, &Default::default()).await };
    block_on(bindings).unwrap();
    let mut agent = pod.start_with(free_port(), TTL, &FOLLOWED);
    agent.wait_for_readiness("apply charts/countersign/rbac-read-cluster-trust-bundle.yaml", SOON);
    assert_eq!(agent.said("mesh_roots_unreachable"), 1, "{}", agent.process.errors());
    block_on(async {
        cluster.namespace_named("countersign", &[]).await;
        cluster.apply_file(&shipped("rbac-read-cluster-trust-bundle.yaml")).await;
    });
    agent.wait_for_readiness(&format!("ClusterTrustBundle {BUNDLE}: not found"), SOON);
    create_bundle(&cluster, "v1beta1", &Authority::root("mesh").certificate);
    wait_for_event(&agent, "mesh_roots_read");
    assert_eq!(agent.process.ended(), None);
}

#[test]
fn an_older_version_is_read_and_where_none_is_served_that_is_said() {
    let served = |versions: &str| Cluster::start_at(&Place::loopback(), &["--runtime-config", versions]);
    let none = served("certificates.k8s.io/v1beta1/clustertrustbundles=false");
    let mut agent = Pod::new(&none).start_with(free_port(), TTL, &FOLLOWED);
    let unserved = format!("ClusterTrustBundle {BUNDLE}: the API server serves no clustertrustbundles");
    agent.wait_for_readiness(&unserved, SOON);
    assert_eq!(agent.process.ended(), None);
    drop((agent, none));

    let older = "certificates.k8s.io/v1beta1/clustertrustbundles=false,\
                 certificates.k8s.io/v1alpha1/clustertrustbundles=true";
    let cluster = served(older);
    let mut agent = Pod::new(&cluster).start_with(free_port(), TTL, &FOLLOWED);
    create_bundle(&cluster, "v1alpha1", &Authority::root("mesh").certificate);
    wait_for_event(&agent, "mesh_roots_read");
    assert_eq!(agent.process.ended(), None);
}
