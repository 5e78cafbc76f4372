//! The ConfigMap in the namespaces that ask for it.

use countersign::domain::clock::Timestamp;
use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams},
};
use serde_json::json;

use super::{
    Duration, KEY, NAMESPACE, OWN, SOON, cluster, config_maps, has, nothing_was_denied, put,
    replica::{Authority, Replica, config},
    until, value, writes,
};
use crate::cluster::Cluster;

const LABEL: (&str, &str) = ("countersign.io/root-cert", "true");
const SECOND: Duration = Duration::from_secs(1);

/// Writes the key as somebody else would, and nothing but it.
async fn edit(cluster: &Cluster, namespace: &str, roots: &str) {
    let patch = Patch::Merge(json!({ "data": { KEY: roots } }));
    config_maps(cluster, namespace).patch(OWN, &PatchParams::default(), &patch).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_roots_are_kept_right_where_they_are_asked_for_and_nowhere_else() {
    let cluster = cluster(&["rbac.yaml"]).await;
    let authority = Authority::new();
    let roots = authority.roots();
    cluster.namespace_named("asks", &[LABEL]).await;
    cluster.namespace_named("silent", &[]).await;
    cluster.namespace_named("had-keys", &[LABEL]).await;
    put(&cluster, "had-keys", OWN, &[("other", "kept"), (KEY, "")]).await;
    let replica = Replica::start(&cluster, config()).await;
    assert_eq!(replica.status.borrow().to_string(), "the active replica distributes");
    replica.activate(1, &authority);
    for namespace in [NAMESPACE, "asks", "had-keys"] {
        has(&cluster, namespace, OWN, &roots, SOON).await;
    }
    replica.says_soon("3 of 3").await;
    assert_eq!(value(&cluster, "had-keys", OWN, "other").await.unwrap(), "kept");

    // a namespace, a label, a deletion, an edit: each put right within a second
    cluster.namespace_named("late", &[LABEL]).await;
    has(&cluster, "late", OWN, &roots, SECOND).await;
    let label = Patch::Merge(json!({ "metadata": { "labels": { LABEL.0: LABEL.1 } } }));
    let namespaces = Api::<Namespace>::all(cluster.admin());
    namespaces.patch("silent", &PatchParams::default(), &label).await.unwrap();
    has(&cluster, "silent", OWN, &roots, SECOND).await;
    config_maps(&cluster, "asks").delete(OWN, &DeleteParams::default()).await.unwrap();
    has(&cluster, "asks", OWN, &roots, SECOND).await;
    edit(&cluster, "had-keys", "edited").await;
    has(&cluster, "had-keys", OWN, &roots, SECOND).await;
    let managers = config_maps(&cluster, "had-keys").get(OWN).await.unwrap().metadata.managed_fields.unwrap();
    let ours = managers.iter().find(|entry| entry.manager.as_deref() == Some("countersign")).expect("our fields");
    let fields = serde_json::to_string(&ours.fields_v1).unwrap();
    assert!(fields.contains("f:root-cert.pem") && !fields.contains("f:other"), "{fields}");

    // one that is being deleted takes nothing any more
    namespaces.delete("late", &DeleteParams::default()).await.unwrap();
    until(SOON, "going", async || match namespaces.get("late").await.unwrap().metadata.deletion_timestamp {
        Some(_) => Ok(()),
        None => Err("it is there"),
    })
    .await;
    replica.says_soon("4 of 4").await;
    cluster.delete_namespace("late").await;

    // the roots change, also to less
    let other = Authority::new();
    let more = || authority.publish_also(&other.certificate);
    let less = || authority.publish_alone();
    for change in [&more as &dyn Fn() -> String, &less] {
        let roots = change();
        for namespace in [NAMESPACE, "asks", "silent", "had-keys"] {
            has(&cluster, namespace, OWN, &roots, SOON).await;
        }
    }
    replica.says_soon("4 of 4").await;

    // another replica finds nothing to do
    let before = writes(&cluster);
    replica.stand_by();
    until(SOON, "no places on the page of a standby", async || {
        let page = replica.metrics.page(Timestamp::from_seconds(0));
        if page.contains("countersign_root_places{") { Err(page) } else { Ok(()) }
    })
    .await;
    let next = Replica::start(&cluster, config()).await;
    next.activate(2, &authority);
    next.says_soon("4 of 4").await;
    assert_eq!(writes(&cluster), before);
    nothing_was_denied(&cluster);
}

#[tokio::test(flavor = "multi_thread")]
async fn other_peoples_roots_are_a_conflict_and_other_writers_no_match() {
    let cluster = cluster(&["rbac.yaml"]).await;
    let (authority, other) = (Authority::new(), Authority::new());
    let (roots, foreign) = (authority.roots(), other.roots());
    for namespace in ["conflict", "garbage", "fought", "subset"] {
        cluster.namespace_named(namespace, &[LABEL]).await;
    }
    put(&cluster, "conflict", OWN, &[(KEY, &foreign)]).await;
    put(&cluster, "garbage", OWN, &[(KEY, "not a certificate")]).await;
    put(&cluster, "subset", OWN, &[(KEY, &roots)]).await;
    let both = authority.publish_also(&other.certificate);
    authority.publish_alone();
    let replica = Replica::start(&cluster, config()).await;
    replica.activate(1, &authority);
    replica.says_soon("3 of 5, RootConflict: conflict garbage").await;
    let page = replica.metrics.page(Timestamp::from_seconds(0));
    assert!(page.contains("countersign_root_places{kind=\"config_map\",state=\"conflict\"} 2"), "{page}");
    has(&cluster, "fought", OWN, &roots, SOON).await;

    // somebody insists: put right once, then left alone and told
    edit(&cluster, "fought", &foreign).await;
    has(&cluster, "fought", OWN, &roots, SOON).await;
    edit(&cluster, "fought", &foreign).await;
    replica.says_soon("fought over: fought").await;
    has(&cluster, "fought", OWN, &foreign, SOON).await;
    assert_eq!(value(&cluster, "conflict", OWN, KEY).await.unwrap(), foreign);
    // whoever deletes it has given in
    config_maps(&cluster, "fought").delete(OWN, &DeleteParams::default()).await.unwrap();
    has(&cluster, "fought", OWN, &roots, SOON).await;

    // once both roots are ours there is no conflict
    assert_eq!(authority.publish_also(&other.certificate), both);
    has(&cluster, "conflict", OWN, &both, SOON).await;
    has(&cluster, "subset", OWN, &both, SOON).await;
    replica.says_soon("4 of 5, RootConflict: garbage").await;

    replica.stand_by();
    let adopting = Replica::start(
        &cluster,
        countersign::service::bundle_distribution::DistributionConfig { adopt: true, ..config() },
    )
    .await;
    adopting.activate(2, &authority);
    has(&cluster, "garbage", OWN, &both, SOON).await;
    adopting.says_soon("5 of 5").await;
    nothing_was_denied(&cluster);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_rights_it_says_what_is_missing_and_goes_on_once_it_has_them() {
    let cluster = cluster(&[]).await;
    let authority = Authority::new();
    cluster.account(NAMESPACE, "countersign").await;
    let replica = Replica::start(&cluster, config()).await;
    replica.activate(1, &authority);
    replica.says_soon("is forbidden").await;
    cluster.apply_file(&crate::pair::shipped("rbac.yaml")).await;
    replica.says("1 of 1", Duration::from_secs(20)).await;
    has(&cluster, NAMESPACE, OWN, &authority.roots(), SOON).await;
}
