mod any_order;

use super::*;
use crate::domain::{
    authority::testing::authority,
    x509::{Certificate, TrustBundle},
};

fn roots(certificates: &[&Certificate]) -> OwnRoots {
    let bundle = TrustBundle::new("td".parse().unwrap(), certificates.iter().copied().cloned().collect()).unwrap();
    OwnRoots::new(&bundle.to_pem(), &bundle, "countersign")
}

fn root() -> Certificate {
    authority().certificate().clone()
}

fn at(seconds: u64) -> BootInstant {
    BootInstant::from_nanos((1000 + seconds) * 1_000_000_000)
}

fn object(version: u64, found: FoundRoots) -> PlacedObject {
    PlacedObject { version: version.to_string(), found }
}

fn foreign(version: u64) -> PlacedObject {
    object(version, FoundRoots::read(Some(&root().to_pem()), None))
}

fn edited(version: u64, roots: &OwnRoots) -> PlacedObject {
    object(version, FoundRoots::read(Some("edited"), Some(roots.mark())))
}

fn write(place: &str, version: Option<&str>) -> Option<Write> {
    Some(Write { place: place.into(), version: version.map(Into::into) })
}

fn listed(places: &[&str], objects: Vec<(String, PlacedObject)>) -> (Distribution, OwnRoots) {
    let ours = roots(&[&root()]);
    let mut distribution = Distribution::new(ours.clone(), false);
    distribution.see(Seen::Objects(objects), at(0));
    assert_eq!((distribution.next(at(0)), distribution.next_wake(at(0))), (None, None));
    distribution.see(Seen::Places(places.iter().map(|name| (*name).to_owned()).collect()), at(0));
    (distribution, ours)
}

fn written(distribution: &mut Distribution, place: &str, version: u64, now: BootInstant) {
    let found = distribution.roots().as_found();
    distribution.wrote(place, Outcome::Written(object(version, found)), now);
}

#[test]
fn each_place_without_our_roots_is_written_once() {
    let ours = roots(&[&root()]);
    let mut distribution = Distribution::new(ours.clone(), false);
    distribution.see(Seen::Places(vec!["a".into(), "b".into(), "c".into()]), at(0));
    assert_eq!(distribution.next(at(0)), None, "not before all objects are known");
    let objects = vec![
        ("a".into(), object(1, ours.as_found())),
        ("b".into(), object(2, FoundRoots::read(None, None))),
        ("x".into(), foreign(3)),
    ];
    distribution.see(Seen::Objects(objects), at(0));
    assert_eq!(distribution.next_wake(at(0)), Some(at(0)));
    assert_eq!(distribution.next(at(0)), write("b", Some("2")));
    assert_eq!(distribution.next(at(0)), write("c", None));
    assert_eq!((distribution.next(at(0)), distribution.next_wake(at(0))), (None, None));
    written(&mut distribution, "b", 4, at(0));
    written(&mut distribution, "c", 5, at(0));
    distribution.see(Seen::Object("c".into(), object(5, ours.as_found())), at(0));
    assert_eq!(distribution.next(at(0)), None);
    assert_eq!(distribution.summary(), Summary { wanted: 3, right: 3, ..Summary::default() });
}

#[test]
fn what_happens_to_one_goes_before_what_all_get() {
    let names: Vec<String> = (0..100).map(|number| format!("n{number:02}")).collect();
    let (mut distribution, _) = listed(&names.iter().map(String::as_str).collect::<Vec<_>>(), Vec::new());
    assert_eq!(distribution.next(at(0)), write("n00", None));
    distribution.see(Seen::Wanted("new".into()), at(0));
    assert_eq!(distribution.next(at(0)), write("new", None));
    assert_eq!(distribution.next(at(0)), write("n01", None));
}

#[test]
fn a_place_that_is_going_is_left_alone() {
    let (mut distribution, _) = listed(&["a"], Vec::new());
    distribution.see(Seen::NotWanted("a".into()), at(0));
    assert_eq!(distribution.next(at(0)), None);
    assert!(distribution.places.is_empty());
}

#[test]
fn other_peoples_roots_are_a_conflict_until_they_go_or_are_adopted() {
    let (mut distribution, _) = listed(&["a"], vec![("a".into(), foreign(1))]);
    assert_eq!(distribution.next(at(0)), None);
    assert_eq!(distribution.summary().conflicts, ["a"]);
    distribution.see(Seen::ObjectGone("a".into()), at(1));
    assert_eq!(distribution.next(at(1)), write("a", None));

    let mut adopting = Distribution::new(roots(&[&root()]), true);
    adopting.see(Seen::Places(vec!["a".into()]), at(0));
    adopting.see(Seen::Objects(vec![("a".into(), foreign(1))]), at(0));
    assert_eq!(adopting.next(at(0)), write("a", Some("1")));
}

#[test]
fn a_writer_that_insists_is_reported_and_left_until_its_object_goes_or_our_roots_change() {
    let (mut distribution, ours) = listed(&["a"], Vec::new());
    assert_eq!(distribution.next(at(0)), write("a", None));
    written(&mut distribution, "a", 1, at(0));
    distribution.see(Seen::Object("a".into(), edited(2, &ours)), at(10));
    assert_eq!(distribution.next(at(10)), write("a", Some("2")));
    written(&mut distribution, "a", 3, at(10));
    distribution.see(Seen::Object("a".into(), object(3, ours.as_found())), at(10));
    distribution.see(Seen::Object("a".into(), edited(4, &ours)), at(20));
    assert_eq!((distribution.next(at(100)), distribution.next_wake(at(100))), (None, None));
    assert_eq!(distribution.summary().fights, ["a"]);

    distribution.see(Seen::ObjectGone("a".into()), at(200));
    assert_eq!(distribution.next(at(200)), write("a", None));
    written(&mut distribution, "a", 5, at(200));
    distribution.see(Seen::Object("a".into(), edited(6, &ours)), at(201));
    assert_eq!(distribution.next(at(500)), None);
    distribution.set_roots(ours, at(500));
    assert_eq!(distribution.next(at(500)), write("a", Some("6")));
}

#[test]
fn our_own_change_of_roots_is_no_reversal_whichever_is_heard_of_first() {
    let (one, two) = (root(), root());
    let mut distribution = Distribution::new(roots(&[&one]), false);
    distribution.see(Seen::Places(vec!["a".into()]), at(0));
    distribution.see(Seen::Objects(vec![("a".into(), object(1, roots(&[&one]).as_found()))]), at(0));
    for (version, ours) in [(2, roots(&[&one, &two])), (3, roots(&[&two])), (4, roots(&[&one, &two]))] {
        let now = at(version * 100);
        distribution.set_roots(ours.clone(), now);
        assert_eq!(distribution.next(now), write("a", Some(&(version - 1).to_string())));
        distribution.see(Seen::Object("a".into(), object(version, ours.as_found())), now);
        written(&mut distribution, "a", version, now);
        assert_eq!(distribution.next(now), None);
        assert_eq!(distribution.places["a"].reversals, Reversals::default());
    }
}

#[test]
fn what_fails_is_tried_ever_less_often_and_told() {
    let (mut distribution, _) = listed(&["a"], Vec::new());
    let mut now = 0;
    for pause in [1, 2, 4, 8, 16, 32, 64, 64] {
        assert_eq!(distribution.next(at(now)), write("a", None));
        distribution.wrote("a", Outcome::Failed, at(now));
        assert_eq!((distribution.next(at(now)), distribution.next_wake(at(now))), (None, Some(at(now + pause))));
        assert_eq!(distribution.summary().failing, ["a"]);
        now += pause;
    }
    assert_eq!(distribution.next(at(now)), write("a", None));
    written(&mut distribution, "a", 1, at(now));
    assert_eq!(distribution.summary().right, 1);
}

#[test]
fn a_place_that_is_deleted_again_and_again_is_written_ever_less_often() {
    let (mut distribution, _) = listed(&["a"], Vec::new());
    let mut now = 0;
    for pause in [0, 0, 1, 2] {
        now += pause;
        assert_eq!(distribution.next(at(now)), write("a", None), "{pause}");
        written(&mut distribution, "a", now, at(now));
        distribution.see(Seen::ObjectGone("a".into()), at(now));
    }
    assert_eq!(distribution.next(at(now)), None);
    assert_eq!(distribution.next_wake(at(now)), Some(at(now + 4)));
}

#[test]
fn queues_hold_each_place_once() {
    let (mut distribution, ours) = listed(&["a"], Vec::new());
    for version in 0..1000 {
        distribution.see(Seen::Object("a".into(), edited(version, &ours)), at(0));
        distribution.see(Seen::Places(vec!["a".into()]), at(0));
    }
    assert!(distribution.urgent.len() + distribution.rest.len() + distribution.later.len() <= 3);
}
