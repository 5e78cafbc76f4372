//! A label, and what comes of it.

use std::time::Instant;

use kube::api::DeleteParams;
use serde_json::json;

use super::{LATER, POLICY, SOON, Stage, install_kinds, is_complete, is_empty, objects};
use crate::{
    cluster::block_on,
    network::in_own_network,
    pair::TRUST_DOMAIN,
    policy_objects::objects::{SERVICE, TEAM},
    support::wait::wait_until,
};

const ROUNDS: usize = 5;

#[test]
fn objects_come_with_a_label_and_go_with_it_also_where_the_kinds_came_last() {
    in_own_network(
        "policy_objects::labels::objects_come_with_a_label_and_go_with_it_also_where_the_kinds_came_last",
        |network| {
            let mut stage = Stage::start(network, &["a"], |cluster| {
                block_on(async {
                    objects::make_team(cluster).await;
                    objects::label(&cluster.admin(), Some("enabled")).await;
                });
            });
            stage.replicas[0].wait_until_active(LATER);
            stage.wait_until_said(0, "0 of 0 policy objects");
            assert!(stage.writes().is_empty(), "{:?}", stage.writes());
            stage.on(async {
                install_kinds(&stage.cluster).await;
                objects::make_envoy_gateway(&stage.cluster).await;
            });
            wait_until(LATER, "objects once the kinds are there", || is_complete(&stage));
            let client = stage.client();
            stage.on(async {
                let policy = objects::get(&client, TEAM, POLICY).await.unwrap();
                let metadata = serde_json::to_value(&policy.metadata).unwrap();
                assert_eq!(metadata["ownerReferences"][0]["uid"], json!(objects::service_uid(&client, SERVICE).await));
                assert_eq!(metadata["labels"]["app.kubernetes.io/managed-by"], "countersign");
                assert_eq!(metadata["annotations"]["istio.io/ignore-policy-attachment"], "true");
                assert_eq!(metadata["annotations"]["argocd.argoproj.io/compare-options"], "IgnoreExtraneous");
                assert_eq!(policy.data["spec"]["validation"]["hostname"], "backend.test-infra.svc.cluster.local");
            });
            for _ in 0..ROUNDS {
                let begin = Instant::now();
                stage.on(async { objects::label(&client, None).await });
                wait_until(SOON, "nothing without the label", || is_empty(&stage));
                let (gone, begin) = (begin.elapsed(), Instant::now());
                stage.on(async { objects::label(&client, Some("enabled")).await });
                wait_until(SOON, "objects with the label", || is_complete(&stage));
                println!("label removed: nothing after {gone:?}; label set: all after {:?}", begin.elapsed());
            }
            another_kind_of_gateway(&stage);
            stage.check_nothing_was_refused();
            stage.replicas[0].stop();
        },
    );
}

/// A gateway that knows no SDS needs identities in the policy: what holds the roots is added first, and removed last.
fn another_kind_of_gateway(stage: &Stage) {
    let client = stage.client();
    // the API server puts a write on record after it is seen
    let before = wait_until(SOON, "the last policy on record", || match stage.writes() {
        writes if writes.last().is_some_and(|last| last.resource == "backendtlspolicies") => Ok(writes.len()),
        writes => Err(format!("{:?}", writes.last())),
    });
    stage.on(stage.cluster.apply(objects::OTHER_GATEWAY));
    wait_until(SOON, "identities in the policy", || {
        stage.on(async {
            let policy = objects::get(&client, TEAM, POLICY).await.ok_or("no policy")?;
            let validation = &policy.data["spec"]["validation"];
            let id = format!("spiffe://{TRUST_DOMAIN}/ns/{TEAM}/sa/v1");
            let roots = objects::roots(&client, TEAM).await.and_then(|found| found.data).ok_or("no roots")?;
            let is_right = validation["subjectAltNames"] == json!([{ "type": "URI", "uri": id }])
                && validation["caCertificateRefs"][0]["kind"] == "ConfigMap"
                && roots["ca.crt"].starts_with("-----BEGIN CERTIFICATE-----")
                && objects::secret(&client, TEAM, POLICY).await.is_none();
            if is_right { Ok(()) } else { Err(format!("{validation}")) }
        })
    });
    let order = wait_until(SOON, "three writes on record", || {
        let writes = stage.writes();
        let order: Vec<String> = writes[before..].iter().map(|one| format!("{} {}", one.verb, one.resource)).collect();
        if order.len() >= 3 { Ok(order) } else { Err(format!("{order:?}")) }
    });
    assert_eq!(order, ["patch configmaps", "patch backendtlspolicies", "delete secrets"]);
    stage.on(async {
        let gateway = objects::kind(objects::GATEWAY_API, "v1", "Gateway", "gateways");
        let gateways: kube::Api<kube::api::DynamicObject> = kube::Api::namespaced_with(client.clone(), "gw", &gateway);
        gateways.delete("other", &DeleteParams::default()).await.unwrap();
    });
    wait_until(SOON, "SDS again", || is_complete(stage));
    wait_until(SOON, "no roots any more", || match stage.on(objects::roots(&client, TEAM)) {
        None => Ok(()),
        Some(found) => Err(format!("{found:?}")),
    });
}
