//! The shipped rights as the API server's authorizer reads them: what a replica may do, and what it may not.

mod istiod;

use std::fs;

use k8s_openapi::api::{
    authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec},
    core::v1::Secret,
};
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde_json::json;

use crate::{
    cluster::{Cluster, client_of},
    pair::{NAMESPACE, install, install_with, shipped},
};

/// Verb, group, resource, namespace (empty: all, or none has it), name (empty: any).
type Row = (&'static str, &'static str, &'static str, &'static str, &'static str);

const LEASES: &str = "coordination.k8s.io";
const CERTIFICATES: &str = "certificates.k8s.io";
const GATEWAY_API: &str = "gateway.networking.k8s.io";
const ISTIO: &str = "istio-system";
const GATEWAYS: &str = "gateways";
const REPLICA: &str = "system:serviceaccount:countersign:countersign";

const ALLOWED: &[Row] = &[
    ("create", LEASES, "leases", NAMESPACE, ""),
    ("get", LEASES, "leases", NAMESPACE, "countersign"),
    ("update", LEASES, "leases", NAMESPACE, "countersign"),
    ("watch", LEASES, "leases", NAMESPACE, "countersign"),
    ("create", "", "secrets", NAMESPACE, ""),
    ("get", "", "secrets", NAMESPACE, "countersign-authority"),
    ("update", "", "secrets", NAMESPACE, "countersign-trust"),
    ("create", "authentication.k8s.io", "tokenreviews", "", ""),
    ("list", "", "pods", "", ""),
    ("watch", "", "pods", "", ""),
    ("watch", "", "namespaces", "", ""),
    ("create", "", "configmaps", "anywhere", ""),
    ("watch", "", "configmaps", "", "countersign-root-cert"),
    ("patch", "", "configmaps", "anywhere", "countersign-root-cert"),
    // Kubernetes itself grants it
    ("watch", CERTIFICATES, "clustertrustbundles", "", "istio.io:istiod-ca:root-cert"),
];

const REFUSED: &[Row] = &[
    ("get", LEASES, "leases", NAMESPACE, "another"),
    ("update", LEASES, "leases", "kube-system", "countersign"),
    ("delete", LEASES, "leases", NAMESPACE, "countersign"),
    ("list", "", "secrets", NAMESPACE, ""),
    ("get", "", "secrets", NAMESPACE, "another"),
    ("get", "", "secrets", "default", "countersign-authority"),
    ("delete", "", "secrets", NAMESPACE, "countersign-authority"),
    ("create", "", "secrets", "default", ""),
    ("create", "", "pods", NAMESPACE, ""),
    ("create", "", "pods/exec", NAMESPACE, ""),
    ("create", "", "serviceaccounts/token", NAMESPACE, "countersign"),
    ("update", "", "namespaces", "", "default"),
    ("list", "", "configmaps", "", ""),
    ("patch", "", "configmaps", "kube-system", "another"),
    ("impersonate", "", "serviceaccounts", "default", "default"),
    ("update", "rbac.authorization.k8s.io", "clusterroles", "", "countersign-replica.countersign"),
];

/// Refused by `rbac.yaml` alone, allowed with `rbac-mesh-ca.yaml`.
const MESH_CA: &[Row] = &[
    ("patch", "", "configmaps", "default", "istio-ca-root-cert"),
    ("watch", "", "configmaps", "", "istio-ca-root-cert"),
    ("create", "", "secrets", ISTIO, ""),
    ("watch", "", "secrets", ISTIO, "istiod-tls"),
    ("patch", "", "secrets", ISTIO, "istiod-tls"),
];

/// Refused by both, allowed with `rbac-cluster-trust-bundle.yaml`.
const TRUST_BUNDLE: &[Row] = &[
    ("create", CERTIFICATES, "clustertrustbundles", "", ""),
    ("patch", CERTIFICATES, "clustertrustbundles", "", "countersign.io:cluster.local:root-cert"),
    ("attest", CERTIFICATES, "signers", "", "countersign.io/cluster.local"),
];

/// Refused with that too, allowed with `rbac-mesh-trust-bundle.yaml`.
const MESH_TRUST_BUNDLE: &[Row] = &[
    ("patch", CERTIFICATES, "clustertrustbundles", "", "istio.io:istiod-ca:root-cert"),
    ("attest", CERTIFICATES, "signers", "", "istio.io/istiod-ca"),
];

/// Refused by all of them, allowed with `rbac-gateway-secret.yaml`.
const GATEWAY: &[Row] = &[
    ("get", "", "secrets", GATEWAYS, "mesh-certificate"),
    ("watch", "", "secrets", GATEWAYS, "mesh-certificate"),
    ("patch", "", "secrets", GATEWAYS, "mesh-certificate"),
    ("create", "", "secrets", GATEWAYS, ""),
];

/// Refused by all of those too, allowed with `rbac-gateway-token.yaml`.
const GATEWAY_TOKEN: &[Row] = &[("create", "", "serviceaccounts/token", GATEWAYS, "gateway")];

/// Refused by all of these, allowed with `rbac-policy.yaml`.
const POLICY: &[Row] = &[
    ("list", "", "services", "", ""),
    ("watch", "", "services", "", ""),
    ("watch", "discovery.k8s.io", "endpointslices", "", ""),
    ("list", "security.istio.io", "peerauthentications", "", ""),
    ("watch", "security.istio.io", "peerauthentications", "", ""),
    ("create", "events.k8s.io", "events", "anywhere", ""),
    ("patch", "events.k8s.io", "events", "anywhere", "countersign.0123456789abcdef0123"),
];

/// Refused by all of these, allowed with `rbac-policy-objects.yaml`.
const POLICY_OBJECTS: &[Row] = &[
    ("list", GATEWAY_API, "gateways", "", ""),
    ("watch", GATEWAY_API, "httproutes", "", ""),
    ("patch", GATEWAY_API, "backendtlspolicies", "anywhere", "countersign-backend"),
    ("delete", GATEWAY_API, "backendtlspolicies", "anywhere", "countersign-backend"),
    ("patch", "", "configmaps", "anywhere", "countersign-mesh-ca"),
    ("watch", "", "configmaps", "envoy-gateway-system", "envoy-gateway-config"),
    ("watch", "", "secrets", "", "countersign-svid"),
    ("watch", "gateway.envoyproxy.io", "envoyproxies", "", ""),
    ("watch", "gateway.envoyproxy.io", "securitypolicies", "", ""),
    ("list", "gateway.envoyproxy.io", "envoyextensionpolicies", "", ""),
    // as far as the admission policy beside it lets them
    ("create", "", "secrets", "anywhere", ""),
    ("patch", "", "secrets", "anywhere", "countersign-backend"),
    ("delete", "", "secrets", "anywhere", "countersign-backend"),
];

/// As the admission policy says it.
const NO_SUCH_SECRET: &str = "a replica of Countersign writes no Secret of this type and name";

/// Refused with it as well.
const OF_USERS: &[Row] = &[
    ("list", "", "secrets", "", ""),
    ("get", "", "secrets", "anywhere", "countersign-backend"),
    ("watch", "", "secrets", ISTIO, "istio-ca-secret"),
    ("update", "", "secrets", "anywhere", "countersign-backend"),
    ("patch", GATEWAY_API, "gateways", GATEWAYS, "gateway"),
    ("patch", GATEWAY_API, "httproutes", "anywhere", "route"),
    ("patch", "gateway.envoyproxy.io", "envoyproxies", GATEWAYS, "proxy"),
    ("patch", "", "configmaps", "envoy-gateway-system", "envoy-gateway-config"),
    ("delete", "", "configmaps", "anywhere", "istio-ca-root-cert"),
];

const REFUSED_EVEN_THEN: &[Row] = &[
    ("list", "events.k8s.io", "events", "anywhere", ""),
    ("delete", "events.k8s.io", "events", "anywhere", "another"),
    ("get", "", "secrets", ISTIO, "istio-ca-secret"),
    ("get", "", "secrets", GATEWAYS, "another"),
    ("delete", "", "secrets", GATEWAYS, "mesh-certificate"),
    ("create", "", "serviceaccounts/token", GATEWAYS, "another"),
    ("get", "", "secrets", ISTIO, "cacerts"),
    ("list", "", "secrets", ISTIO, ""),
    ("patch", "", "configmaps", ISTIO, "istio"),
    ("patch", CERTIFICATES, "clustertrustbundles", "", "another"),
    ("attest", CERTIFICATES, "signers", "", "another.example/signer"),
    ("update", "", "services", "default", "kubernetes"),
    ("patch", "security.istio.io", "peerauthentications", "default", ""),
    ("get", "", "pods/proxy", ISTIO, ""),
    ("update", CERTIFICATES, "certificatesigningrequests/approval", "", ""),
];

#[tokio::test]
async fn a_replica_has_the_rights_it_needs_and_no_more() {
    // it has namespaces with fixed names
    let cluster = tokio::task::spawn_blocking(Cluster::start).await.unwrap();
    cluster.namespace_named(ISTIO, &[]).await;
    install(&cluster).await;
    check(&cluster, ALLOWED, true).await;
    check(&cluster, REFUSED, false).await;
    check(&cluster, MESH_CA, false).await;
    cluster.apply_file(&shipped("rbac-mesh-ca.yaml")).await;
    check(&cluster, MESH_CA, true).await;
    check(&cluster, TRUST_BUNDLE, false).await;
    cluster.apply_file(&shipped("rbac-cluster-trust-bundle.yaml")).await;
    check(&cluster, TRUST_BUNDLE, true).await;
    check(&cluster, MESH_TRUST_BUNDLE, false).await;
    cluster.apply_file(&shipped("rbac-mesh-trust-bundle.yaml")).await;
    check(&cluster, MESH_TRUST_BUNDLE, true).await;
    check(&cluster, GATEWAY, false).await;
    cluster.namespace_named(GATEWAYS, &[]).await;
    cluster.apply_file(&shipped("rbac-gateway-secret.yaml")).await;
    check(&cluster, GATEWAY, true).await;
    check(&cluster, POLICY, false).await;
    cluster.apply_file(&shipped("rbac-policy.yaml")).await;
    check(&cluster, POLICY, true).await;
    check(&cluster, ALLOWED, true).await;
    check(&cluster, REFUSED, false).await;
    check(&cluster, REFUSED_EVEN_THEN, false).await;
    check(&cluster, GATEWAY_TOKEN, false).await;
    cluster.apply_file(&shipped("rbac-gateway-token.yaml")).await;
    check(&cluster, GATEWAY_TOKEN, true).await;
    check(&cluster, REFUSED_EVEN_THEN, false).await;
}

#[tokio::test]
async fn of_secrets_only_those_for_gateways_can_be_written_anywhere() {
    let cluster = tokio::task::spawn_blocking(Cluster::start).await.unwrap();
    let client = who_writes_policy_objects(&cluster).await;
    let secrets = |namespace: &str| Api::<Secret>::namespaced(client.clone(), namespace);
    let apply = async |namespace: &str, name: &str, kind: &str, annotations: serde_json::Value| {
        let object = json!({
            "apiVersion": "v1", "kind": "Secret", "type": kind, "metadata": { "name": name, "annotations": annotations },
            "data": { "tls.crt": "", "tls.key": "" },
        });
        secrets(namespace).patch(name, &PatchParams::apply("countersign"), &Patch::Apply(&object)).await
    };
    // the admission plugin hears of its policy a little later
    let begin = std::time::Instant::now();
    loop {
        let made = apply("anywhere", &cluster.unique("early"), "Opaque", json!({})).await;
        if made.as_ref().is_err_and(|error| error.to_string().contains(NO_SUCH_SECRET)) {
            break;
        }
        assert!(begin.elapsed().as_secs() < 20, "{made:?}");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let (sds, tls, none) = ("gateway.envoyproxy.io/sds", "kubernetes.io/tls", json!({}));
    apply("anywhere", "one", sds, none.clone()).await.unwrap();
    apply("anywhere", "one", sds, json!({ "a": "b" })).await.unwrap();
    apply(GATEWAYS, "mesh-certificate", tls, json!({ "countersign.io/published": "x" })).await.unwrap();
    apply(GATEWAYS, "mesh-certificate", tls, json!({ "countersign.io/published": "y" })).await.unwrap();
    apply(NAMESPACE, "countersign-trust", "Opaque", none.clone()).await.unwrap();
    apply("anywhere", "mesh-certificate", tls, none.clone()).await.unwrap();
    let marked = Patch::Apply(json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": { "name": "theirs", "annotations": { "countersign.io/published": "x" } },
    }));
    let theirs = secrets("anywhere").patch("theirs", &PatchParams::apply("countersign"), &marked).await;
    let refused = [
        theirs.map(drop),
        // without the mark before
        apply("anywhere", "mesh-certificate", tls, json!({ "countersign.io/published": "x" })).await.map(drop),
        // not granted by name
        apply("anywhere", "unmarked", tls, none.clone()).await.map(drop),
        apply("anywhere", "countersign-svid", tls, none.clone()).await.map(drop),
        apply("anywhere", "countersign-trust", "Opaque", none.clone()).await.map(drop),
        // without rbac-mesh-ca.yaml
        apply(ISTIO, "istiod-tls", tls, none.clone()).await.map(drop),
        apply("anywhere", "other", "Opaque", none.clone()).await.map(drop),
        apply(NAMESPACE, "other", "Opaque", none).await.map(drop),
        secrets("anywhere").delete("theirs", &DeleteParams::default()).await.map(drop),
        secrets(GATEWAYS).delete("mesh-certificate", &DeleteParams::default()).await.map(drop),
        secrets(NAMESPACE).delete("countersign-trust", &DeleteParams::default()).await.map(drop),
    ];
    for (at, answer) in refused.into_iter().enumerate() {
        let error = answer.expect_err(&at.to_string()).to_string();
        assert!(error.contains(NO_SUCH_SECRET), "{at}: {error}");
    }
    secrets("anywhere").delete("one", &DeleteParams::default()).await.unwrap();
}

/// What a gateway has beside its own namespace's: whether that is there.
const NAMESPACE_OF_GATEWAY: &[Row] =
    &[("list", "", "namespaces", "", GATEWAYS), ("watch", "", "namespaces", "", GATEWAYS)];

#[tokio::test]
async fn the_rights_for_another_gateway_take_none_from_the_first() {
    let cluster = tokio::task::spawn_blocking(Cluster::start).await.unwrap();
    // which can't watch every namespace
    install_with(&cluster, "rbac-istiod.yaml").await;
    cluster.namespace_named(GATEWAYS, &[]).await;
    let [secret, token] =
        ["rbac-gateway-secret.yaml", "rbac-gateway-token.yaml"].map(|name| fs::read_to_string(shipped(name)).unwrap());
    check(&cluster, NAMESPACE_OF_GATEWAY, false).await;
    cluster.apply(&secret).await;
    cluster.apply(&token).await;
    // one in another namespace, and another one in the same
    cluster.apply(&secret.replace(GATEWAYS, "default")).await;
    cluster.apply(&token.replace(GATEWAYS, "default")).await;
    cluster.apply(&secret.replace("mesh-certificate", "another-certificate")).await;
    cluster.apply(&token.replace("of-gateway", "of-other").replace("[gateway]", "[other]")).await;
    for rows in [GATEWAY, GATEWAY_TOKEN, NAMESPACE_OF_GATEWAY] {
        check(&cluster, rows, true).await;
    }
    let others: &[Row] = &[
        ("patch", "", "secrets", "default", "mesh-certificate"),
        ("watch", "", "namespaces", "", "default"),
        ("create", "", "serviceaccounts/token", "default", "gateway"),
        ("patch", "", "secrets", GATEWAYS, "another-certificate"),
        ("create", "", "serviceaccounts/token", GATEWAYS, "other"),
    ];
    check(&cluster, others, true).await;
}

async fn check(cluster: &Cluster, rows: &[Row], allowed: bool) {
    check_for(cluster, REPLICA, rows, allowed).await;
}

async fn check_for(cluster: &Cluster, user: &str, rows: &[Row], allowed: bool) {
    let reviews = Api::<SubjectAccessReview>::all(cluster.admin());
    let mut wrong = Vec::new();
    for row @ (verb, group, resource, namespace, name) in rows {
        let (resource, part) = resource.split_once('/').unwrap_or((resource, ""));
        let text = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        let attributes = ResourceAttributes {
            verb: text(verb),
            group: text(group),
            resource: text(resource),
            subresource: text(part),
            namespace: text(namespace),
            name: text(name),
            ..ResourceAttributes::default()
        };
        let spec = SubjectAccessReviewSpec {
            user: Some(user.to_owned()),
            groups: Some(vec!["system:serviceaccounts".to_owned(), "system:authenticated".to_owned()]),
            resource_attributes: Some(attributes),
            ..SubjectAccessReviewSpec::default()
        };
        let review = SubjectAccessReview { spec, ..SubjectAccessReview::default() };
        let status = reviews.create(&PostParams::default(), &review).await.unwrap().status.unwrap();
        if status.allowed != allowed {
            wrong.push(row);
        }
    }
    assert!(wrong.is_empty(), "{}: {wrong:#?}", if allowed { "refused" } else { "allowed" });
}

/// A replica with these rights, and two namespaces with gateways, whose Secrets are granted by name.
async fn who_writes_policy_objects(cluster: &Cluster) -> Client {
    let account = install(cluster).await;
    check(cluster, POLICY_OBJECTS, false).await;
    cluster.apply_file(&shipped("rbac-policy-objects.yaml")).await;
    check(cluster, POLICY_OBJECTS, true).await;
    check(cluster, OF_USERS, false).await;
    let rights = fs::read_to_string(shipped("rbac-gateway-secret.yaml")).unwrap();
    for namespace in [GATEWAYS, "anywhere"] {
        cluster.namespace_named(namespace, &[]).await;
        cluster.apply(&rights.replace(GATEWAYS, namespace)).await;
    }
    cluster.namespace_named(ISTIO, &[]).await;
    cluster.secret("anywhere", "theirs", &[("a", b"b")]).await;
    client_of(&cluster.kubeconfig(&account).await)
}
