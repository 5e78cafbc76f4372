//! The active ends in the middle of a change.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, api::ListParams};

use super::{LATER, Stage, install_kinds, objects};
use crate::{
    cluster::block_on, network::in_own_network, pair::TAKE_OVER, policy_objects::objects::TEAM,
    support::wait::wait_until,
};

const SERVICES: usize = 300;
/// Written by the first when it is killed, at least.
const BEGUN: usize = 20;
/// What a replica does at once, at most.
const UNDER_WAY: usize = 16;

fn policies(stage: &Stage) -> BTreeMap<String, (String, i64)> {
    stage.on(async {
        let listed = objects::policies(&stage.client(), TEAM).list(&ListParams::default()).await.unwrap();
        let one = |policy: kube::api::DynamicObject| {
            let metadata = policy.metadata;
            (metadata.name.unwrap(), (metadata.resource_version.unwrap(), metadata.generation.unwrap()))
        };
        listed.items.into_iter().map(one).collect()
    })
}

fn secrets(stage: &Stage) -> usize {
    stage.on(async {
        let sds = ListParams::default().fields("type=gateway.envoyproxy.io/sds");
        Api::<Secret>::namespaced(stage.client(), TEAM).list(&sds).await.unwrap().items.len()
    })
}

#[test]
fn another_replica_goes_on_where_the_active_was_killed() {
    in_own_network("policy_objects::take_over::another_replica_goes_on_where_the_active_was_killed", |network| {
        let mut stage = Stage::start(network, &["a", "b"], |cluster| {
            block_on(async {
                install_kinds(cluster).await;
                objects::make_envoy_gateway(cluster).await;
                cluster.namespace_named(TEAM, &[]).await;
                for number in 0..SERVICES {
                    cluster.apply(&objects::service(&format!("s{number:03}"))).await;
                }
            });
        });
        let active = wait_until(LATER, "one of the two active", || {
            stage.replicas.iter().position(|replica| matches!(replica.role(), Ok(Some(_)))).ok_or("none")
        });
        stage.wait_until_said(active, "0 of 0 policy objects");
        let client = stage.client();
        stage.on(objects::label(&client, Some("enabled")));
        wait_until(LATER, "some policies", || {
            let written = policies(&stage).len();
            if written >= BEGUN { Ok(()) } else { Err(format!("{written}")) }
        });
        stage.replicas[active].process.kill();
        let before = policies(&stage);
        println!("killed after {} of {SERVICES} policies", before.len());
        assert!(before.len() < SERVICES, "it was too fast to be killed in the middle");
        wait_until(TAKE_OVER + Duration::from_secs(10), "all policies and Secrets", || {
            let (policies, secrets) = (policies(&stage).len(), secrets(&stage));
            if (policies, secrets) == (SERVICES, SERVICES) { Ok(()) } else { Err(format!("{policies}, {secrets}")) }
        });
        let after = policies(&stage);
        for (name, state) in &before {
            assert_eq!(after.get(name), Some(state), "{name} was written again");
        }
        // and the other way round
        stage.on(objects::label(&client, None));
        wait_until(LATER, "fewer policies", || {
            let left = policies(&stage).len();
            if left < SERVICES { Ok(()) } else { Err(format!("{left}")) }
        });
        stage.replicas[active].restart();
        stage.replicas[active].wait_until_ready();
        stage.replicas[1 - active].process.kill();
        let left = wait_until(TAKE_OVER + Duration::from_secs(10), "no policies, and few Secrets", || {
            let (policies, secrets) = (policies(&stage).len(), secrets(&stage));
            if policies == 0 && secrets <= UNDER_WAY { Ok(secrets) } else { Err(format!("{policies}, {secrets}")) }
        });
        // a Secret whose policy the killed one had just removed is not seen by the next; it goes with its Service
        println!("{left} of {SERVICES} Secrets were left behind");
        stage.check_nothing_was_refused();
        stage.replicas[active].stop();
    });
}
