//! Policies of Services that Routes lead to change one after the other.

use super::*;

const INTERVAL: Duration = Duration::from_millis(150);
/// Of roots, after the last policy.
const OUTLIVES: Duration = Duration::from_secs(2);

fn policies(count: usize, is_routed: bool) -> Vec<(Wanted, Print)> {
    policies_in(NAMESPACE, count, is_routed)
}

/// So many in a namespace, to which Routes lead or not.
fn policies_in(namespace: &str, count: usize, is_routed: bool) -> Vec<(Wanted, Print)> {
    let roots = key_in(namespace, ObjectKind::ConfigMap, "countersign-mesh-ca");
    let policy = |number| key_in(namespace, ObjectKind::BackendTlsPolicy, &format!("{number:04}"));
    let content = if is_routed { 2 } else { 1 };
    let policies = (0..count).map(|number| wanted(policy(number), Some(roots.clone()), content));
    std::iter::once(wanted(roots.clone(), None, 100)).chain(policies).collect()
}

/// How long it takes to do all that is to be done, each at once when it may be.
fn time(model: &mut Model) -> Duration {
    let begin = model.now;
    assert!(!model.settle().is_empty());
    model.now.since(begin)
}

#[test]
fn policies_that_routes_lead_by_come_and_go_one_after_the_other() {
    let mut model = Model::new();
    model.want(policies(5, true));
    assert_eq!(time(&mut model), INTERVAL * 4);
    model.now = model.now.plus(INTERVAL);
    model.want(Vec::new());
    assert_eq!(time(&mut model), INTERVAL * 4 + OUTLIVES);
}

#[test]
fn the_others_do_not_wait_for_them() {
    let mut model = Model::new();
    model.want(policies(5, false));
    assert_eq!(time(&mut model), Duration::ZERO);
    let mut mixed = policies(2, true);
    mixed.push(wanted(policy("another"), Some(roots()), 1));
    model.want(mixed);
    let order = model.settle();
    assert_eq!(order.len(), 6, "{order:?}");
    assert!(order[..4].contains(&"apply BackendTLSPolicy app/another".to_owned()), "{order:?}");
}

#[test]
fn a_crowd_does_not_wait() {
    let mut model = Model::new();
    model.want(policies(300, true));
    let time = time(&mut model);
    assert!(time <= INTERVAL * 200 && time > INTERVAL * 190, "{time:?}");
}

#[test]
fn those_whose_turn_does_not_come_make_no_crowd_of_the_others() {
    // a namespace with policies that wait: whether Routes lead there, and what is refused in it
    let rows: [(bool, Option<ObjectKind>); 3] =
        [(false, None), (true, Some(ObjectKind::BackendTlsPolicy)), (true, Some(ObjectKind::ConfigMap))];
    for (is_routed, refused) in rows {
        for other in ["aaa", "zzz"] {
            let mut model = Model::new();
            model.ledger.want(other, policies_in(other, 400, is_routed), model.now);
            model.ledger.planned(model.now);
            let mut written: Vec<BootInstant> = Vec::new();
            let (mut is_alone, mut is_known) = (true, refused.is_none());
            while written.len() < 20 {
                let due = model.ledger.next_wake(model.now).unwrap();
                model.now = model.now.max(due);
                let Some(todo) = model.ledger.next(model.now) else { continue };
                let Todo::Apply { wanted, .. } = &todo else { panic!("{todo:?}") };
                let (kind, is_other) = (wanted.key.kind, *wanted.key.object.namespace == *other);
                if is_other && refused == Some(kind) {
                    let why = "failed calling webhook".into();
                    let failed = Outcome::Failed(WriteError::Unavailable { why, pause: None });
                    model.ledger.done(&wanted.key, failed, model.now);
                    is_known = true;
                } else {
                    if !is_other && kind == ObjectKind::BackendTlsPolicy {
                        written.push(model.now);
                    }
                    let (key, outcome) = model.perform(todo);
                    model.ledger.done(&key, outcome, model.now);
                }
                if is_known && std::mem::take(&mut is_alone) {
                    model.want(policies(20, true));
                }
            }
            let soonest = written.windows(2).map(|pair| pair[1].since(pair[0])).min().unwrap();
            assert!(soonest >= INTERVAL, "beside {other}, {is_routed} {refused:?}: after {soonest:?}");
            assert!(model.now.since(at(1)) < Duration::from_secs(60), "{:?}", model.now);
        }
    }
}

#[test]
fn from_one_more_than_two_hundred_on_nobody_waits_for_his_turn() {
    let mut turns = Turns::default();
    let service = || policy("a").object;
    let now = at(1);
    assert_eq!(turns.next(1, now), now, "the first one waits for nobody");
    for expected in [None, Some(true)] {
        turns.begin(service(), expected, now);
        assert_eq!(turns.next(1, now).since(now), INTERVAL);
        turns.end(true, now);
        let pause = if expected.is_some() { Duration::from_secs(20) } else { INTERVAL };
        for (waiting, expected) in [(0, pause), (1, pause), (199, pause), (200, pause), (201, Duration::ZERO)] {
            assert_eq!(turns.next(waiting, now).since(now), expected, "{waiting}");
        }
    }
    // which is decided anew each time: the last two hundred of a crowd wait
    assert_eq!(turns.next(5000, now), now);
    assert_eq!(turns.next(200, now).since(now), Duration::from_secs(20));
    turns.heard(now);
    assert_eq!(turns.next(200, now).since(now), Duration::from_millis(100));
    assert_eq!(turns.next(200, now.plus(Duration::from_millis(100))), now.plus(Duration::from_millis(100)));
}

#[test]
fn who_takes_over_removes_one_after_the_other_what_gateways_use() {
    let mut model = Model::new();
    model.want(policies(5, false));
    assert_eq!(time(&mut model), Duration::ZERO);
    for number in 0..5 {
        let key = policy(&format!("{number:04}"));
        let version = (900 + number).to_string().into();
        let used = SeenObject { routed: Some("s".into()), version, ..model.objects[&key].clone() };
        model.objects.insert(key.clone(), used.clone());
        model.ledger.see(Seen::Put(key, used), model.now);
    }
    model.ledger.suspend();
    model.want(Vec::new());
    assert_eq!(time(&mut model), INTERVAL * 4 + OUTLIVES);
}

fn by_sds(names: &[&str]) -> Vec<(Wanted, Print)> {
    let objects = |name: &&str| [wanted(secret(name), None, 101), wanted(policy(name), Some(secret(name)), 2)];
    names.iter().flat_map(objects).collect()
}

fn wait(model: &mut Model, millis: u64) {
    model.now = model.now.plus(Duration::from_millis(millis));
}

#[test]
fn where_proxies_are_heard_the_next_waits_for_them() {
    let mut model = Model::new();
    model.want(by_sds(&["a", "b", "c"]));
    let first = ["apply Secret app/a", "apply Secret app/b", "apply Secret app/c", "apply BackendTLSPolicy app/a"];
    assert_eq!(model.step(), first);
    assert!(model.ledger.turns.awaited().unwrap().1);
    wait(&mut model, 19_900);
    assert!(model.step().is_empty(), "nothing was heard");
    model.ledger.turns.heard(model.now);
    wait(&mut model, 999);
    assert!(model.step().is_empty(), "who is slow has a longer margin");
    wait(&mut model, 1);
    assert_eq!(model.step(), ["apply BackendTLSPolicy app/b"]);
    // from now on nobody is heard
    wait(&mut model, 20_000);
    assert_eq!(model.step(), ["apply BackendTLSPolicy app/c"]);
    model.want(Vec::new());
    wait(&mut model, 19_900);
    assert!(model.step().is_empty(), "proxies may be stuck: they are given time");
    wait(&mut model, 100);
    assert_eq!(model.step(), ["remove BackendTLSPolicy app/a"]);
    assert!(!model.ledger.turns.awaited().unwrap().1);
    wait(&mut model, 20);
    model.ledger.turns.heard(model.now);
    wait(&mut model, 100);
    assert_eq!(model.step(), ["remove BackendTLSPolicy app/b"]);
    wait(&mut model, 1_880);
    assert_eq!(model.step(), ["remove Secret app/a"]);
}

#[test]
fn nobody_holds_up_the_others_for_long_and_who_is_stuck_is_given_time_again_and_again() {
    for is_every_second_heard in [false, true] {
        let mut model = Model::new();
        let names: Vec<String> = (0..70).map(|number| format!("{number:02}")).collect();
        model.want(by_sds(&names.iter().map(String::as_str).collect::<Vec<_>>()));
        model.step();
        let mut pauses = Vec::new();
        for number in 1..names.len() {
            let begin = model.now;
            if is_every_second_heard && number % 2 == 0 {
                model.ledger.turns.heard(model.now);
            }
            while model.step().is_empty() {
                wait(&mut model, 1000);
            }
            pauses.push(model.now.since(begin).as_secs());
        }
        let long: Vec<_> = pauses.iter().filter(|pause| **pause != 1).collect();
        let rests = if is_every_second_heard { 1 } else { 2 };
        assert_eq!(long, [&[&20; 3][..], &[&35; 2][..rests]].concat());
    }
}

#[test]
fn who_is_heard_many_times_in_a_row_is_waited_for_again() {
    let mut turns = Turns::default();
    let service = || policy("a").object;
    let mut now = at(1);
    for is_heard in [[false; 5].as_slice(), &[true; 50], &[false]].concat() {
        now = now.plus(Duration::from_secs(100));
        turns.begin(service(), Some(true), now);
        turns.end(true, now);
        if is_heard {
            turns.heard(now);
        }
    }
    assert_eq!(turns.next(1, now).since(now), Duration::from_secs(20));
}

#[test]
fn who_can_be_heard_no_more_is_waited_for_no_more_and_was_not_silent() {
    let mut turns = Turns::default();
    for second in 1..10 {
        turns.begin(policy("a").object, Some(true), at(second));
        turns.end(true, at(second));
        turns.expect_nobody(at(second));
        assert_eq!(turns.next(1, at(second)).since(at(second)), INTERVAL);
    }
    turns.begin(policy("a").object, Some(true), at(10));
    turns.end(true, at(10));
    assert_eq!(turns.next(1, at(10)).since(at(10)), Duration::from_secs(20), "nobody was silent before");
}
