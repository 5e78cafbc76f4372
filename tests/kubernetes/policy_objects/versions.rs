//! A cluster that serves an older BackendTLSPolicy alone, and then the one that is written.

use std::{fs, time::Duration};

use super::{LATER, Stage, is_complete, objects};
use crate::{
    cluster::{Cluster, block_on},
    network::in_own_network,
    support::{peer::peer_file, wait::wait_until},
};

/// A better version is looked for whenever a watch has ended.
const NOTICED: Duration = Duration::from_secs(60);

/// The kinds with version `v1alpha3` of the policy in the place of `v1`, or beside it.
async fn install(cluster: &Cluster, serves_v1: bool) {
    for document in fs::read_to_string(peer_file("gateway-crds.yaml")).unwrap().split("\n---\n") {
        let mut kind: serde_json::Value = serde_yaml_ng::from_str(document).unwrap();
        if kind["metadata"]["name"] == "backendtlspolicies.gateway.networking.k8s.io" {
            for version in kind["spec"]["versions"].as_array_mut().unwrap() {
                version["served"] = (serves_v1 || version["name"] == "v1alpha3").into();
            }
        }
        cluster.apply(&kind.to_string()).await;
    }
}

#[test]
fn nothing_is_written_where_only_an_older_policy_is_served() {
    in_own_network("policy_objects::versions::nothing_is_written_where_only_an_older_policy_is_served", |network| {
        let mut stage = Stage::start(network, &["a"], |cluster| {
            block_on(async {
                install(cluster, false).await;
                cluster.apply_file(&peer_file("envoy-gateway-crds.yaml")).await;
                let old = objects::kind(objects::GATEWAY_API, "v1alpha3", "BackendTLSPolicy", "backendtlspolicies");
                let proxies = objects::kind("gateway.envoyproxy.io", "v1alpha1", "EnvoyProxy", "envoyproxies");
                objects::wait_until_served(cluster, &[old, proxies]).await;
                objects::make_envoy_gateway(cluster).await;
                objects::make_team(cluster).await;
                objects::label(&cluster.admin(), Some("enabled")).await;
            });
        });
        stage.replicas[0].wait_until_active(LATER);
        stage.wait_until_said(0, "0 of 0 policy objects");
        assert!(stage.writes().is_empty(), "{:?}", stage.writes());
        stage.on(install(&stage.cluster, true));
        wait_until(NOTICED, "objects once the newer version is served", || is_complete(&stage));
        stage.check_nothing_was_refused();
        stage.replicas[0].stop();
    });
}
