//! What is said on the objects themselves.

use std::collections::BTreeSet;

use k8s_openapi::api::events::v1::Event;
use kube::{Api, api::ListParams};

use super::{LATER, Stage, install_kinds, objects};
use crate::{
    cluster::block_on,
    network::in_own_network,
    pair::NAMESPACE,
    policy_objects::objects::{SERVICE, TEAM},
    support::wait::wait_until,
};

#[test]
fn what_begins_is_said_once_by_the_active_alone() {
    in_own_network("policy_objects::events::what_begins_is_said_once_by_the_active_alone", |network| {
        let mut stage = Stage::start(network, &["a", "b"], |cluster| {
            block_on(async {
                install_kinds(cluster).await;
                objects::make_envoy_gateway(cluster).await;
                objects::make_team(cluster).await;
                // without a sidecar
                let bare = objects::pod("bare", SERVICE, "v1").replace("sidecar.istio.io/status", "note");
                cluster.apply(&bare).await;
                // its Gateway has no client certificate
                cluster.apply(&objects::OTHER_GATEWAY.replace("  tls: {backend:", "  #tls: {backend:")).await;
            });
        });
        wait_until(LATER, "one active", || if active(&stage).len() == 1 { Ok(()) } else { Err("none") });
        let first = active(&stage)[0];
        stage.on(async { objects::label(&stage.client(), Some("odd")).await });
        let service = format!("Service {TEAM}/{SERVICE}");
        let expected = [
            (format!("Namespace {TEAM}/{TEAM}"), "InjectionValueUnknown"),
            (service.clone(), "SidecarMissing"),
            ("Gateway gw/other".to_owned(), "ClientCertificateMissing"),
        ];
        for one in &expected {
            wait_until(LATER, one.1, || holds(&stage, one));
        }
        let missing = holds(&stage, &expected[1]).unwrap();
        let uid = stage.on(objects::service_uid(&stage.client(), SERVICE));
        assert_eq!(missing.regarding.as_ref().unwrap().uid.as_ref(), Some(&uid));
        assert_eq!((missing.type_.as_deref(), missing.action.as_deref()), (Some("Warning"), Some("RequireMutualTls")));
        assert!(missing.note.as_ref().unwrap().contains("kubectl rollout restart"), "{missing:?}");

        // nothing changes, nothing is written: a namespace of which something is said shows that it was looked
        mark(&stage, "none");
        let (before, written) = (said(&stage).len(), writes(&stage));
        mark(&stage, "one");
        assert_eq!((said(&stage).len(), writes(&stage)), (before + 2, written + 2), "{:?}", texts(&said(&stage)));
        // nor because another one takes over
        stage.replicas[first].process.kill();
        stage.replicas[1 - first].wait_until_active(LATER);
        mark(&stage, "two");
        assert_eq!((said(&stage).len(), writes(&stage)), (before + 4, written + 4), "{:?}", texts(&said(&stage)));
        // what begins again is the same Event
        stage.on(async { objects::label(&stage.client(), None).await });
        mark(&stage, "three");
        stage.on(async { objects::label(&stage.client(), Some("odd")).await });
        wait_until(LATER, "the same Event, once more", || {
            let event = holds(&stage, &expected[0])?;
            if event.series.as_ref().is_some_and(|series| series.count == 2) {
                Ok(())
            } else {
                Err(format!("{event:?}"))
            }
        });
        stage.check_nothing_was_refused();
    });
}

fn active(stage: &Stage) -> Vec<usize> {
    (0..2).filter(|replica| matches!(stage.replicas[*replica].role(), Ok(Some(_)))).collect()
}

/// The Event of that reason on an object.
fn holds(stage: &Stage, (subject, reason): &(String, &str)) -> Result<Event, String> {
    let said = said(stage);
    let found = said.iter().find(|event| name(event) == *subject && event.reason.as_deref() == Some(reason));
    found.cloned().ok_or_else(|| format!("no {reason} of {subject}: {:?}", texts(&said)))
}

/// Makes a namespace of which two things are to be said, and waits until they are.
fn mark(stage: &Stage, name: &str) {
    stage.on(stage.cluster.namespace_named(name, &[("istio-injection", "odd")]));
    for reason in ["InjectionValueUnknown", "IstioNotDetected"] {
        wait_until(LATER, name, || holds(stage, &(format!("Namespace {name}/{name}"), reason)));
    }
}

/// Ours.
fn said(stage: &Stage) -> Vec<Event> {
    let events = stage.on(async { Api::<Event>::all(stage.client()).list(&ListParams::default()).await.unwrap() });
    let ours = |event: &Event| event.reporting_controller.as_deref() == Some("countersign.io/policy");
    events.items.into_iter().filter(ours).collect()
}

fn name(event: &Event) -> String {
    let regarding = event.regarding.clone().unwrap_or_default();
    let text = |part: Option<String>| part.unwrap_or_default();
    format!("{} {}/{}", text(regarding.kind), text(regarding.namespace), text(regarding.name))
}

fn texts(events: &[Event]) -> BTreeSet<String> {
    events.iter().map(|event| format!("{} {:?} {:?}", name(event), event.reason, event.series)).collect()
}

/// How many requests the replicas have made for Events.
fn writes(stage: &Stage) -> usize {
    let replica = format!("system:serviceaccount:{NAMESPACE}:countersign");
    let requests = stage.cluster.requests().into_iter();
    requests.filter(|request| request.user == replica && request.resource == "events").count()
}
