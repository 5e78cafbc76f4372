//! Who may write, and with how many requests.

use std::collections::BTreeSet;

use countersign::{
    domain::leadership::Term,
    service::ports::{MAX_OBJECT_BYTES, StateError, StateObject, StateStore},
};
use tokio::task::block_in_place;

use super::{AUTHORITY, BTreeMap, Place, TRUST, content_of, set_annotation};
use crate::cluster::Cluster;

#[tokio::test(flavor = "multi_thread")]
async fn ten_replicas_that_start_at_once_make_one_root_and_one_of_them_has_the_term() {
    let place = Place::make(Cluster::shared()).await;
    let replicas: Vec<_> = (0..10).map(|_| place.replica(&BTreeMap::new())).collect();
    let claim_all = |terms: Vec<u64>| {
        block_in_place(|| {
            let handle = tokio::runtime::Handle::current();
            std::thread::scope(|scope| {
                let claims: Vec<_> = replicas
                    .iter()
                    .zip(terms)
                    .map(|(replica, term)| {
                        let handle = handle.clone();
                        scope.spawn(move || {
                            let _entered = handle.enter();
                            replica.claim(term)
                        })
                    })
                    .collect();
                claims.into_iter().map(|claim| claim.join().unwrap()).collect::<Vec<_>>()
            })
        })
    };
    let answers = claim_all(vec![1; 10]);
    let (won, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    assert_eq!(won.len(), 1, "{won:?} {refused:?}");
    assert!(refused.iter().all(|answer| *answer == Err("refused: 1".into())), "{refused:?}");
    let root = won[0].clone().unwrap();
    assert_eq!(place.found().await.into_keys().collect::<Vec<_>>(), [AUTHORITY, TRUST]);

    // each in a term of its own: who is late finds a higher one, and nobody makes another root
    let answers = claim_all((2..12).collect());
    assert!(answers.iter().flatten().all(|one| *one == root), "{answers:?} {root}");
    for answer in answers.iter().filter_map(|answer| answer.as_ref().err()) {
        assert!(answer.starts_with("refused: ") || answer.contains("has claimed the state"), "{answer}");
    }
    let roots: BTreeSet<_> = place.found().await.into_values().map(|one| annotation(&one, "root")).collect();
    assert_eq!(roots, BTreeSet::from([root.clone()]));
    assert_eq!(place.replica(&BTreeMap::new()).claim(12).unwrap(), root);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_higher_term_fences_whoever_is_in_a_lower_one() {
    let place = Place::make(Cluster::shared()).await;
    let (first, second) = (place.replica(&BTreeMap::new()), place.replica(&BTreeMap::new()));
    first.claim(3).unwrap();
    assert_eq!(second.claim(3).unwrap_err(), "refused: 3");
    assert_eq!(first.claim(3).unwrap_err(), "refused: 3", "an equal term, also the own");
    first.claim(4).unwrap();
    let trust = block_in_place(|| first.store.load(StateObject::Trust)).unwrap().unwrap();
    assert_eq!((trust.version, trust.term), (1, Term::new(3)));

    second.claim(5).unwrap();
    let swap =
        |term| block_in_place(|| first.store.compare_and_swap(StateObject::Trust, 1, Term::new(term), &trust.content));
    let higher = first.store.higher_term();
    assert!(!higher.has_changed().unwrap());
    assert_eq!(swap(4), Err(StateError::Fenced { own: Term::new(4), found: Term::new(5) }));
    assert_eq!(*higher.borrow(), Term::new(5));
    assert!(matches!(swap(4), Err(StateError::Io(_))), "what was fenced off has claimed nothing");

    let write = |expected, content: &[u8]| {
        block_in_place(|| second.store.compare_and_swap(StateObject::Trust, expected, Term::new(5), content))
    };
    let conflict = StateError::Conflict { object: StateObject::Trust, expected: 7, found: 1 };
    assert_eq!(write(7, &trust.content), Err(conflict));
    assert_eq!(write(1, &trust.content), Ok(2));
    assert!(matches!(write(2, &vec![0; MAX_OBJECT_BYTES + 1]), Err(StateError::Io(_))));
    let found = place.found().await;
    assert_eq!(
        (annotation(&found[TRUST], "version"), annotation(&found[TRUST], "writer-term")),
        ("2".into(), "5".into())
    );
    assert_eq!(content_of(&found[TRUST]).unwrap(), &trust.content.to_vec());
    assert!(annotation(&found[AUTHORITY], "state").contains(r#""trust":{"version":2"#), "the other one names it");
}

/// Each by its name, so that the rights can be as narrow.
#[tokio::test(flavor = "multi_thread")]
async fn a_claim_takes_four_requests_a_write_two_and_a_read_none() {
    let place = Place::make(Cluster::shared()).await;
    place.replica(&BTreeMap::new()).claim(1).unwrap();
    let replica = place.replica(&BTreeMap::new());
    let before = requests(&place).len();
    replica.claim(2).unwrap();
    assert_eq!(verbs(&place, before), ["get", "get", "update", "update"]);

    let before = requests(&place).len();
    let trust = block_in_place(|| replica.store.load(StateObject::Trust)).unwrap().unwrap();
    block_in_place(|| replica.store.load(StateObject::Authority)).unwrap().unwrap();
    assert_eq!(verbs(&place, before), [""; 0]);
    block_in_place(|| replica.store.compare_and_swap(StateObject::Trust, 1, Term::new(2), &trust.content)).unwrap();
    assert_eq!(verbs(&place, before), ["update", "update"]);

    let all = requests(&place);
    assert!(all.iter().all(|one| !one.denied && ["get", "update", "create"].contains(&one.verb.as_str())), "{all:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_and_annotations_of_others_are_kept_and_are_no_change() {
    let place = Place::make(Cluster::shared()).await;
    let replica = place.replica(&BTreeMap::new());
    let root = replica.claim(1).unwrap();
    for name in [AUTHORITY, TRUST] {
        place
            .edit(name, |secret| {
                secret.metadata.labels.get_or_insert_default().insert("owner".into(), "platform".into());
                set_annotation(secret, "of-a-later-version", "x");
            })
            .await;
    }
    let trust = block_in_place(|| replica.store.load(StateObject::Trust)).unwrap().unwrap();
    block_in_place(|| replica.store.compare_and_swap(StateObject::Trust, 1, Term::new(1), &trust.content)).unwrap();
    assert_eq!(place.replica(&replica.lease()).claim(2).unwrap(), root);
    for secret in place.found().await.into_values() {
        assert_eq!(secret.metadata.labels.as_ref().unwrap()["owner"], "platform");
        assert_eq!(annotation(&secret, "of-a-later-version"), "x");
    }
}

fn requests(place: &Place<'_>) -> Vec<crate::cluster::AuditedRequest> {
    let user = format!("system:serviceaccount:{}:countersign", place.namespace);
    place.cluster.requests().into_iter().filter(|request| request.user == user).collect()
}

fn verbs(place: &Place<'_>, before: usize) -> Vec<String> {
    requests(place).into_iter().skip(before).map(|request| request.verb).collect()
}

fn annotation(secret: &k8s_openapi::api::core::v1::Secret, name: &str) -> String {
    let annotations = secret.metadata.annotations.as_ref().unwrap();
    annotations.get(&format!("countersign.io/{name}")).cloned().unwrap_or_default()
}
