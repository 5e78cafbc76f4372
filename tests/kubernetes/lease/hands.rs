//! Hands on the Lease.

use std::time::Duration;

use countersign::domain::leadership::Term;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};

use super::replicas::{NAME, Replicas, bound, short};
use crate::{cluster::Cluster, support::wait::wait_until};

fn patch(replicas: &Replicas, patch: Value) -> Lease {
    let patch = Patch::Merge(patch);
    replicas.on_runtime(async { replicas.leases.patch(NAME, &PatchParams::default(), &patch).await.unwrap() })
}

fn annotate(replicas: &Replicas, name: &str, value: &str) {
    let name = format!("countersign.io/{name}");
    patch(replicas, json!({ "metadata": { "annotations": { name: value } } }));
}

#[test]
fn whatever_a_hand_does_to_the_lease_the_term_ends_and_a_higher_one_begins() {
    let replicas = Replicas::start(Cluster::shared(), 3, short());
    let (mut active, mut term) = replicas.wait_for_active(Term::NONE, bound(short()));
    let hold = |holder: &str| json!({ "spec": { "holderIdentity": holder } });
    type Edit<'a> = (&'a str, Box<dyn Fn(usize, Term) + 'a>);
    let edits: [Edit<'_>; 9] = [
        (
            "deleted",
            Box::new(|_, _| {
                replicas.on_runtime(async { replicas.leases.delete(NAME, &DeleteParams::default()).await.unwrap() });
            }),
        ),
        ("given to a stranger", Box::new(|_, _| drop(patch(&replicas, hold("stranger"))))),
        (
            "given to a standby",
            Box::new(|active, _| {
                drop(patch(&replicas, hold(&replicas.all[(active + 1) % 3].id)));
            }),
        ),
        ("emptied", Box::new(|_, _| drop(patch(&replicas, json!({ "spec": { "holderIdentity": null } }))))),
        ("spec taken out", Box::new(|_, _| drop(patch(&replicas, json!({ "spec": null }))))),
        ("term edited up", Box::new(|_, term| annotate(&replicas, "term", &format!("{}", term.number() + 5)))),
        ("term edited down", Box::new(|_, term| annotate(&replicas, "term", &format!("{}", term.number() - 1)))),
        ("term no number", Box::new(|_, _| annotate(&replicas, "term", "many"))),
        (
            "annotations taken out",
            Box::new(|_, _| {
                drop(patch(&replicas, json!({ "metadata": { "annotations": null } })));
            }),
        ),
    ];
    for (name, edit) in edits {
        edit(active, term);
        let (next, higher) = replicas.wait_for_active(term, bound(short()));
        println!("{name}: replica {active} in term {term}, then replica {next} in term {higher}");
        let signatures = replicas.signatures();
        let last = signatures.iter().rfind(|signature| signature.term == term).unwrap().at;
        let first = signatures.iter().find(|signature| signature.term == higher).map(|signature| signature.at);
        assert!(first.is_none_or(|first| first > last), "{name}: {first:?}, {last:?}");
        (active, term) = (next, higher);
    }
    replicas.assert_terms_do_not_overlap();
    assert!(replicas.state.claims().is_sorted_by(|one, next| one < next));
}

#[test]
fn what_is_not_ours_in_the_lease_stays_and_costs_no_term() {
    let replicas = Replicas::start(Cluster::shared(), 2, short());
    let (active, term) = replicas.wait_for_active(Term::NONE, bound(short()));
    let edited = patch(
        &replicas,
        json!({
            "metadata": { "labels": { "team": "edge" }, "annotations": { "example.com/note": "kept" } },
        }),
    );
    let version = |lease: &Lease| lease.metadata.resource_version.clone().unwrap();
    let mut seen = vec![version(&edited)];
    let lease = wait_until(Duration::from_secs(20), "three more renewals", || {
        let lease = replicas.lease().ok_or("no answer")?;
        if !seen.contains(&version(&lease)) {
            seen.push(version(&lease));
        }
        if seen.len() > 3 { Ok(lease) } else { Err("not yet") }
    });
    assert_eq!(lease.metadata.labels.unwrap()["team"], "edge");
    assert_eq!(lease.metadata.annotations.unwrap()["example.com/note"], "kept");
    assert_eq!(replicas.wait_for_active(Term::NONE, Duration::ZERO), (active, term));
    assert_eq!(replicas.state.claims(), [term]);
    replicas.assert_terms_do_not_overlap();
}
