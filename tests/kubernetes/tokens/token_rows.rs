//! Tokens.

use std::time::Duration;

use countersign::{domain::clock::Clock as _, runtime::seams::SystemClock};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::{Api, api::DeleteParams};
use serde_json::json;

use super::{
    forged::{Forger, turned, unsigned},
    row::{By, Row},
    world::{CONFIGURED, World, by_token},
};
use crate::cluster::{Account, Cluster, PodPhase, TokenFor};

const GATEWAY: &str = "default/gateway";

/// What rows are made of.
struct Made<'a> {
    cluster: &'a Cluster,
    gateway: Account,
}

impl Made<'_> {
    async fn token(&self, audiences: &[&str]) -> String {
        self.cluster.token(&self.gateway, &TokenFor { audiences, ..TokenFor::default() }).await
    }

    async fn bound(&self, pod: &str) -> String {
        let asked = TokenFor { audiences: &["istio-ca"], pod: Some(pod), ..TokenFor::default() };
        self.cluster.token(&self.gateway, &asked).await
    }

    /// A pod in this phase and a token that is bound to it: the pod's UID, the token.
    async fn pod(&self, name: &str, phase: PodPhase) -> (String, String) {
        let uid = self.cluster.pod(&self.gateway, name).await;
        self.cluster.set_phase("default", name, phase).await;
        (uid, self.bound(name).await)
    }
}

pub(crate) async fn rows(cluster: &Cluster, world: &World) -> Vec<Row> {
    let made = Made { cluster, gateway: cluster.account("default", "gateway").await };
    let mut rows = good(&made, world).await;
    rows.extend(unasked(&made).await);
    rows.extend(forged(&made).await);
    rows.extend(gone(&made).await);
    rows.extend(others(&made).await);
    rows
}

async fn good(made: &Made<'_>, world: &World) -> Vec<Row> {
    let (uid, running) = made.pod("running", PodPhase::Running).await;
    let (_, pending) = made.pod("pending", PodPhase::Pending).await;
    let (_, succeeded) = made.pod("succeeded", PodPhase::Succeeded).await;
    let fresh = || made.token(&["istio-ca"]);
    let both = made.token(&["https://kubernetes.default.svc", "istio-ca"]).await;
    let reviewed = "reviewed by cluster Kubernetes";
    let row = |name, token: String| Row::new(name, by_token(&token)).by(By::ApiServer).issued(GATEWAY, &[reviewed]);
    vec![
        row("bound to a running pod", running.clone()).issued(GATEWAY, &["pod running", &uid, reviewed]),
        row("the same once more: the answer was kept", running).by(By::Replica),
        row("bound to a pending pod", pending).issued(GATEWAY, &["pod pending"]),
        row("bound to a pod that has succeeded, by a token that is still good", succeeded),
        row("bound to no pod", fresh().await).issued(GATEWAY, &["token reviewed by cluster Kubernetes"]),
        row("this cluster is stated", fresh().await).in_cluster("Kubernetes"),
        row("two audiences, ours the second", both),
        row("by way of the standby", fresh().await).at_the_standby(),
        row("by way of the standby, this cluster stated", fresh().await).in_cluster("Kubernetes").at_the_standby(),
        Row::new("of a configured issuer, for an account without a pod", by_token(&world.configured_token("x/y")))
            .issued("x/y", &[CONFIGURED]),
        Row::new("the same, another cluster stated", by_token(&world.configured_token("x/y")))
            .in_cluster("remote")
            .issued("x/y", &[CONFIGURED]),
    ]
}

/// Refused without a review, also by a standby without forwarding.
async fn unasked(made: &Made<'_>) -> Vec<Row> {
    let token = made.token(&["istio-ca"]).await;
    let cluster_key = Forger::with_the_clusters_key(made.cluster.folder());
    let changed = |changes| cluster_key.changed(&token, &changes);
    let now = SystemClock.now().seconds();
    let (message, _) = token.rsplit_once('.').unwrap();
    let row = |name, token: &str, reason| Row::new(name, by_token(token)).refused(reason);
    let rows = vec![
        row("another cluster is stated", &token, "said to be of cluster \"remote\"").in_cluster("remote"),
        row("this cluster in other letters", &token, "said to be of cluster").in_cluster("kubernetes"),
        row("for another audience", &made.token(&["vault"]).await, "audience"),
        row("for the API server", &made.token(&["https://kubernetes.default.svc"]).await, "audience"),
        row("for no audience", &changed(json!({ "aud": null })), "audience"),
        row("for an audience that ours is a part of", &changed(json!({ "aud": ["istio-ca-2"] })), "audience"),
        row("expired", &changed(json!({ "exp": now - 120 })), "expired"),
        row("without an end", &changed(json!({ "exp": null })), "no expiry"),
        row("of a node", &changed(json!({ "sub": "system:node:worker" })), "not a service account"),
        row("of five parts", &changed(json!({ "sub": "system:serviceaccount:a:b:c" })), "not a service account"),
        row("of nobody", &changed(json!({ "sub": null })), "not a service account"),
        row("empty", "", "malformed"),
        row("garbage", "garbage", "malformed"),
        row("a user's, as the API server's own file has it", &user_token(made.cluster), "malformed"),
        row("cut before the signature", message, "malformed"),
        row("cut in the claims", &token[..token.len() / 3], "malformed"),
        row("unsigned", &unsigned(&token), "malformed"),
        row("over 16 KiB", &changed(json!({ "more": "x".repeat(16 << 10) })), "over 16 KiB"),
        row("of a configured issuer by name only", &changed(json!({ "iss": CONFIGURED })), "no key"),
    ];
    let at_the_standby = rows.clone().into_iter().map(Row::at_the_standby);
    rows.iter().cloned().chain(at_the_standby).collect()
}

/// What only the API server can tell from a good one.
async fn forged(made: &Made<'_>) -> Vec<Row> {
    let token = made.token(&["istio-ca"]).await;
    let cluster_key = Forger::with_the_clusters_key(made.cluster.folder());
    let changed = |changes| cluster_key.changed(&token, &changes);
    let now = SystemClock.now().seconds();
    let row = |name, token: &str| {
        Row::new(name, by_token(token)).by(By::ApiServer).refused("the API server does not accept the token")
    };
    let issued = |name, token: &str| Row::new(name, by_token(token)).by(By::ApiServer).issued(GATEWAY, &[]);
    vec![
        issued("made anew with the cluster's key", &changed(json!({ "jti": "other" }))),
        issued("expired less than a minute ago, which the API server allows", &changed(json!({ "exp": now - 20 }))),
        issued(
            "its own word against the API server's",
            &changed(json!({ "sub": "system:serviceaccount:default:other" })),
        ),
        row("one bit of the signature turned", &turned(&token)),
        row("the same once more: the refusal was kept", &turned(&token)).by(By::Replica),
        row("signed by another key", &Forger::with_another_key().changed(&token, &json!({}))),
        row("signed by another key, by way of the standby", &Forger::with_another_key().changed(&token, &json!({})))
            .at_the_standby(),
        row("of another issuer", &changed(json!({ "iss": "https://other" }))),
        row("not yet valid", &changed(json!({ "nbf": now + 3600 }))),
        row("with no word of its account", &changed(json!({ "kubernetes.io": null }))),
        row("of an account that never was", &changed(never("nobody"))),
    ]
}

fn never(name: &str) -> serde_json::Value {
    json!({
        "sub": format!("system:serviceaccount:default:{name}"),
        "kubernetes.io": { "namespace": "default", "serviceaccount": { "name": name, "uid": "0" } },
    })
}

/// Of what was there when the token was made.
async fn gone(made: &Made<'_>) -> Vec<Row> {
    let cluster = made.cluster;
    let (_, deleted) = made.pod("deleted", PodPhase::Running).await;
    cluster.delete_pod("default", "deleted").await;
    let (_, recreated) = made.pod("recreated", PodPhase::Running).await;
    cluster.delete_pod("default", "recreated").await;
    let (uid, anew) = made.pod("recreated", PodPhase::Running).await;

    let account = cluster.account("default", "deleted").await;
    let asked = TokenFor { audiences: &["istio-ca"], lifetime: Duration::from_secs(3600), pod: None };
    let of_deleted = cluster.token(&account, &asked).await;
    delete_account(cluster, "deleted").await;
    let account = cluster.account("default", "recreated").await;
    let of_recreated = cluster.token(&account, &asked).await;
    delete_account(cluster, "recreated").await;
    let account = cluster.account("default", "recreated").await;
    let of_new = cluster.token(&account, &asked).await;

    let refused = |name, token: &str| {
        Row::new(name, by_token(token)).by(By::ApiServer).refused("the API server does not accept the token")
    };
    let issued = |name, token: &str| Row::new(name, by_token(token)).by(By::ApiServer);
    vec![
        refused("bound to a deleted pod", &deleted),
        refused("bound to a pod that was deleted and made anew", &recreated),
        issued("bound to the new one", &anew).issued(GATEWAY, &["pod recreated", &uid]),
        refused("of a deleted account", &of_deleted),
        refused("of an account that was deleted and made anew", &of_recreated),
        refused("of a deleted account, by way of the standby", &of_deleted).by(By::Active).at_the_standby(),
        issued("of the new one", &of_new).issued("default/recreated", &[]),
    ]
}

async fn delete_account(cluster: &Cluster, name: &str) {
    let accounts = Api::<ServiceAccount>::namespaced(cluster.admin(), "default");
    accounts.delete(name, &DeleteParams::default()).await.unwrap();
}

/// Known, and yet not given what is asked.
async fn others(made: &Made<'_>) -> Vec<Row> {
    let cluster = made.cluster;
    cluster.namespace_named("istio-system", &[]).await;
    let asked = TokenFor { audiences: &["istio-ca"], ..TokenFor::default() };
    let istiod = cluster.account("istio-system", "istiod").await;
    let istiod = cluster.token(&istiod, &asked).await;
    let denied = cluster.account("default", "denied").await;
    let denied = cluster.token(&denied, &asked).await;
    let (token, bad) = (made.token(&["istio-ca"]).await, turned(&made.token(&["istio-ca"]).await));
    let own = "spiffe://cluster.local/ns/default/sa/gateway";
    let row = |name, token: &str, reason| Row::new(name, by_token(token)).by(By::ApiServer).refused(reason);
    vec![
        row("for another's identity", &token, "may not impersonate")
            .impersonating("spiffe://cluster.local/ns/default/sa/other"),
        row("for its own identity as another's", &made.token(&["istio-ca"]).await, "may not impersonate")
            .impersonating(own),
        row("for another's identity, not believed itself", &bad, "does not accept the token").impersonating(own),
        row("of istiod", &istiod, "reserved for the control plane"),
        row("of an account that is denied", &denied, "is denied: lost"),
    ]
}

/// The administrator's, of the API server's token file.
fn user_token(cluster: &Cluster) -> String {
    let file = std::fs::read_to_string(cluster.folder().join("tokens.csv")).unwrap();
    file.split(',').next().unwrap().to_owned()
}
