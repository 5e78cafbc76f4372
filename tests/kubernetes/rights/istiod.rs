//! The rights of a replica in front of istiod, and of an agent.

use super::{CERTIFICATES, GATEWAYS, ISTIO, LEASES, POLICY, Row, check, check_for};
use crate::{
    cluster::Cluster,
    pair::{NAMESPACE, install_with, shipped},
};

const ROOTS: &str = "istio-ca-root-cert";
const AGENT: &str = "system:serviceaccount:default:gateway";

/// Of a replica in front of istiod, with `rbac-istiod.yaml` alone.
const ISTIOD_ALLOWED: &[Row] = &[
    ("create", LEASES, "leases", NAMESPACE, ""),
    ("get", LEASES, "leases", NAMESPACE, "countersign"),
    ("update", LEASES, "leases", NAMESPACE, "countersign"),
    ("watch", LEASES, "leases", NAMESPACE, "countersign"),
    ("get", "", "configmaps", NAMESPACE, ROOTS),
    ("list", "", "configmaps", NAMESPACE, ROOTS),
    ("watch", "", "configmaps", NAMESPACE, ROOTS),
];

/// Refused by that, allowed with `rbac-istiod-services.yaml`.
const ISTIOD_SERVICES: &[Row] = &[("list", "", "services", ISTIO, ""), ("watch", "", "services", ISTIO, "")];

/// Refused with it as well.
const ISTIOD_SERVICES_REFUSED: &[Row] = &[
    ("get", "", "services", ISTIO, "istiod"),
    ("list", "", "services", "", ""),
    ("watch", "", "services", "default", ""),
    ("create", "", "services", ISTIO, ""),
    ("update", "", "services", ISTIO, "istiod"),
    ("patch", "", "services", ISTIO, "istiod"),
    ("delete", "", "services", ISTIO, "istiod"),
    ("create", "", "services/proxy", ISTIO, "istiod"),
    ("list", "", "endpoints", ISTIO, ""),
    ("list", "", "pods", ISTIO, ""),
    ("list", "", "secrets", ISTIO, ""),
    ("list", "", "configmaps", ISTIO, ""),
];

/// It signs nothing, keeps nothing, and looks at nobody's pods.
const ISTIOD_REFUSED: &[Row] = &[
    ("get", LEASES, "leases", NAMESPACE, "another"),
    ("list", LEASES, "leases", NAMESPACE, ""),
    ("update", LEASES, "leases", "kube-system", "countersign"),
    ("delete", LEASES, "leases", NAMESPACE, "countersign"),
    ("get", "", "configmaps", NAMESPACE, "another"),
    ("watch", "", "configmaps", NAMESPACE, ""),
    ("watch", "", "configmaps", "default", ROOTS),
    ("create", "", "configmaps", NAMESPACE, ""),
    ("update", "", "configmaps", NAMESPACE, ROOTS),
    ("patch", "", "configmaps", NAMESPACE, ROOTS),
    ("get", "", "secrets", NAMESPACE, "countersign-authority"),
    ("create", "", "secrets", NAMESPACE, ""),
    ("get", "", "secrets", ISTIO, "istio-ca-secret"),
    ("get", "", "secrets", ISTIO, "cacerts"),
    ("create", "authentication.k8s.io", "tokenreviews", "", ""),
    ("create", "", "serviceaccounts/token", NAMESPACE, "countersign"),
    ("create", "", "serviceaccounts/token", GATEWAYS, "gateway"),
    ("list", "", "pods", "", ""),
    ("watch", "", "namespaces", "", ""),
    ("list", "", "services", "", ""),
    ("patch", CERTIFICATES, "clustertrustbundles", "", "istio.io:istiod-ca:root-cert"),
    ("impersonate", "", "serviceaccounts", "default", "default"),
    ("update", "rbac.authorization.k8s.io", "roles", NAMESPACE, "countersign-istiod"),
];

/// Refused with it, allowed with `rbac-istiod-policy.yaml`.
const ISTIOD_POLICY: &[Row] = &[
    ("create", "authentication.k8s.io", "tokenreviews", "", ""),
    ("list", "", "pods", "", ""),
    ("watch", "", "pods", "", ""),
];

/// Refused with it, allowed with `rbac-istiod-jwt-svids.yaml`.
const ISTIOD_JWT_SVIDS: &[Row] = &[
    ("get", "", "secrets", NAMESPACE, "countersign-authority"),
    ("update", "", "secrets", NAMESPACE, "countersign-authority"),
    ("get", "", "secrets", NAMESPACE, "countersign-trust"),
    ("update", "", "secrets", NAMESPACE, "countersign-trust"),
    ("create", "", "secrets", NAMESPACE, ""),
];

const ISTIOD_JWT_SVIDS_REFUSED: &[Row] = &[
    ("get", "", "secrets", NAMESPACE, "another"),
    ("list", "", "secrets", NAMESPACE, ""),
    ("delete", "", "secrets", NAMESPACE, "countersign-authority"),
    ("get", "", "secrets", "default", "countersign-authority"),
];

/// Of an agent, with `rbac-agent.yaml`.
const AGENT_ALLOWED: &[Row] =
    &[("list", "", "configmaps", "default", ROOTS), ("watch", "", "configmaps", "default", ROOTS)];

const AGENT_REFUSED: &[Row] = &[
    ("get", "", "configmaps", "default", ROOTS),
    ("list", "", "configmaps", "default", ""),
    ("watch", "", "configmaps", "default", "another"),
    ("watch", "", "configmaps", "", ROOTS),
    ("watch", "", "configmaps", ISTIO, ROOTS),
    ("create", "", "configmaps", "default", ""),
    ("update", "", "configmaps", "default", ROOTS),
    ("patch", "", "configmaps", "default", ROOTS),
    ("delete", "", "configmaps", "default", ROOTS),
    ("get", "", "secrets", "default", "mesh-certificate"),
    ("list", "", "secrets", "default", ""),
    ("create", "", "serviceaccounts/token", "default", "gateway"),
    ("create", "authentication.k8s.io", "tokenreviews", "", ""),
    ("list", "", "pods", "default", ""),
    ("list", "", "services", "default", ""),
    ("get", LEASES, "leases", NAMESPACE, "countersign"),
];

#[tokio::test]
async fn a_replica_in_front_of_istiod_and_an_agent_have_the_rights_they_need_and_no_more() {
    let cluster = tokio::task::spawn_blocking(Cluster::start).await.unwrap();
    cluster.namespace_named(ISTIO, &[]).await;
    cluster.namespace_named(GATEWAYS, &[]).await;
    install_with(&cluster, "rbac-istiod.yaml").await;
    check(&cluster, ISTIOD_ALLOWED, true).await;
    check(&cluster, ISTIOD_REFUSED, false).await;
    check(&cluster, ISTIOD_SERVICES, false).await;
    cluster.apply_file(&shipped("rbac-istiod-services.yaml")).await;
    check(&cluster, ISTIOD_SERVICES, true).await;
    check(&cluster, ISTIOD_SERVICES_REFUSED, false).await;
    check_for(&cluster, AGENT, AGENT_ALLOWED, false).await;
    cluster.apply_file(&shipped("rbac-agent.yaml")).await;
    check_for(&cluster, AGENT, AGENT_ALLOWED, true).await;
    check_for(&cluster, AGENT, AGENT_REFUSED, false).await;
    // and it gives them to nobody else
    check(&cluster, AGENT_ALLOWED, false).await;
    check(&cluster, ISTIOD_REFUSED, false).await;
    check_for(&cluster, "system:serviceaccount:default:default", AGENT_ALLOWED, false).await;
    check(&cluster, ISTIOD_POLICY, false).await;
    cluster.apply_file(&shipped("rbac-istiod-policy.yaml")).await;
    check(&cluster, ISTIOD_POLICY, true).await;
    let others: Vec<Row> = ISTIOD_REFUSED.iter().filter(|row| !ISTIOD_POLICY.contains(row)).copied().collect();
    check(&cluster, &others, false).await;
    check(&cluster, POLICY, false).await;
    check(&cluster, ISTIOD_JWT_SVIDS, false).await;
    cluster.apply_file(&shipped("rbac-istiod-jwt-svids.yaml")).await;
    check(&cluster, ISTIOD_JWT_SVIDS, true).await;
    check(&cluster, ISTIOD_JWT_SVIDS_REFUSED, false).await;
}
