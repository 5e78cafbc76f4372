//! What people and other programs do to the objects.

use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde_json::json;

use super::{LATER, POLICY, SOON, Stage, is_complete, objects};
use crate::{
    network::in_own_network,
    policy_objects::objects::{SERVICE, TEAM},
    support::{countersign::countersign, http, observe::leave_for_alerts, wait::wait_until},
};

/// Until what was refused is tried again.
const RETRIED: Duration = Duration::from_secs(90);

#[test]
fn what_is_edited_or_deleted_is_put_right_and_what_is_right_is_not_written() {
    in_own_network(
        "policy_objects::hands::what_is_edited_or_deleted_is_put_right_and_what_is_right_is_not_written",
        |network| {
            let mut stage = Stage::complete(network);
            let client = stage.client();
            stage.on(objects::label(&client, Some("enabled")));
            wait_until(LATER, "objects", || is_complete(&stage));

            stage.on(objects::edit(
                &client,
                POLICY,
                &json!({ "spec": { "targetRefs": [
            { "group": "", "kind": "Service", "name": "elsewhere" },
        ] } }),
            ));
            wait_until(SOON, "the policy after an edit", || is_complete(&stage));
            stage.on(objects::edit(&client, POLICY, &json!({ "metadata": { "labels": null, "annotations": null } })));
            wait_until(LATER, "labels and annotations after an edit", || {
                let policy = stage.on(objects::get(&client, TEAM, POLICY)).ok_or("no policy")?;
                let (labels, annotations) = (policy.metadata.labels, policy.metadata.annotations);
                let are_back =
                    labels.is_some_and(|labels| labels.len() == 1) && annotations.is_some_and(|all| all.len() == 2);
                if are_back { Ok(()) } else { Err("they are not back") }
            });
            stage
                .on(async { objects::policies(&client, TEAM).delete(POLICY, &DeleteParams::default()).await.unwrap() });
            wait_until(LATER, "the policy after it was deleted", || is_complete(&stage));
            a_lost_secret(&stage);
            another_version_of_envoy_gateway(&stage);
            nothing_in_half_a_minute(&stage);
            secrets_of_somebody_else(&mut stage);
            a_finalizer(&stage);
            stage.check_nothing_was_refused();
            stage.replicas[0].stop();
        },
    );
}

/// Nobody sees that a Secret is deleted, but a gateway misses it.
fn a_lost_secret(stage: &Stage) {
    let client = stage.client();
    let secrets: Api<Secret> = Api::namespaced(client.clone(), TEAM);
    let change = Patch::Merge(json!({ "stringData": { "secretName": "default" } }));
    let refused = stage.on(async { secrets.patch(POLICY, &PatchParams::default(), &change).await.unwrap_err() });
    assert!(refused.to_string().contains("immutable"), "{refused}");
    stage.on(async { secrets.delete(POLICY, &DeleteParams::default()).await.map(drop).unwrap() });
    let status = Patch::Merge(json!({ "status": { "ancestors": [{
        "ancestorRef": { "name": "gw", "namespace": "gw" },
        "controllerName": "gateway.envoyproxy.io/gatewayclass-controller",
        "conditions": [{
            "type": "ResolvedRefs", "status": "False", "reason": "InvalidCACertificateRef", "message": "not found",
            "lastTransitionTime": "2026-11-27T10:00:00Z",
        }],
    }] } }));
    stage.on(async {
        objects::policies(&client, TEAM)
            .patch_status(POLICY, &PatchParams::default(), &status)
            .await
            .map(drop)
            .unwrap();
    });
    wait_until(LATER, "the Secret after a gateway missed it", || is_complete(stage));
}

/// What is in a Secret of ours can't be changed, and another version of Envoy Gateway reads another content. Of the gateway's own Secret,
/// which is a user's, it is said that it has to be changed; until then nothing is there that the gateway could not use.
fn another_version_of_envoy_gateway(stage: &Stage) {
    let client = stage.client();
    let own: Api<Secret> = Api::namespaced(client.clone(), "gw");
    let controllers: Api<k8s_openapi::api::core::v1::Pod> = Api::namespaced(client.clone(), "envoy-gateway-system");
    let socket = "/var/run/countersign/workload.sock";
    let before = stage.on(objects::secret(&client, TEAM, POLICY)).unwrap().metadata.uid;
    for (version, url, own_url) in [
        ("v1.8.2", socket.to_owned(), socket.to_owned()),
        ("v1.9.1", format!("unix://{socket}"), format!("unix://{socket}")),
    ] {
        let containers = json!([{ "name": "envoy-gateway", "image": format!("envoyproxy/gateway:{version}") }]);
        let image = Patch::Strategic(json!({ "spec": { "containers": containers } }));
        stage.on(async {
            controllers.patch("envoy-gateway-0", &PatchParams::default(), &image).await.map(drop).unwrap();
        });
        wait_until(LATER, &format!("what {version} does not read"), || {
            let mut gateways = countersign();
            gateways.args(["policy", "gateways", "gw", "--data-dir"]).arg(stage.replicas[0].data());
            let said = String::from_utf8(gateways.output().unwrap().stdout).unwrap();
            if said.contains("does not read") { Ok(()) } else { Err(said) }
        });
        let change = Patch::Merge(json!({ "stringData": { "url": own_url } }));
        stage.on(async { own.patch("countersign-svid", &PatchParams::default(), &change).await.map(drop).unwrap() });
        wait_until(LATER, &format!("a Secret as {version} reads it"), || {
            let secret = stage.on(objects::secret(&client, TEAM, POLICY)).ok_or("no Secret")?;
            let found = secret.data.and_then(|data| String::from_utf8(data.get("url")?.0.clone()).ok());
            if found.as_ref() == Some(&url) { Ok(()) } else { Err(format!("{found:?}")) }
        });
        assert!(stage.on(objects::get(&client, TEAM, POLICY)).is_some(), "the policy stays");
    }
    let after = stage.on(objects::secret(&client, TEAM, POLICY)).unwrap().metadata.uid;
    assert_ne!(before, after, "another Secret");
    wait_until(LATER, "all of it as before", || is_complete(stage));
}

/// One that a policy of ours was made to name, and one in the place of ours: neither is removed, also by a replica that has not seen how
/// they came about.
fn secrets_of_somebody_else(stage: &mut Stage) {
    let client = stage.client();
    let secrets: Api<Secret> = Api::namespaced(client.clone(), TEAM);
    let theirs = |name: &str| -> Secret {
        let item = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": { "name": name }, "type": "gateway.envoyproxy.io/sds",
            "stringData": { "url": "unix:///theirs", "secretName": "theirs" },
        });
        serde_json::from_value(item).unwrap()
    };
    let make = |name: &'static str| {
        let (secrets, item) = (secrets.clone(), theirs(name));
        async move { secrets.create(&PostParams::default(), &item).await.map(drop).unwrap() }
    };
    let named = json!([{ "group": "", "kind": "Secret", "name": "theirs" }]);
    stage.on(async {
        make("theirs").await;
        objects::edit(&client, POLICY, &json!({ "spec": { "validation": { "caCertificateRefs": named } } })).await;
    });
    wait_until(SOON, "the policy after it named another Secret", || is_complete(stage));
    stage.on(async {
        secrets.delete(POLICY, &DeleteParams::default()).await.map(drop).unwrap();
        make(POLICY).await;
    });
    stage.replicas[0].restart();
    stage.replicas[0].wait_until_active(LATER);
    stage.wait_until_said(0, "Failing: Secret test-infra/countersign-backend");
    let before = stage.writes().len();
    stage.on(objects::label(&client, None));
    let written = wait_until(LATER, "a look at the Secret without the policy", || {
        let written: Vec<String> =
            stage.writes()[before..].iter().map(|one| format!("{} {}", one.verb, one.resource)).collect();
        let is_looked_at = written.ends_with(&["delete backendtlspolicies".into(), "patch secrets".into()]);
        if is_looked_at { Ok(written) } else { Err(format!("{written:?}")) }
    });
    stage.wait_until_said(0, "0 of 0 policy objects");
    assert!(!written.contains(&"delete secrets".to_owned()), "{written:?}");
    for name in ["theirs", POLICY] {
        let found = stage.on(objects::secret(&client, TEAM, name)).unwrap_or_else(|| panic!("{name} is gone"));
        assert_eq!(found.data.unwrap()["url"].0, b"unix:///theirs", "{name}");
        stage.on(async { secrets.delete(name, &DeleteParams::default()).await.map(drop).unwrap() });
    }
    stage.on(objects::label(&client, Some("enabled")));
    wait_until(LATER, "all of it as before", || is_complete(stage));
}

fn nothing_in_half_a_minute(stage: &Stage) {
    let client = stage.client();
    let before = stage.writes().len();
    stage.on(async {
        // what has nothing to do with it
        stage.cluster.namespace_named("unrelated", &[]).await;
        stage.cluster.secret("unrelated", "countersign-backend", &[("a", b"b")]).await;
        let labels = json!({ "metadata": { "labels": { "team": "x" }, "annotations": { "note": "x" } } });
        objects::edit(&client, POLICY, &labels).await;
        let services: Api<k8s_openapi::api::core::v1::Service> = Api::namespaced(client.clone(), TEAM);
        services.patch(SERVICE, &PatchParams::default(), &Patch::Merge(&labels)).await.unwrap();
        let account = stage.cluster.account("unrelated", "somebody").await;
        stage.cluster.pod(&account, "somebody").await;
    });
    stage.let_half_a_minute_pass();
    let written = &stage.writes()[before..];
    assert!(written.is_empty(), "{written:#?}");
}

fn a_finalizer(stage: &Stage) {
    let client = stage.client();
    stage.on(async {
        objects::edit(&client, POLICY, &json!({ "metadata": { "finalizers": ["example.test/keep"] } })).await;
        objects::policies(&client, TEAM).delete(POLICY, &DeleteParams::default()).await.unwrap();
    });
    stage.wait_until_said(0, "DeletionPending: BackendTLSPolicy test-infra/countersign-backend");
    let before = stage.writes().len();
    stage.on(objects::edit(&client, POLICY, &json!({ "metadata": { "finalizers": null } })));
    wait_until(LATER, "the policy once it was gone", || is_complete(stage));
    let written = stage.writes().len() - before;
    assert_eq!(written, 1, "one write");
}

#[test]
fn what_others_have_made_is_left_alone() {
    in_own_network("policy_objects::hands::what_others_have_made_is_left_alone", |network| {
        let mut stage = Stage::complete(network);
        let client = stage.client();
        stage.on(async {
            stage.cluster.apply(&objects::foreign_policy("mine", SERVICE)).await;
            stage.cluster.apply(&objects::service("other")).await;
            stage.cluster.apply(&objects::foreign_policy("countersign-other", "third")).await;
            stage.cluster.apply(&objects::service("fourth")).await;
            stage.cluster.apply(&objects::service("fifth")).await;
            stage.cluster.apply(&objects::foreign_secret("countersign-fifth")).await;
            stage.cluster.apply(&objects::service("sixth")).await;
            stage.cluster.apply(&objects::foreign_text_secret("countersign-sixth")).await;
        });
        let mut diff = countersign();
        diff.args(["policy", "diff", "--label", TEAM, "--data-dir"]).arg(stage.replicas[0].data());
        wait_until(SOON, "a foretold conflict and a foretold policy", || {
            let said = String::from_utf8(diff.output().unwrap().stdout).unwrap();
            let is_foretold =
                said.contains("Conflicted") && said.contains("+ BackendTLSPolicy test-infra/countersign-fourth");
            if is_foretold { Ok(()) } else { Err(said) }
        });
        let metrics = || http::get(stage.replicas[0].admin(), "/metrics").unwrap();
        let unlabelled = metrics();
        stage.on(objects::label(&client, Some("enabled")));
        let version =
            |name: &str| stage.on(objects::get(&client, TEAM, name)).and_then(|found| found.metadata.resource_version);
        let before = [version("mine"), version("countersign-other")];
        wait_until(SOON, "the policy of another Service", || version("countersign-fourth").ok_or("no policy"));
        stage.wait_until_said(0, "NameTaken: BackendTLSPolicy test-infra/countersign-other");
        assert_eq!(version(POLICY), None, "beside a user's own policy");
        let page = wait_until(SOON, "the conflict in the metrics", || {
            let page = metrics();
            let is_shown = page.contains("countersign_gateway_conditions{reason=\"Conflicted\"} ");
            if is_shown { Ok(page) } else { Err(page) }
        });
        leave_for_alerts("policy_of_others", &unlabelled, &page);
        assert_eq!([version("mine"), version("countersign-other")], before);
        let theirs = [("countersign-fifth", "conflict"), ("countersign-sixth", "field manager")];
        theirs.into_iter().for_each(|(name, why)| somebody_elses_secret(&stage, name, why));
        theirs.into_iter().for_each(|(name, _)| ours_in_the_place_of_theirs(&stage, name));
        for (name, ours) in [("mine", POLICY), ("countersign-other", "countersign-other")] {
            stage.on(async { objects::policies(&client, TEAM).delete(name, &DeleteParams::default()).await.unwrap() });
            wait_until(SOON, "ours once theirs is gone", || {
                let found = stage.on(objects::get(&client, TEAM, ours)).ok_or("no policy")?;
                let is_ours = found.metadata.owner_references.is_some();
                if is_ours { Ok(()) } else { Err("theirs is there") }
            });
        }
        stage.check_nothing_was_refused();
        stage.replicas[0].stop();
    });
}

/// Of Secrets nothing is seen but what a write is answered.
fn somebody_elses_secret(stage: &Stage, name: &str, why: &str) {
    let client = stage.client();
    let secret = || stage.on(objects::secret(&client, TEAM, name));
    wait_until(LATER, &format!("{name} reported, with {why:?}"), || {
        let errors = stage.replicas[0].process.errors();
        let mut lines = errors.lines().filter(|line| line.contains("policy_object_not_written"));
        let is_said = lines.any(|line| line.contains(name) && line.contains(why));
        if is_said { Ok(()) } else { Err(errors) }
    });
    let found = secret().unwrap();
    assert_eq!((found.metadata.owner_references, found.immutable), (None, None), "{name} is theirs");
    let url = found.data.and_then(|data| String::from_utf8(data["url"].0.clone()).ok());
    assert_eq!(url.as_deref(), Some("/elsewhere"), "{name}");
    assert_eq!(stage.on(objects::get(&client, TEAM, name)).map(|found| found.metadata.name), None);
    let theirs = Api::<Secret>::namespaced(client.clone(), TEAM);
    stage.on(async { theirs.delete(name, &DeleteParams::default()).await.unwrap() });
}

fn ours_in_the_place_of_theirs(stage: &Stage, name: &str) {
    let client = stage.client();
    let secret = || stage.on(objects::secret(&client, TEAM, name));
    wait_until(RETRIED, "ours once theirs is gone", || {
        let is_ours = secret().is_some_and(|secret| secret.metadata.owner_references.is_some());
        let policy = stage.on(objects::get(&client, TEAM, name));
        if is_ours && policy.is_some() { Ok(()) } else { Err("it is not there") }
    });
}
