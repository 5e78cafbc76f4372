//! The ClusterTrustBundle, in whichever version is served.

use kube::{
    Api,
    api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind},
};

use super::{
    SOON, cluster, nothing_was_denied,
    replica::{Authority, Replica, config, mesh_config},
    until,
};
use crate::{
    cluster::{Cluster, Place},
    pair::{NAMESPACE, shipped},
};

const RIGHTS: &str = "rbac-cluster-trust-bundle.yaml";

pub(super) fn bundles(cluster: &Cluster) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk("certificates.k8s.io", "v1beta1", "ClusterTrustBundle");
    Api::all_with(cluster.admin(), &ApiResource::from_gvk(&kind))
}

async fn has(cluster: &Cluster, name: &str, signer: &str, roots: &str) {
    until(SOON, name, async || match bundles(cluster).get_opt(name).await {
        Ok(Some(bundle)) => {
            let spec = &bundle.data["spec"];
            let is_right = spec["signerName"] == signer && spec["trustBundle"] == roots;
            if is_right { Ok(()) } else { Err(spec.to_string()) }
        }
        other => Err(format!("{other:?}")),
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_kept_under_the_name_of_its_signer() {
    let cluster = cluster(&["rbac.yaml", RIGHTS]).await;
    let authority = Authority::new();
    let mut own = config();
    own.cluster_trust_bundle = true;
    let replica = Replica::start(&cluster, own).await;
    replica.activate(1, &authority);
    let (name, signer) = ("countersign.io:cluster.local:root-cert", "countersign.io/cluster.local");
    has(&cluster, name, signer, &authority.roots()).await;
    replica.says_soon("ClusterTrustBundle countersign.io:cluster.local:root-cert: 1 of 1").await;
    let roots = authority.publish_also(&Authority::new().certificate);
    has(&cluster, name, signer, &roots).await;
    bundles(&cluster).delete(name, &DeleteParams::default()).await.unwrap();
    has(&cluster, name, signer, &roots).await;
    nothing_was_denied(&cluster);
    replica.stand_by();

    // in a mesh, istiod's
    cluster.namespace_named("istio-system", &[]).await;
    for rights in ["rbac-mesh-ca.yaml", "rbac-mesh-trust-bundle.yaml"] {
        cluster.apply_file(&shipped(rights)).await;
    }
    let mut mesh = mesh_config();
    mesh.cluster_trust_bundle = true;
    let replica = Replica::start(&cluster, mesh).await;
    replica.activate(2, &authority);
    has(&cluster, "istio.io:istiod-ca:root-cert", "istio.io/istiod-ca", &roots).await;
    nothing_was_denied(&cluster);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_none_is_served_that_is_said_and_the_rest_goes_on() {
    let flags = ["--runtime-config", "certificates.k8s.io/v1beta1/clustertrustbundles=false"];
    let start = move || Cluster::start_at(&Place::loopback(), &flags);
    let cluster = tokio::task::spawn_blocking(start).await.unwrap();
    cluster.namespace_named(NAMESPACE, &[]).await;
    cluster.apply_file(&shipped("rbac.yaml")).await;
    let authority = Authority::new();
    let mut own = config();
    own.cluster_trust_bundle = true;
    let replica = Replica::start(&cluster, own).await;
    replica.activate(1, &authority);
    replica.says_soon("the API server serves no clustertrustbundles").await;
    replica.says_soon("ConfigMap countersign-root-cert: 1 of 1").await;
}
