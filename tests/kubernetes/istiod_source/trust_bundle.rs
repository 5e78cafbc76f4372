//! Replicas that verify istiod by a ClusterTrustBundle, where it writes no ConfigMap.

use std::fs;

use crate::{
    cluster::{Account, Cluster, TokenFor, block_on},
    istio::istiod::{self, SERVER_NAME},
    istiod_agent::roots::{BUNDLE, start_istiod},
    pair::{NAMESPACE, shipped},
    support::{
        authority::Authority,
        countersign::Serve,
        http::{free_port, loopback},
        observe::{readiness, wait_for},
    },
};

#[test]
fn a_replica_verifies_istiod_by_a_cluster_trust_bundle() {
    let cluster = Cluster::start();
    let account = block_on(istiod::prepare(&cluster));
    let own = Account { namespace: NAMESPACE.to_owned(), name: "countersign".to_owned() };
    let token_file = cluster.folder().join("countersign.istio-token");
    let (uid, kubeconfig, token) = block_on(async {
        cluster.namespace_named(NAMESPACE, &[]).await;
        cluster.apply_file(&shipped("rbac-istiod.yaml")).await;
        let token = cluster.token(&own, &TokenFor { audiences: &["istio-ca"], ..TokenFor::default() }).await;
        (cluster.pod(&own, "countersign-0").await, cluster.kubeconfig(&own).await, token)
    });
    fs::write(&token_file, token).unwrap();
    let (port, never) = (free_port(), cluster.folder().join("never-mounted.pem"));
    let flags = [
        ["--source", "istiod"],
        ["--state", "kubernetes"],
        ["--istiod-address", &loopback(port).to_string()],
        ["--istiod-server-name", SERVER_NAME],
        ["--istiod-root-cluster-trust-bundle", BUNDLE],
        ["--istiod-root-file", never.to_str().unwrap()],
        ["--istiod-token-file", token_file.to_str().unwrap()],
        ["--namespace", NAMESPACE],
        ["--replica-uid", &uid],
        ["--kubeconfig", kubeconfig.to_str().unwrap()],
    ];
    let folder = cluster.folder();
    let replica = Serve::spawn("countersign-0", folder, &folder.join("data"), free_port(), &flags.concat());
    wait_for("why it is not ready", &format!("ClusterTrustBundle {BUNDLE}: not found"), || readiness(&replica));
    let _istiod = start_istiod(&cluster, &account, port, &Authority::root("mesh"));
    // it has a certificate of istiod then
    replica.wait_until_ready();
    let denied: Vec<_> = cluster.requests().into_iter().filter(|request| request.denied).collect();
    assert!(
        denied.iter().all(|request| !request.user.starts_with("system:serviceaccount:countersign:")),
        "{denied:#?}"
    );
}
