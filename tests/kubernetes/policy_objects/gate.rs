//! Which istiods there are decides whether there may be policies: they go and come back in the cluster itself.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use super::{LATER, POLICY, Stage, is_complete, is_empty, objects};
use crate::{
    istio::{
        istiod::NAMESPACE,
        told::{self, Monitoring},
    },
    network::in_own_network,
    policy_objects::objects::TEAM,
    support::{countersign::countersign, wait::wait_until},
};

const GATEWAY_API_OFF: [(&str, &str); 1] = [("PILOT_ENABLE_GATEWAY_API", "false")];

/// Waits until the replica says this of the team or of one of its Services, and not that.
fn wait_until_explained(stage: &Stage, subject: &str, text: &str, not: &str) {
    wait_until(LATER, &format!("{text:?} and not {not:?}"), || {
        let mut explain = countersign();
        explain.args(["policy", "explain", subject, "--data-dir"]).arg(stage.replicas[0].data());
        let output = explain.output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() && said.contains(text) && !said.contains(not) { Ok(()) } else { Err(said) }
    });
}

fn start(stage: &Stage, name: &str, at: IpAddr, port: u16, variables: &[(&str, &str)]) {
    stage.on(async {
        told::create(&stage.cluster, name, "default", port, variables).await;
        told::run(&stage.cluster, name, at).await;
    });
}

fn policy_uid(stage: &Stage) -> Option<String> {
    stage.on(objects::get(&stage.client(), TEAM, POLICY))?.metadata.uid
}

#[test]
fn policies_go_with_an_unsafe_istiod_and_are_back_when_it_leaves_them_alone_but_not_while_it_is_replaced() {
    in_own_network(
        "policy_objects::gate::policies_go_with_an_unsafe_istiod_and_are_back_when_it_leaves_them_alone_but_not_while_it_is_replaced",
        |network| {
            let at = network.address().into();
            let [unsafe_one, safe_one] = ["1.29.1", "1.31.0"].map(|version| Monitoring::start(at, Some(version)));
            let mut stage = Stage::complete(network);
            stage.on(stage.cluster.namespace_named(NAMESPACE, &[]));
            stage.on(async {
                told::create(&stage.cluster, "istiod-canary", "canary", safe_one.port, &[]).await;
                told::run(&stage.cluster, "istiod-canary", at).await;
            });
            stage.on(objects::label(&stage.client(), Some("enabled")));
            wait_until(LATER, "objects beside an istiod that is safe", || is_complete(&stage));

            let begin = Instant::now();
            start(&stage, "istiod-0", at, unsafe_one.port, &[]);
            wait_until(LATER, "nothing beside an unsafe istiod, whatever that of another revision is", || {
                is_empty(&stage)
            });
            println!("an unsafe istiod runs: nothing is there after {:?}", begin.elapsed());
            stage.on(stage.cluster.delete_pod(NAMESPACE, "istiod-canary"));

            // the only one is replaced: gone, made, running
            let before = stage.writes().len();
            stage.on(stage.cluster.delete_pod(NAMESPACE, "istiod-0"));
            wait_until_explained(&stage, TEAM, "IstioNotDetected", "UnsafeOnThisIstio");
            stage.on(told::create(&stage.cluster, "istiod-1", "default", unsafe_one.port, &[]));
            wait_until_explained(&stage, TEAM, "mutual TLS is required", "IstioNotDetected");
            stage.on(stage.cluster.apply(&objects::service("meanwhile")));
            wait_until_explained(&stage, &format!("{TEAM}/meanwhile"), "mutual TLS is required", "UnsafeOnThisIstio");
            stage.on(told::run(&stage.cluster, "istiod-1", at));
            wait_until_explained(&stage, TEAM, "UnsafeOnThisIstio", "IstioNotDetected");
            let written = &stage.writes()[before..];
            assert!(written.is_empty(), "while it was replaced: {written:#?}");

            // as a roll-out does it: the new one first
            let begin = Instant::now();
            start(&stage, "istiod-2", at, unsafe_one.port, &GATEWAY_API_OFF);
            stage.on(stage.cluster.delete_pod(NAMESPACE, "istiod-1"));
            wait_until(LATER, "objects beside an istiod that leaves them alone", || is_complete(&stage));
            println!("it is told to leave policies alone: all is there after {:?}", begin.elapsed());
            stage.check_nothing_was_refused();
            stage.replicas[0].stop();
        },
    );
}

#[test]
fn a_replica_that_starts_while_istiod_does_removes_nothing_and_adds_nothing() {
    in_own_network(
        "policy_objects::gate::a_replica_that_starts_while_istiod_does_removes_nothing_and_adds_nothing",
        |network| {
            let at = network.address().into();
            let istiod = Monitoring::start(at, None);
            let mut stage = Stage::complete(network);
            stage.on(stage.cluster.namespace_named(NAMESPACE, &[]));
            stage.on(objects::label(&stage.client(), Some("enabled")));
            wait_until(LATER, "objects", || is_complete(&stage));
            let uid = policy_uid(&stage);
            stage.replicas[0].stop();

            start(&stage, "istiod-0", at, istiod.port, &[]);
            stage.on(stage.cluster.apply(&objects::service("late")));
            let before = stage.writes().len();
            stage.replicas[0].restart();
            let begin = Instant::now();
            stage.replicas[0].wait_until_ready();
            stage.replicas[0].wait_until_active(LATER);
            stage.wait_until_said(0, "2 of 2 policy objects");
            assert!(begin.elapsed() < STARTING, "it was to be seen while istiod was starting: {:?}", begin.elapsed());
            let late = || stage.on(objects::get(&stage.client(), TEAM, "countersign-late"));
            assert_eq!(late().map(|policy| policy.metadata.name), None);
            let written: Vec<_> =
                stage.writes().split_off(before).into_iter().filter(|write| write.resource != "secrets").collect();
            assert!(written.is_empty(), "{written:#?}");

            istiod.say("1.31.0");
            wait_until(LATER, "a policy for the other Service", || late().map(drop).ok_or("no policy"));
            assert_eq!(policy_uid(&stage), uid, "it was removed and made again");
            let removed: Vec<_> =
                stage.writes().split_off(before).into_iter().filter(|write| write.verb == "delete").collect();
            assert!(removed.is_empty(), "{removed:#?}");
            stage.check_nothing_was_refused();
            stage.replicas[0].stop();
        },
    );
}

/// For so long an istiod may be silent before it is unknown.
const STARTING: Duration = Duration::from_secs(30);
